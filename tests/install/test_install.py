"""The program runs from anywhere: from its wheel, an editable install and a checkout.

Each has a virtual environment of its own, which finds the libraries of this one and nothing of this
checkout, and a copy of the tree, whose path has a space; the commands run in an empty folder. The
wheel is made of an archive of the sources, a checkout that an editable install leads to is on a
read-only mount, and what is installed needs no folder of the caller's in Python's path. pipx wants
the libraries themselves, so its environment has its own (a minute and 1 GB).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import refit
from tests.support.sample import thorough

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints-cpu.txt"
TREE = (
    "refit", "sweeper", "hydra_plugins", "conf", "pyproject.toml", "setup.py", ".gitattributes",
    "README.md", "LICENSE",
)  # fmt: skip
SMALL = (
    "build=shards", "model.num_layers=1", "model.hidden_size=64", "model.num_attention_heads=4",
    "model.num_query_groups=4", "model.ffn_hidden_size=64", "model.vocab_size=128",
    "bench.iterations=1",
)  # fmt: skip


PAGE = (".html", ".css", ".js")
"""What a report's page is made of."""

READ_ONLY = (
    *("unshare", "--mount", "sh", "-c"),
    'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"',
)
"""Runs a command below which the folder that follows cannot be written, where root may say so."""


@dataclass(frozen=True)
class Install:
    """One way to have the program.

    Attributes:
        python: of its environment.
        code: the folder that the package must come from.
        program: what is typed for `refit.run`.
        home: where a user of it stands; None: in a folder of their own.
        below: a command that every other is an argument of.
    """

    python: Path
    code: Path
    program: tuple[str, ...]
    home: Path | None = None
    below: tuple[str, ...] = ()

    def run(self, where: Path, *words: str, code: int = 0) -> str:
        """What a command prints; `python` stands for this environment's own."""
        command = [str(self.python) if word == "python" else word for word in words]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        if self.home is None:
            environment["PYTHONSAFEPATH"] = "1"
        done = subprocess.run(
            [*self.below, *command],
            cwd=self.home or where,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr


def copy_of_the_tree(folder: Path) -> Path:
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder)
    return folder


def built(tree: Path, how: str) -> Path:
    """What its own build backend makes of the tree: `build_wheel`, `build_editable`, ..."""
    code = f"from setuptools import build_meta; print(build_meta.{how}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=True
    )
    return tree / "dist" / done.stdout.splitlines()[-1]


def environment(folder: Path, *wheels: Path) -> Path:
    """The Python of a new environment with these wheels, and this one's libraries."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    for wheel in wheels:
        subprocess.run(
            [sys.executable, "-m", "pip", "-q", "--python", str(python), "install", "--no-deps",
             "--no-index", str(wheel)],
            check=True,
        )  # fmt: skip
    # A path that a .pth file adds has none of its own .pth files read: no editable install of here
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def by_pipx(folder: Path, wheel: Path) -> Install:
    """What pipx makes of a wheel, with the libraries that it resolves."""
    home, programs = folder / "pipx", folder / "bin"
    constraints = {} if shutil.which("nvidia-smi") else {"PIP_CONSTRAINT": str(CONSTRAINTS)}
    environment = {
        **os.environ, "PIPX_HOME": str(home), "PIPX_BIN_DIR": str(programs), **constraints
    }  # fmt: skip
    command = [sys.executable, "-m", "pipx", "install", "--python", sys.executable, str(wheel)]
    subprocess.run(command, env=environment, check=True)
    python = home / "venvs" / "refit-sweep" / "bin" / "python"
    return Install(python, python.parents[1], (str(programs / "refit-sweep"),))


@pytest.fixture(
    scope="module", params=["wheel", thorough("editable"), "checkout", thorough("pipx")]
)
def install(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Install:
    root = tmp_path_factory.mktemp(request.param)
    tree = copy_of_the_tree(root / "a tree")
    # somebody else's repository around all of it, whose commit is not that of this code
    git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    if request.param == "checkout":
        return Install(environment(root / "env"), tree, ("python", "-m", "refit.run"), tree)
    editable = request.param == "editable"
    if request.param == "pipx":
        return by_pipx(root, built(tree, "build_wheel"))
    if not editable:
        with tarfile.open(built(tree, "build_sdist")) as archive:
            # it came to 3.11 with 3.11.4; Debian 12 has 3.11.2
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(root, **safe)  # type: ignore[arg-type]
        (tree,) = root.glob("refit_sweep-*")
    python = environment(root / "env", built(tree, "build_editable" if editable else "build_wheel"))
    console = str(python.with_name("refit-sweep"))
    if not editable:
        return Install(python, root / "env", (console,))
    below = (*READ_ONLY, str(tree))
    possible = subprocess.run([*below, "true"], capture_output=True).returncode == 0
    return Install(python, tree, (console,), below=below if possible else ())


def test_the_code_is_the_one_installed(install: Install, tmp_path: Path) -> None:
    code = "import refit, sweeper, hydra_plugins.refit_sweeper as p; from refit import schema;"
    code += "print(refit.__file__, sweeper.__file__, p.__file__, schema.CONF, sep='\\n')"
    for line in install.run(tmp_path, "python", "-c", code).splitlines():
        assert Path(line).is_relative_to(install.code)


def test_one_version(install: Install, tmp_path: Path) -> None:
    """What an install's metadata says is what the code says, in a checkout without any too."""
    code = "import refit; print(refit.__version__)"
    if install.home is None:
        code += "; import importlib.metadata as m; print(m.version('refit-sweep'))"
    assert {*install.run(tmp_path, "python", "-c", code).split()} == {refit.__version__}
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_types_of_an_install_are_believed(install: Install, tmp_path: Path) -> None:
    if install.python.parents[1] != install.code:
        pytest.skip("mypy follows a wheel's py.typed; a checkout needs none")
    (tmp_path / "mine.py").write_text(
        "from refit.job import Degrees\n"
        "from sweeper.decisions import keeps\n"
        "Degrees(tp='two')\n"
        "keeps(mode=1, record=None)\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--cache-dir=cache", "mine.py"]
    done = subprocess.run(
        [*mypy, f"--python-executable={install.python}"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
    )  # fmt: skip
    errors = [line.partition(" error: ")[2] for line in done.stdout.splitlines()]
    assert errors[:-1] == [
        'Argument "tp" to "Degrees" has incompatible type "str"; expected "int"  [arg-type]',
        'Argument "mode" to "keeps" has incompatible type "int"; expected "str"  [arg-type]',
    ], done.stdout + done.stderr


def test_a_point_runs_and_its_results_are_where_the_user_stands(
    install: Install, tmp_path: Path
) -> None:
    where = install.home or tmp_path
    shutil.rmtree(where / "results", ignore_errors=True)
    assert "verified bit for bit" in install.run(tmp_path, *install.program, *SMALL)
    (timing,) = where.glob("results/*/timing.json")
    record = json.loads(timing.read_text())
    assert (record["status"], record["verification"]["mismatches"]) == ("ok", 0)
    # no repository is this code's own here, and none is named in its place
    assert record["environment"]["commit"] is None
    assert "ok" in install.run(tmp_path, "python", "-m", "sweeper.status", "results")
    assert "1 records" in install.run(tmp_path, "python", "-m", "sweeper.collect", "results")


def test_a_sweep_of_predictions(install: Install, tmp_path: Path) -> None:
    said = install.run(
        tmp_path, *install.program, "-m", "mode=plan", "refit=ipc,gloo", "cluster=cpu",
        "hydra.sweep.dir=planned",
    )  # fmt: skip
    assert "2 points: 2 ok" in said
    assert len([*(install.home or tmp_path).glob("planned/*/timing.json")]) == 2


def test_other_programs_and_the_config(install: Install, tmp_path: Path) -> None:
    assert "moe_16e" in install.run(tmp_path, *install.program, "--cfg", "job")
    assert "gpt" in install.run(tmp_path, "python", "-m", "refit.workloads", "--ep", "2")
    advice = ("python", "-m", "refit.advise", "model=qwen3_30b_a3b", "gpus=32", "cluster=h100")
    assert "place" in install.run(tmp_path, *advice)
    assert "[1]" in install.run(tmp_path, "python", "-m", "refit.published")


def test_the_one_command(install: Install, tmp_path: Path) -> None:
    command = install.program if install.home is None else ("python", "-m", "sweeper")
    assert "collect" in install.run(tmp_path, *command, "--help")
    assert "refit-sweep " in install.run(tmp_path, *command, "--version")
    planned = ("plan", "hardware=b200", f"hydra.run.dir={tmp_path / 'planned'}")
    assert "Estimate" in install.run(tmp_path, *command, *planned)
    assert "1 ok" in install.run(tmp_path, *command, "status", str(tmp_path / "planned"))
    assert "1 records" in install.run(tmp_path, *command, "collect", str(tmp_path / "planned"))


def write_own_files(folder: Path) -> None:
    """A model, a pair and a cluster of a user's own, and a model of a shipped one's name.

    Beside them the config of another program of theirs, which must not take the place of ours.
    """
    options = {
        "config.yaml": "learning_rate: 1e-3\n",
        "model/mine.yaml": "defaults: [dense]\nname: mine\nnum_layers: 2\n",
        "parallel/my_pair.yaml": (
            "name: my_pair\nmode: collocated\nsource: {tp: 2}\ndestination: {tp: 1, gpus: 2}\n"
        ),
        "cluster/my_cluster.yaml": "defaults: [local]\nname: my_cluster\nranks_per_node: 4\n",
        "model/moe_8e.yaml": "defaults: [dense]\nname: my_own_moe_8e\n",
    }
    for name, text in options.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("how", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_a_users_own_files(install: Install, tmp_path: Path, how: str) -> None:
    write_own_files(tmp_path / "my_conf")
    own = how.format(tmp_path / "my_conf")
    mine = ("model=mine", "parallel=my_pair", "cluster=my_cluster", "mode=plan")
    said = install.run(tmp_path, *install.program, own, *mine, f"hydra.run.dir={tmp_path / 'one'}")
    assert "my_pair" in said and "predicted" in said
    (record,) = (json.loads(p.read_text()) for p in tmp_path.glob("one/*/timing.json"))
    names = [record["config"][group]["name"] for group in ("model", "parallel", "cluster")]
    assert names == ["mine", "my_pair", "my_cluster"]
    assert record["config"]["cluster"]["ranks_per_node"] == 4
    # of two options of one name the user's is taken, and a glob meets both folders
    assert "my_own_moe_8e" in install.run(
        tmp_path, *install.program, own, "model=moe_8e", "--cfg", "job"
    )
    dry = install.run(
        tmp_path, *install.program, own, "-m", "parallel=glob(*)", "sweep.dry_run=true"
    )
    assert "my_pair" in dry and "noncollocated_1" in dry


def test_a_folder_that_is_not_there(install: Install, tmp_path: Path) -> None:
    said = install.run(tmp_path, *install.program, "--config-dir=nowhere", code=2)
    assert "nowhere' not found" in said and len(said.splitlines()) == 1


def test_a_shell_completes_options(install: Install, tmp_path: Path) -> None:
    if install.home is not None:
        pytest.skip("Hydra completes for a program on PATH, and a checkout has none")
    program = Path(install.program[0])
    # as bash does it: the function that is installed is called, and fills COMPREPLY
    script = f"""
        export PATH={program.parent}:$PATH
        eval "$(refit-sweep -sc install=bash)"
        COMP_LINE="refit-sweep run parallel=collocated_" COMP_POINT=37
        COMP_WORDS=(refit-sweep run parallel = collocated_) COMP_CWORD=4
        $(complete -p refit-sweep | sed -E 's/.*-F ([^ ]+).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    said = install.run(tmp_path, "bash", "-c", script)
    assert "collocated_1_tp4ep2_to_tp2ep4" in said and "collocated_4" in said


def test_the_wheel_holds_every_file_and_its_commit(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    wheel = built(tree, "build_wheel")
    stamped = zipfile.ZipFile(wheel).read("refit/built_from.py").decode()
    assert f'COMMIT: str = "{commit}"' in stamped and "DIRTY: bool | None = False" in stamped
    # nothing was written into the checkout, and git writes it into an archive
    assert "$Format" in (tree / "refit" / "built_from.py").read_text()
    archive = [*git, "archive", "HEAD", "refit/built_from.py"]
    assert f'COMMIT: str = "{commit}"'.encode() in subprocess.check_output(archive)
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders: Sequence[str] = ("refit", "sweeper", "hydra_plugins")
    code = {str(p.relative_to(ROOT)) for f in folders for p in (ROOT / f).rglob("*.py")}
    data = {str(p.relative_to(ROOT)) for p in (ROOT / "refit").rglob("*.[yj][as][mo][ln]")}
    data |= {"refit/py.typed", "sweeper/py.typed"}
    page = [p for p in (ROOT / "sweeper" / "report").iterdir() if p.suffix in PAGE]
    data |= {str(path.relative_to(ROOT)) for path in page}
    conf = {f"refit/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    typed = {f"{package}/py.typed" for package in ("refit", "sweeper")}
    assert held == code | data | conf | typed


def test_uv_installs_the_wheel(tmp_path: Path) -> None:
    wheel = built(copy_of_the_tree(tmp_path / "a tree"), "build_wheel")
    environment = {**os.environ, "UV_CACHE_DIR": str(tmp_path / "cache")}
    into = ["--offline", "--no-deps", "--python", "env"]
    for words in (["venv", "--python", sys.executable, "env"], ["pip", "install", *into, wheel]):
        command = [str(Path(sys.executable).with_name("uv")), *map(str, words)]
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    (own,) = tmp_path.glob("env/lib/python*/site-packages")
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = [str(tmp_path / "env" / "bin" / "refit-sweep"), "--cfg", "job"]
    said = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 0 and "moe_16e" in said.stdout, said.stderr
