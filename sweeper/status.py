"""Where each point stands, on disk: status.json. `python -m sweeper.status DIR` prints it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from refit import program
from refit.errors import UserError
from refit.record import allocation
from refit.record.point import Point, read_json, write_atomic
from refit.record.record import Record, Status, begin, now
from refit.record.typed import typed
from sweeper import clients, where
from sweeper.waiting import NONE_YET, waiting

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


def put_pending(point: Point) -> None:
    """Write that nothing has the point, of no attempt.

    Raises:
        OSError: as from the file system.
    """
    point.directory.mkdir(parents=True, exist_ok=True)
    write_atomic(_path(point.directory), json.dumps(asdict(Standing(at=now()))) + "\n")


def get(point: Point) -> Standing:
    """Where a point stands; `pending` where nothing was ever said."""
    return _read(point.directory) or Standing()


def _read(directory: Path) -> Standing | None:
    try:
        return typed(Standing, read_json(_path(directory)))
    except TypeError:  # none, or damaged: the same as none
        return None


def _path(directory: Path) -> Path:
    return directory / "status.json"


def main(arguments: Sequence[str]) -> int:
    """Print a line per point, why jobs wait, and the counts. Needs no controller.

    Raises:
        UserError: the folder holds no points, or none of those asked for.
    """
    parser = program.parser("sweeper.status", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds <point>/point.json")
    where.add_option(parser)
    options = parser.parse_args(arguments)
    wanted = where.parsed(options.where)
    folder = options.folder
    # a point that cannot run is not frozen, and has its record only
    files = [*folder.glob("*/point.json"), *folder.glob("*/timing.json")]
    directories = sorted({path.parent for path in files})
    if not directories:
        raise UserError(f"no points in {folder}: it has no */point.json and no */timing.json")
    if wanted:
        named = {record.name for record in where.chosen(_records(directories), wanted)}
        directories = [directory for directory in directories if directory.name in named]
    standings = {directory.name: _standing(directory) for directory in directories}
    reasons: dict[str, str] = {}
    if folder.stat().st_uid == os.getuid():  # of others' jobs Slurm may say nothing
        standings, reasons = _held_against_slurm(standings)
    for name, standing in standings.items():
        why = reasons.get(standing.slurm_id, "")
        line = f"{standing.state:<12} {standing.slurm_id or '-':<14} {name}  {why}".rstrip()
        print(program.printable(line))
    counts = Counter(standing.state for standing in standings.values())
    print(", ".join(f"{n} {state}" for state, n in counts.most_common()))
    for held in waiting(reasons.items()):
        if held.is_forever:
            print(held)
    return 0


def _records(directories: Sequence[Path]) -> list[Record]:
    """A record of each point, as it stands; of one that has none, what its job asks for."""
    found = []
    for directory in directories:
        record = Record.find(directory / "timing.json")
        if record is None:
            point = Point.load(directory)
            partition = allocation.asked(point.job).get("partition")
            record = begin(point, {"nodes": [], "partition": partition})
        state: Any = _standing(directory).state
        found.append(replace(record, status=state))
    return found


def _standing(directory: Path) -> Standing:
    """Where a point stands; `damaged` where it has ended, and left no record that can be read."""
    standing, path = _read(directory), directory / "timing.json"
    if standing is not None and not standing.is_final:
        return standing
    record = Record.find(path)
    is_damaged = record is None and (standing is not None or path.exists())
    if standing is None:  # a point that ran here and not through Slurm has its record only
        standing = Standing(state=record.status if record else "pending")
    return replace(standing, state="damaged") if is_damaged else standing


def _held_against_slurm(
    standings: Mapping[str, Standing],
) -> tuple[dict[str, Standing], dict[str, str]]:
    """The same, `gone` where Slurm has no such job any more, and why jobs wait or have ended.

    As they are where no Slurm answers.
    """
    from sweeper.decisions import ALIVE  # it is of those that read standings

    with_slurm = {at.slurm_id for at in standings.values() if at.slurm_id and not at.is_final}
    try:
        queue = clients.queue() if with_slurm else {}
    except UserError:
        return dict(standings), {}
    ended = clients.states(with_slurm - queue.keys())
    lost = {i for i in with_slurm - queue.keys() if ended.get(i) not in ALIVE}
    reasons = {i: f"Slurm says {ended.get(i, 'nothing')} of it" for i in lost}
    for i in with_slurm & queue.keys():
        if queue[i].state == "PENDING" and queue[i].reason not in NONE_YET:
            reasons[i] = queue[i].reason
    found = {
        name: replace(at, state="gone") if at.slurm_id in lost and not at.is_final else at
        for name, at in standings.items()
    }
    return found, reasons


if __name__ == "__main__":
    program.exit_with(main)
