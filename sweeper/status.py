"""Where each point stands, on disk: status.json. `python -m sweeper.status DIR` prints it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from refit import program
from refit.job import UserError
from refit.record.point import Point, read_json, write_atomic
from refit.record.record import Status, now

FINAL = frozenset(get_args(Status))
"""A point's last states; before them come `submitted` (with the Slurm id) and `running`."""


@dataclass(frozen=True)
class Standing:
    """One status.json; as it is where nothing was ever said.

    Attributes:
        state: pending, submitted or running, and then one of `FINAL`.
        attempt: the name of the attempt's folder.
        slurm_id: of the job that has the point, as squeue prints it.
        at: when it was said; see `refit.record.record.now`.
    """

    state: str = "pending"
    attempt: str = ""
    slurm_id: str = ""
    at: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the point has ended."""
        return self.state in FINAL


def put(point: Point, state: str, attempt: str, slurm_id: str) -> None:
    """Write where a point stands, for the point and for the attempt.

    Raises:
        OSError: as from the file system.
    """
    text = json.dumps(asdict(Standing(state, attempt, slurm_id, now()))) + "\n"
    folder = point.attempt(attempt).directory
    for path in (folder / "status.json", _path(point.directory)):
        write_atomic(path, text)


def get(point: Point) -> Standing:
    """Where a point stands; `pending` where nothing was ever said."""
    return _read(point.directory) or Standing()


def _read(directory: Path) -> Standing | None:
    values = read_json(_path(directory))
    return Standing(**values) if values else None


def _path(directory: Path) -> Path:
    return directory / "status.json"


def main(arguments: Sequence[str]) -> int:
    """Print a line per point and the counts. Needs no controller.

    Raises:
        UserError: the folder holds no points.
    """
    parser = program.parser("sweeper.status", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds <point>/point.json")
    folder = parser.parse_args(arguments).folder
    # a point that cannot run is not frozen, and has its record only
    files = [*folder.glob("*/point.json"), *folder.glob("*/timing.json")]
    directories = sorted({path.parent for path in files})
    if not directories:
        raise UserError(f"no points in {folder}: it has no */point.json and no */timing.json")
    counts: Counter[str] = Counter()
    for directory in directories:
        standing = _read(directory)
        if standing is None:  # a point that ran here and not through Slurm has its record only
            timing = read_json(directory / "timing.json") or {}
            standing = Standing(state=timing.get("status") or "pending")
        counts[standing.state] += 1
        print(f"{standing.state:<12} {standing.slurm_id or '-':<14} {directory.name}")
    print(", ".join(f"{n} {state}" for state, n in counts.most_common()))
    return 0


if __name__ == "__main__":
    program.exit_with(main)
