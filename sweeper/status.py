"""Where each point stands, on disk: status.json. `python -m sweeper.status DIR` prints it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from refit import program
from refit.job import UserError
from refit.record.point import Point, read_json, write_atomic
from refit.record.record import Status, now

FINAL = frozenset(get_args(Status))
"""A point's last states; before them come `submitted` (with the Slurm id) and `running`."""


def put(point: Point, state: str, attempt: str, slurm_id: str) -> None:
    """Write where a point stands, for the point and for the attempt.

    Raises:
        OSError: as from the file system.
    """
    said = {"state": state, "attempt": attempt, "slurm_id": slurm_id, "at": now()}
    folder = point.attempt(attempt).directory
    for path in (folder / "status.json", _path(point.directory)):
        write_atomic(path, json.dumps(said) + "\n")


def get(point: Point) -> dict[str, Any]:
    """Where a point stands; `pending` where nothing was ever said."""
    nothing = {"state": "pending", "attempt": "", "slurm_id": "", "at": ""}
    return read_json(_path(point.directory)) or nothing


def _path(directory: Path) -> Path:
    return directory / "status.json"


def main(arguments: Sequence[str]) -> int:
    """Print a line per point and the counts. Needs no controller.

    Raises:
        UserError: the folder holds no points.
    """
    parser = argparse.ArgumentParser(prog="python -m sweeper.status", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds <point>/point.json")
    folder = parser.parse_args(arguments).folder
    # a point that cannot run is not frozen, and has its record only
    found = [*folder.glob("*/point.json"), *folder.glob("*/timing.json")]
    directories = sorted({path.parent for path in found})
    if not directories:
        raise UserError(f"no points in {folder}: it has no */point.json and no */timing.json")
    counts: Counter[str] = Counter()
    for directory in directories:
        said = read_json(_path(directory)) or {}
        timing = read_json(directory / "timing.json") or {}
        # a point that ran here and not through Slurm has its record only
        state = said.get("state") or timing.get("status") or "pending"
        counts[state] += 1
        print(f"{state:<12} {said.get('slurm_id') or '-':<14} {directory.name}")
    print(", ".join(f"{n} {state}" for state, n in counts.most_common()))
    return 0


if __name__ == "__main__":
    program.run(main)
