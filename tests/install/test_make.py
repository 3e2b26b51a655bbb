"""`make` makes .venv, and again where a first try has left half of one, or another Python's."""

from __future__ import annotations

import ensurepip
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("Makefile", "venv.sh", "pyproject.toml", "constraints-cpu.txt")


def make(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MAKE"))}
    return subprocess.run(
        ["make", *words],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
    )


def without_ensurepip(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As on Debian without python3-venv; 77, or 1, where nothing can be mounted."""
    hide = f"mount -t tmpfs none {Path(ensurepip.__file__).parent} || exit 77"
    script = f'{hide}; exec make "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *words],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


def test_a_failed_first_try_heals(tmp_path: Path) -> None:
    for name in NEEDED:
        shutil.copy(ROOT / name, tmp_path)
    python, environment = f"PYTHON={sys.executable}", tmp_path / ".venv"
    failed = without_ensurepip(tmp_path, "asked", python)
    if failed.returncode not in (1, 77):
        assert failed.returncode == 2 and "once what it says is there" in failed.stderr
        assert not environment.exists()

    # what earlier tries left, whose stamp says that all is installed
    venv.create(environment, with_pip=False)
    (environment / ".test-installed").touch()
    healed = make(tmp_path, "-j4", "setup", python, "PIP=echo with pip")
    assert healed.returncode == 0, healed.stderr
    assert "made again" in healed.stdout and "with pip -e .[test" in healed.stdout
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--version"]
    assert subprocess.run(pip, capture_output=True).returncode == 0

    again = make(tmp_path, "setup", python, "PIP=echo with pip")
    assert (again.returncode, again.stderr) == (0, "") and "pip" not in again.stdout

    # a Python that is none of those needed: nothing is removed for it
    project = tmp_path / "pyproject.toml"
    project.write_text(re.sub(">=3.11,<3.14", ">=3.98,<3.99", project.read_text()))
    version = sys.version.split()[0]
    for asked in ([], [python]):
        refused = make(tmp_path, "setup", *asked)
        said = refused.stderr.splitlines()[0]
        assert said.startswith("needs Python >=3.98,<3.99, and ") and "make PYTHON=" in said
        assert not asked or f"{sys.executable} is Python {version};" in said
        assert refused.returncode == 2 and environment.exists()


def test_an_environment_of_uv_is_left_alone(tmp_path: Path) -> None:
    for name in NEEDED:
        shutil.copy(ROOT / name, tmp_path)
    environment = tmp_path / ".venv"
    venv.create(environment, with_pip=False)
    with (environment / "pyvenv.cfg").open("a") as file:
        file.write("uv = 0.9\n")
    assert ".venv is uv's" in make(tmp_path, "asked").stderr
    assert environment.exists()
