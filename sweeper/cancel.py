"""Cancel the jobs of one sweep, and no others: `python -m sweeper.cancel DIR`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from refit import program
from refit.errors import UserError
from refit.record import lock
from sweeper import clients, marker, status
from sweeper.clients import Queued


def main(arguments: Sequence[str]) -> int:
    """Cancel what Slurm has of the sweep and say which jobs and points that is.

    Raises:
        UserError: there is no such folder, or Slurm does not answer.
    """
    parser = program.parser("sweeper.cancel", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="the sweep's: results")
    folder: Path = parser.parse_args(arguments).folder
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; a sweep's is its hydra.sweep.dir, results as shipped")
    if who := lock.holder(folder):
        print(
            f"its controller, {who}, goes on: what it is yet to submit it will; end it first to end"
            " the sweep"
        )
    points = _points(folder)
    clients.check()
    jobs = of_sweep(clients.queue(), marker.sweep_id(folder), points)
    if not jobs:
        print(f"Slurm has no job of the sweep in {folder}; nothing is cancelled")
        return 0
    for array, elements in jobs.items():
        names = [name for element in elements for name in points.get(element, ())]
        listed = f": {', '.join(names[:3])}{', ...' if names[3:] else ''}" if names else ""
        print(f"job {array}, {len(elements)} pending or running, {len(names)} points{listed}")
    clients.ask("scancel", *jobs)
    print(f"cancelled {len(jobs)} jobs; what is done stays, and the same command submits the rest")
    return 0


def of_sweep(
    queue: Mapping[str, Queued], sweep_id: str, points: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """The sweep's jobs that Slurm has: an array's id, and its elements in the queue.

    Args:
        points: ids of jobs -> the points that say they are theirs; those of before jobs were marked
            are known by nothing else.
    """
    jobs: dict[str, list[str]] = {}
    for slurm_id, queued in queue.items():
        if queued.sweep == sweep_id or (not queued.sweep and slurm_id in points):
            jobs.setdefault(slurm_id.partition("_")[0], []).append(slurm_id)
    return jobs


def _points(folder: Path) -> dict[str, list[str]]:
    """Names of points that have not ended, by the jobs that have them."""
    found: dict[str, list[str]] = {}
    for path in folder.glob("*/status.json"):
        try:
            said = json.loads(path.read_text())
            state, slurm_id = said["state"], said["slurm_id"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if slurm_id and state not in status.FINAL:
            found.setdefault(slurm_id, []).append(path.parent.name)
    return found


if __name__ == "__main__":
    program.exit_with(main)
