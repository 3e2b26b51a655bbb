"""The documentation's commands run as they are printed, on small models; its links lead somewhere.

Every command of a fenced bash block is run, or is of a kind that `NOT_RUN` gives a reason for.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from runpy import run_module
from typing import Any

import pytest

from refit import import_model, import_pair
from refit.ranks.agent import Agent
from sweeper import __main__ as face
from tests.support.forks import Ended, fork_in
from tests.support.public import config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    "make": "installs, or runs what CI runs by itself",
    "pip": "installs",
    ".": "changes the shell that it is typed in",
    "benchmarks/gpu.sh": "needs GPUs, and an hour",
}
RUN = {
    "refit-sweep", "refit.run", "refit.advise", "refit.workloads", "refit.published",
    "refit.calibrate", "refit.megatron_args", "refit.model", "refit.import_model",
    "refit.import_pair", "sweeper.status", "sweeper.collect", "sweeper.report",
    "sweeper.compare", "sweeper.trace", "sweeper.export",
}  # fmt: skip

SMALL = {
    "model": "moe_8e", "model.vocab_size": "1000", "model.published_parameters": "null",
    "bench.iterations": "1", "build": "shards",
}  # fmt: skip
NEEDS_MODELS = ("megatron", "verify=logits")  # build=shards has none to give
DRY = ("cluster=slurm", "glob(")  # many points, or Slurm: composed, not run
FEWER = {"experiment=moe_workloads": "workload=glob(gpt_7b_64_*)"}


def commands(text: str) -> list[tuple[str, ...]]:
    """The words of each command in the bash blocks of a page; `a && b` is two."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append(tuple(words[:end]))
                words = words[end + 1 :]
    return found


def kind(words: Sequence[str]) -> str:
    """The program of a command, behind what it sets in the environment; or Python's module."""
    program, *rest = [w for n, w in enumerate(words) if n or "=" not in w]
    return rest[1] if program.endswith("python") and rest[:1] == ["-m"] else program


def small(words: Sequence[str], folder: Path) -> list[str]:
    """A command as it is typed, with settings added that it does not make itself."""
    typed = " ".join(words)
    if kind(words) != "refit.run" or "--cfg" in words:
        return list(words)
    where = [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
    if fewer := [FEWER[word] for word in words if word in FEWER]:
        return [*words, *fewer, *where]
    if any(word in typed for word in DRY):
        dry = [] if "sweep.dry_run=true" in words else ["sweep.dry_run=true"]
        return [*words, *dry, *where]
    added = {k: v for k, v in SMALL.items() if f" {k}=" not in typed}
    if any(word in typed for word in NEEDS_MODELS):
        added.pop("build", None)
    return [*words, *(f"{k}={v}" for k, v in added.items()), *where]


def run(words: Sequence[str], where: Path) -> Ended:
    """Run a command in a folder, with this checkout's code; without a new Python for each."""
    if words[0] == "refit-sweep":
        return fork_in(where, face.main, *words[1:])
    python, option, module, *rest = words
    assert (python, option) == ("python", "-m")
    return fork_in(where, lambda: run_module(module, run_name="__main__", alter_sys=True), *rest)


def failure(words: Sequence[str], where: Path, folder: Path) -> str | None:
    """Why a command does not do what its page says, or None.

    Args:
        where: the folder to stand in.
        folder: a new one, for the results.
    """
    done = run(small(words, folder), where)
    if done.code or not done.stdout or "Traceback" in done.stderr:
        return f"{shlex.join(words)}: exit code {done.code}\n{done.stdout}{done.stderr}"
    records = [json.loads(path.read_text()) for path in folder.glob("*/timing.json")]
    if kind(words) == "refit.run" and "bench.iterations" in " ".join(small(words, folder)):
        return None if records and all(r["status"] == "ok" for r in records) else done.stdout
    return None


SCRIPT = """
python3 train.py --actor-num-nodes 1 --colocate --tensor-model-parallel-size 2 \\
  --rollout-num-gpus-per-engine ${ROLLOUT_TP:-2}
"""
ALL = [(page, words) for page in PAGES for words in commands(page.read_text())]
SWEEP = ("python", "-m", "refit.run", "-m", "refit=ipc,gloo")  # its results others read
RUNS = [(page, words) for page, words in ALL if kind(words) not in NOT_RUN and words != SWEEP]


def covering(runs: Sequence[tuple[Path, tuple[str, ...]]]) -> Iterator[Any]:
    """All of them; `thorough` where earlier ones have each setting, program and option."""
    seen: set[tuple[str, str]] = set()
    for page, words in runs:
        said = {(kind(words), word.partition("=")[0]) for word in words}
        marks = [pytest.mark.thorough] if said <= seen else []
        yield pytest.param(page, words, id=f"{page.stem}: {shlex.join(words)}", marks=marks)
        seen |= said


@pytest.fixture(scope="module")
def where(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to stand in: with results, a config.json, and places for options of one's own.

    The commands' ranks come from the agent's server, where megatron-core is imported once.
    """
    folder = tmp_path_factory.mktemp("user")
    (folder / "conf" / "cluster").mkdir(parents=True)
    config_json = folder / "config.json"
    config_json.write_text(json.dumps(config("Qwen/Qwen3-0.6B")))
    (folder / "run.sh").write_text(SCRIPT)
    made = ["--output", str(folder / "my_conf")]
    import_model.main([str(config_json), *made, "--name", "mine"])
    import_pair.main([str(folder / "run.sh"), *made, "--name", "mine", "--model", "mine"])
    assert failure(SWEEP, folder, folder / "results") is None
    return folder


def test_the_sweep_whose_results_are_read_is_a_command_of_readme(where: Path) -> None:
    assert (ROOT / "README.md", SWEEP) in ALL and len(
        list(where.glob("results/*/timing.json"))
    ) == 2


def test_every_command_is_run_or_has_a_reason_not_to() -> None:
    assert {kind(words) for _, words in ALL} <= RUN | set(NOT_RUN)
    # counted without the finder, which must not lose any; docs/slurm.md's dry runs, which are in
    # blocks of sh, are held word for word by tests/unit/sweeper/test_dry_run.py
    pages = [page for page in PAGES if page.name != "slurm.md"]
    lines = [line for page in pages for line in page.read_text().splitlines()]
    typed = sum(line.startswith(("python -m ", "make ")) for line in lines)
    assert typed == sum(words[0] in ("python", "make") for p, words in ALL if p in pages) > 20


@pytest.mark.parametrize(("page", "words"), list(covering(RUNS)))
def test_the_command_runs(page: Path, words: tuple[str, ...], where: Path, tmp_path: Path) -> None:
    assert failure(words, where, tmp_path) is None


@pytest.mark.parametrize(
    ("typed", "broken", "reason"),
    [
        ("parallel.destination.tp=4", "parallel.source.qq=2", "unknown field 'parallel.source.qq'"),
        ("sweep.wait=false", "sweep.waits=false", "did you mean wait?"),
        ("refit.mode=collocated", "refit.mode=together", "refit.mode=together"),
        ("sweeper.collect results", "sweeper.collect nowhere", "nowhere"),
    ],
)
def test_a_broken_command_is_caught(
    typed: str, broken: str, reason: str, where: Path, tmp_path: Path
) -> None:
    page = (ROOT / "README.md").read_text()
    assert page.count(typed) == 1
    (words,) = set(commands(page.replace(typed, broken))) - set(commands(page))
    assert reason in (failure(words, where, tmp_path) or "")


def test_the_finder() -> None:
    page = (
        "```bash\nmake a && b.sh -x  # why\n\nX=1 c.sh 'glob(*)' \\\n    d=1\n```\n"
        "```\nno command\n```\n```bash\npython -m e\n```\n"
    )
    found = commands(page)
    assert found == [
        ("make", "a"), ("b.sh", "-x"), ("X=1", "c.sh", "glob(*)", "d=1"), ("python", "-m", "e"),
    ]  # fmt: skip
    assert [kind(words) for words in found] == ["make", "b.sh", "c.sh", "e"]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_are_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert link.startswith("https://") or file.exists(), link
        assert not anchor or anchor in anchors(file), link
    for name in re.findall(r"`((?:conf|docs|refit|sweeper|tests|benchmarks)/[\w/.-]*)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CONTRIBUTING.md"], ids=str)
def test_lines_are_short(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [x for x in lines if len(x) > 100 and not x.startswith("|") and "](" not in x] == []
