"""Points -> Slurm jobs through submitit, one array per resource shape; what Slurm says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from refit.job import UserError
from refit.record.point import Point
from sweeper import clients, status, submitit_side
from sweeper.decisions import adoption
from sweeper.pack import Pack
from sweeper.request import parameters
from sweeper.submitit_side import Refused


def groups(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Points that ask sbatch for the same, by what they ask for."""
    alike: dict[str, list[Point]] = {}
    for point in points:
        alike.setdefault(json.dumps(parameters(point), sort_keys=True), []).append(point)
    return alike


def labelled(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The groups by a name that a person can tell them by: nodes, and what else differs."""
    alike = list(groups(points).values())
    shapes = [parameters(group[0]) for group in alike]
    keys = [
        key for key in dict.fromkeys(key for shape in shapes for key in shape) if key != "nodes"
    ]
    differ = [key for key in keys if len({str(shape.get(key)) for shape in shapes}) > 1]
    names = [
        ", ".join([f"{shape['nodes']} node(s)", *(f"{key}={shape.get(key)}" for key in differ)])
        for shape in shapes
    ]
    return dict(zip(names, alike, strict=True))


def executor(point: Point, root: Path) -> submitit_side.Executor:
    """submitit's executor for a point's shape.

    Raises:
        UserError: a parameter that submitit does not know; its text lists those it does.
    """
    return submitit_side.executor(root / submitit_side.FOLDER, parameters(point))


class Refusal(NamedTuple):
    """Of a point: the attempt that was to be made, and Slurm's own words."""

    attempt: str
    words: str


def submit(points: Sequence[Point], root: Path, pack_size: int) -> dict[str, Refusal]:
    """Submit every point that no queued job holds, one array per shape, split at MaxArraySize.

    Returns:
        The points that Slurm refuses, by their names; the others are submitted.

    Raises:
        UserError: Slurm refuses so many, in its own words; or the results' folder cannot be
            written. Then nothing is left submitted.
    """
    largest = _max_array_size()
    submitted: list[_Submitted] = []
    refused: dict[str, Refusal] = {}
    try:
        for alike in groups(_without_job(points, root)).values():
            for array in split(alike, pack_size, largest):
                numbered = _numbered(array)
                try:
                    part = _submit_array(numbered, root)
                except Refused as error:
                    if error.is_of_their_number:
                        raise UserError(f"{error}; {_fewer(alike, pack_size)}") from None
                    members = [member for pack in numbered for member in pack]
                    refused |= {p.name: Refusal(attempt, str(error)) for p, attempt in members}
                    continue
                submitted += part
                _say_submitted(part)
    except (UserError, OSError) as error:
        _take_back(submitted)
        if isinstance(error, OSError):
            raise UserError(f"cannot write results to {root}: {error.strerror}") from None
        raise
    return refused


def _fewer(points: Sequence[Point], pack_size: int) -> str:
    """What is said where Slurm does not take so many jobs of one user."""
    jobs, pack = -(-len(points) // pack_size), 4 * pack_size
    return (
        f"{len(points)} points are {jobs} jobs; with sweep.pack={pack}, where more points share an"
        f" allocation, they are {-(-len(points) // pack)}"
    )


def _say_submitted(submitted: Sequence[_Submitted]) -> None:
    for point, attempt, slurm_id in submitted:
        if status.get(point).slurm_id != slurm_id:  # it may run by now, and have said so
            status.put(point, "submitted", attempt, slurm_id)


def _take_back(submitted: Sequence[_Submitted]) -> None:
    if submitted:
        clients.ask("scancel", *sorted({slurm_id.split("_")[0] for _, _, slurm_id in submitted}))
    for point, attempt, _ in submitted:
        with suppress(OSError):
            status.put(point, "pending", attempt, "")


_Submitted = tuple[Point, str, str]  # with the attempt's name and Slurm's id


def split(points: Sequence[Point], pack_size: int, largest: int) -> list[list[list[Point]]]:
    """Points -> arrays of packs: at most so many points in a pack, and packs in an array."""
    packs = [list(points[i : i + pack_size]) for i in range(0, len(points), pack_size)]
    return [packs[i : i + largest] for i in range(0, len(packs), largest)]


def _without_job(points: Sequence[Point], root: Path) -> list[Point]:
    """The points that no queued job holds; the others are given the id of theirs."""
    holders: dict[str, tuple[str, str]] = {}
    alive = clients.queue() if points else {}
    for slurm_id in alive:
        held = submitit_side.submitted_points(root / submitit_side.FOLDER, slurm_id)
        holders |= {Path(folder).name: (attempt, slurm_id) for folder, attempt in held}
    without = []
    for point in points:
        attempt, slurm_id = holders.get(point.name, ("", ""))
        what = adoption(status.get(point), slurm_id, alive)
        if what == "submit":
            without.append(point)
        elif what == "adopt":
            if not point.frozen.exists():  # somebody has deleted the folder of a queued point
                point.freeze()
            status.put(point, "submitted", attempt, slurm_id)
    return without


_Numbered = Sequence[Sequence[tuple[Point, str]]]  # packs of points, with the attempts' names


def _numbered(packs: Sequence[Sequence[Point]]) -> _Numbered:
    """Freeze what is to be submitted, and make each point's next attempt."""
    for pack in packs:
        for point in pack:
            point.freeze()
    return [[(point, point.attempt().directory.name) for point in pack] for pack in packs]


def _submit_array(numbered: _Numbered, root: Path) -> list[_Submitted]:
    calls = [Pack(tuple((str(p.directory.resolve()), n) for p, n in pack)) for pack in numbered]
    slurm_ids = submitit_side.submit_array(executor(numbered[0][0][0], root), calls)
    return [
        (point, attempt, slurm_id)
        for slurm_id, members in zip(slurm_ids, numbered, strict=True)
        for point, attempt in members
    ]


def _max_array_size() -> int:
    """The most jobs an array may have; 1000 where Slurm does not say."""
    setting = re.search(r"MaxArraySize\s*=\s*(\d+)", clients.ask("scontrol", "show", "config"))
    return max(1, int(setting[1]) - 1) if setting else 1000


def state(slurm_id: str) -> str:
    """What Slurm says of a job: RUNNING, COMPLETED, TIMEOUT, ...

    Its controller knows at once, and forgets after minutes; accounting learns of an array's
    elements seconds late, and never of one that was cancelled before it started. UNKNOWN where
    neither knows it, or neither answers.
    """
    try:
        said = clients.ask("scontrol", "show", "job", "-o", slurm_id)
        if word := re.search(r"\bJobState=(\w+)", said):
            return word[1]
    except UserError:
        pass  # forgotten
    try:
        table = clients.ask("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", slurm_id)
    except UserError:
        return "UNKNOWN"  # without accounting, say
    for line in reversed(table.splitlines()):
        job, _, words = line.partition("|")
        if job == slurm_id:
            return words.split()[0]  # of "CANCELLED by 0"
    return "UNKNOWN"
