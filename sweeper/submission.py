"""Points -> Slurm jobs through submitit: one array per shape, as many jobs as Slurm takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from refit.errors import UserError
from refit.record.point import Point
from sweeper import clients, marker, status, submitit_side
from sweeper.clients import Queued
from sweeper.decisions import adoption
from sweeper.lanes import lanes
from sweeper.pack import Pack
from sweeper.slurm import at_once, executor, groups, split
from sweeper.submitit_side import Refused


@dataclass(frozen=True)
class How:
    """What all jobs of a sweep have in common.

    Attributes:
        root: the sweep's folder.
        pack: the most points of one job.
        code: the folder whose packages they run; None for those of this process.
        say: told of jobs that are not as they should be, and of points that there is no room for.
        said: for which of Slurm's words it was told so.
    """

    root: Path
    pack: int
    code: Path | None = None
    say: Callable[[str], None] = print
    said: set[str] = field(default_factory=set)


class Refusal(NamedTuple):
    """Of a point: the attempt that was to be made, and Slurm's own words."""

    attempt: str
    words: str


@dataclass
class Done:
    """What became of points that were to be submitted; those that are in neither are with Slurm.

    Attributes:
        refused: by their names.
        waiting: for which Slurm has no room now, and `full` are its words.
        queued: how many jobs of this user Slurm had then.
    """

    refused: dict[str, Refusal] = field(default_factory=dict)
    waiting: list[Point] = field(default_factory=list)
    full: str = ""
    queued: int = 0

    @property
    def no_room(self) -> str:
        """What is said where some are waiting."""
        return (
            f"{len(self.waiting)} points wait to be submitted, as there is room: {self.full}; a"
            " larger sweep.pack, where more points share an allocation, needs less of it"
        )


_Submitted = tuple[Point, str, str]  # with the attempt's name and Slurm's id
_Numbered = Sequence[Sequence[tuple[Point, str]]]  # packs of points, with the attempts' names


def submit(points: Sequence[Point], how: How) -> Done:
    """Submit every point that no queued job holds, as many as Slurm has room for.

    Raises:
        UserError: Slurm takes none, and never will; or the results' folder cannot be written. Then
            nothing is left submitted.
    """
    alive = clients.queue() if points else {}
    missing = _without_job(points, how, alive)
    this = _Submission(how, alive)
    try:
        this.run(missing)
    except (UserError, OSError) as error:
        _take_back(this.submitted)
        if isinstance(error, OSError):
            raise UserError(f"cannot write results to {how.root}: {error.strerror}") from None
        raise
    if this.done.full not in how.said | {""}:
        how.said.add(this.done.full)
        how.say(this.done.no_room)
    return this.done


class _Submission:
    """One call of `submit`."""

    def __init__(self, how: How, alive: Mapping[str, Queued]) -> None:
        own = marker.sweep_id(how.root)
        ours = {job.partition("_")[0]: None for job, queued in alive.items() if queued.sweep == own}
        self.how, self.done, self.submitted = how, Done(), list[_Submitted]()
        self._alive, self._arrays = len(alive), tuple(ours)
        self._ours = sum(queued.sweep == own for queued in alive.values())

    def run(self, points: Sequence[Point]) -> None:
        """Submit them, lane after lane."""
        shapes = list(groups(points).values())
        if not shapes:
            return
        largest, most = _max_array_size(), at_once(points)
        after: tuple[str, ...] = ()
        jobs = [-(-len(alike) // self.how.pack) for alike in shapes]
        if self._ours and self._ours + sum(jobs) > most:  # those run before, or leave some room
            if most > self._ours:
                most -= self._ours
            else:
                after = self._arrays
        for lane in lanes(jobs, most):
            before = after
            for number in lane.shapes:
                for array in split(shapes[number], self.how.pack, largest):
                    ids = self._array(array, lane.at_once, before)
                    before = ids or before

    def _array(
        self, packs: Sequence[Sequence[Point]], most: int, after: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Submit as many packs as Slurm takes; the arrays that they are."""
        if self.done.full:
            self._wait([point for pack in packs for point in pack])
            return ()
        numbered = _numbered(packs)
        ids: list[str] = []
        size = len(numbered)
        while numbered and size:
            try:
                part = _submit_array(numbered[:size], self.how, most, after)
            except Refused as error:
                if not error.is_of_their_number:
                    members = [member for pack in numbered for member in pack]
                    self.done.refused |= {p.name: Refusal(n, str(error)) for p, n in members}
                    return tuple(ids)
                size, self.done.full = size // 2, str(error)
                continue
            self.submitted += part
            _say_submitted(part)
            ids += dict.fromkeys(job.partition("_")[0] for _, _, job in part)
            numbered = numbered[size:]
            size = min(size, len(numbered))
        self._left(numbered)
        return tuple(ids)

    def _left(self, numbered: _Numbered) -> None:
        """What Slurm has no room for; some, or nothing of this user's that could make room."""
        if not numbered:
            self.done.full = ""
            return
        members = [member for pack in numbered for member in pack]
        for point, attempt in members:
            with suppress(OSError):
                point.attempt(attempt).directory.rmdir()
        self._wait([point for point, _ in members])
        self.done.queued = self._alive + len({job for _, _, job in self.submitted})
        if not self.done.queued and "Grp" not in self.done.full:
            raise UserError(f"{self.done.full}; {_fewer(len(numbered), self.how.pack)}")

    def _wait(self, points: Sequence[Point]) -> None:
        for point in points:
            point.freeze()
            status.put_pending(point)
        self.done.waiting += points


def _fewer(jobs: int, pack: int) -> str:
    """What is said where Slurm does not take so many jobs of one user."""
    return (
        f"with nothing else of yours queued it takes none of {jobs} jobs; sweep.pack={4 * pack},"
        " where more points share an allocation, makes fewer of them"
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


def _without_job(points: Sequence[Point], how: How, alive: Mapping[str, Queued]) -> list[Point]:
    """The points that no queued job holds; the others are given the id of theirs.

    A controller that is killed as it submits leaves jobs that have nothing to run: they end here.
    """
    folder, own = how.root / submitit_side.FOLDER, marker.sweep_id(how.root)
    holders: dict[str, tuple[str, str]] = {}
    known = {status.get(point).slurm_id for point in points}
    orphans = []
    for slurm_id, queued in alive.items():
        if queued.sweep not in ("", own):
            continue
        held = submitit_side.submitted_points(folder, slurm_id)
        holders |= {Path(point).name: (attempt, slurm_id) for point, attempt in held}
        if not held and queued.sweep == own and slurm_id not in known:
            orphans.append(slurm_id)
    if orphans:
        clients.ask("scancel", *orphans)
        how.say(
            f"jobs {', '.join(orphans[:5])}{', ...' if orphans[5:] else ''} are cancelled: whoever"
            " submitted them was killed before they had anything to run"
        )
    if points:
        submitit_side.clean(folder)
    return _not_held(points, holders, alive)


def _not_held(
    points: Sequence[Point], holders: Mapping[str, tuple[str, str]], alive: Mapping[str, Queued]
) -> list[Point]:
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


def _numbered(packs: Sequence[Sequence[Point]]) -> _Numbered:
    """Freeze what is to be submitted, and make each point's next attempt."""
    for pack in packs:
        for point in pack:
            point.freeze()
    return [[(point, point.attempt().directory.name) for point in pack] for pack in packs]


def _submit_array(
    numbered: _Numbered, how: How, most: int, after: tuple[str, ...]
) -> list[_Submitted]:
    calls = [Pack(tuple((str(p.directory.resolve()), n) for p, n in pack)) for pack in numbered]
    made = executor(numbered[0][0][0], how.root, how.code, most, after)
    slurm_ids = submitit_side.submit_array(made, calls)
    return [
        (point, attempt, slurm_id)
        for slurm_id, members in zip(slurm_ids, numbered, strict=True)
        for point, attempt in members
    ]


def _max_array_size() -> int:
    """The most jobs an array may have; 1000 where Slurm does not say."""
    setting = re.search(r"MaxArraySize\s*=\s*(\d+)", clients.ask("scontrol", "show", "config"))
    return max(1, int(setting[1]) - 1) if setting else 1000
