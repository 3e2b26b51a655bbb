"""The directions between the rooms hold, and the check that says so can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
