"""The directions between the rooms hold, and the check that says so can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the tree, to break."""
    for name in ("refit", "sweeper"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(house: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT, "--no-cache"], cwd=house, capture_output=True, text=True)


def test_every_room_keeps_to_its_direction(house: Path) -> None:
    done = lint(house)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("refit/plan/plan.py", "from refit.ranks import agent", "refit.plan -> refit.ranks"),
        ("refit/layout/layout.py", "from refit.plan import plan", "refit.layout -> refit.plan"),
        ("refit/cli.py", "from sweeper import status", "refit -> sweeper"),
        ("refit/record/limits.py", "import torch", "refit.record -> torch"),
        # through a room's __init__, and inside a function, where it would not run at once
        ("refit/rules/__init__.py", "from refit.weights import pattern", "refit.rules -> refit.we"),
        ("refit/forecast/fit.py", "def f(): import megatron", "refit.forecast -> megatron"),
    ],
)
def test_a_wrong_import_is_found(house: Path, module: str, line: str, broken: str) -> None:
    with (house / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(house)
    assert done.returncode == 1, done.stdout
    said = done.stdout.replace(" is not allowed to import ", " -> ")
    assert broken in said


def test_a_module_outside_the_rooms_is_found(house: Path) -> None:
    (house / "refit" / "utils.py").write_text('"""A place for everything."""\n')
    done = lint(house)
    assert done.returncode == 1
    assert "utils" in done.stdout


def test_every_module_says_what_it_is_for() -> None:
    for path in [*ROOT.glob("refit/**/*.py"), *ROOT.glob("sweeper/**/*.py")]:
        first = path.read_text().splitlines()[0]
        assert first.startswith('"""') and len(first) > 20, path


@pytest.mark.parametrize(
    ("pattern", "owner"),
    [
        (r"\bhydra\._internal\b", "refit/hydra_side.py"),
        (r"(?m)^\s*(import|from) submitit\b", "sweeper/submitit_side.py"),
    ],
)
def test_private_names_of_others_stand_in_one_file(pattern: str, owner: str) -> None:
    rooms = ("refit", "sweeper", "hydra_plugins")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    users = {str(p.relative_to(ROOT)) for p in files if re.search(pattern, p.read_text())}
    assert users == {owner}


def test_what_may_break_with_a_new_version_is_bounded() -> None:
    """By a minor version: the libraries promise nothing of their private names."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {r.name: str(r.specifier) for r in map(Requirement, needed)}
    assert "<1.4" in bounds["hydra-core"] and "<1.6" in bounds["submitit"]
    assert bounds["submitit"].count("1.5") == 1 and bounds["hydra-core"].count("1.3") == 1
    assert "<0.20" in bounds["megatron-core"]
