"""Commands of the reference documents, word for word, as they are in tests/data/reference."""

from __future__ import annotations

from pathlib import Path

from refit.importers import read, script
from refit.importers.megatron_lm import has_flags, world_of

FOLDER = Path(__file__).parents[1] / "data" / "reference"
EIGHT_GPUS = ("config_1", "config_2", "config_3", "config_4", "swap")
EVERY = tuple(sorted(path.stem for path in FOLDER.glob("*.sh")))


def command(name: str, **variables: str) -> script.Command:
    """One of them, as it is read."""
    return script.read((FOLDER / f"{name}.sh").read_text(), variables, has_flags)


def reading(name: str, *more: str, **variables: str) -> read.Reading:
    """What one of them says, with more flags behind it."""
    found = command(name, **variables)
    return read.read([*found.arguments, *more], world_of(found))
