"""Overrides -> points: repeats, duplicates, exclusions, rules, and what is done already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from refit.cli import is_local, retyped
from refit.errors import UserError
from refit.job import Job
from refit.record import environment
from refit.record.allocation import elsewhere
from refit.record.point import Point
from refit.record.record import NotARecord, Record
from refit.rules.impossible import impossible
from refit.rules.values import mistake
from sweeper import foreign, here
from sweeper.agreement import Settings, check_one_job
from sweeper.decisions import keeps

ORDER_OF_JOBS = (
    "sweep.interleave: of points on Slurm those of one shape are submitted in turn, and run so"
    " within a job of sweep.pack and with sweep.here; which job starts when is Slurm's to decide"
)

Compose = Callable[[Sequence[str]], Job]
HydraOf = Callable[[int], dict[str, Any] | None]
"""The number of a point that has been composed -> its `Point.hydra`."""


@dataclass(frozen=True)
class Planned:
    """One point and what becomes of it.

    Attributes:
        kept: an earlier record, which stands for the point.
        skip: why it cannot run, also where an earlier record is kept.
        unsupported: why its method is none.
    """

    point: Point
    kept: Record | None = None
    skip: str | None = None
    unsupported: str | None = None

    @property
    def runs(self) -> bool:
        """Whether it is to be measured or predicted at all."""
        return not (self.kept or self.skip or self.unsupported)

    @property
    def is_distant(self) -> bool:
        """Whether it is to be measured, and its own cluster is a Slurm one."""
        job = self.point.job
        return self.runs and job.cluster.launcher == "slurm" and job.mode == "measure"


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to do."""

    settings: Settings
    points: tuple[Planned, ...]


def plan_points(
    batch: Sequence[Sequence[str]],
    compose: Compose,
    root: Path,
    say: Callable[[str], None],
    hydra_of: HydraOf = lambda _: None,
) -> SweepPlan:
    """Compose each point once and decide what becomes of it; a job that comes twice is one point.

    Args:
        batch: the overrides of each point.
        compose: overrides -> job.
        root: the sweep's folder.
        say: told which overrides make a point that others make, and how many are excluded.
        hydra_of: asked once all points are composed.

    Raises:
        UserError: from `compose`; a word is misspelt; sweep.here without Slurm; a setting below
            `sweep` is wrong, without effect, or not the same for all points; two points of one
            identity are not one job; a pattern of sweep.exclude matches no point; or
            sweep.mode=read-only finds a point without a record.
    """
    composed = [(overrides, compose(overrides)) for overrides in batch]
    jobs = [job for _, job in composed]
    settings = _settings(jobs)
    if settings.here:
        if words := here.without_effect(jobs):
            say(words)
        composed = [(overrides, here.of_allocation(job)) for overrides, job in composed]
    points = _distinct(composed, root, say, hydra_of)
    planned = tuple(
        Planned(point, _earlier(point, settings.mode, say), points[point.id][1])
        for point in _not_excluded([point for point, _ in points.values()], say)
    )
    bad = foreign.refusals(p.point.job for p in planned if p.runs)
    planned = tuple(
        replace(p, unsupported=bad.get(p.point.job.refit.method)) if p.runs else p for p in planned
    )
    if settings.interleave:
        planned = _in_turn(planned, say)
    if settings.mode == "read-only":
        _check_all_kept(planned, root)
    return SweepPlan(settings, planned)


def _check_all_kept(planned: Sequence[Planned], root: Path) -> None:
    if missing := [p.point.name for p in planned if not p.kept]:
        raise UserError(
            f"sweep.mode=read-only, and {len(missing)} of {len(planned)} points have no record"
            f" in {root}: {', '.join(missing[:3])}{', ...' if missing[3:] else ''};"
            " run them with sweep.mode=retry"
        )


def _in_turn(planned: Sequence[Planned], say: Callable[[str], None]) -> tuple[Planned, ...]:
    """The first repetition of every point, then the second of every point."""
    if any(each.is_distant for each in planned):
        say(ORDER_OF_JOBS)
    return tuple(sorted(planned, key=lambda each: each.point.job.sweep.repetition))


def _settings(jobs: Sequence[Job]) -> Settings:
    """What the jobs say of the whole sweep, if none of them has a mistake."""
    for job in jobs:
        if reason := mistake(job):
            raise UserError(reason)
    settings = Settings.of(jobs)
    if settings.interleave and all(job.sweep.repeat == 1 for job in jobs):
        raise UserError(
            "sweep.interleave=true runs the repetitions of points in turn, and sweep.repeat=1 says"
            " there are none; add sweep.repeat=3"
        )
    if settings.here:
        _check_allocation(jobs)
    return settings


def _check_allocation(jobs: Iterable[Job]) -> None:
    """sweep.here is of clusters below Slurm: else processes of this machine would run silently."""
    for job in jobs:
        if is_local(job) and job.mode == "measure":
            raise UserError(
                "sweep.here=true runs points on the nodes of a Slurm allocation, and"
                f" cluster={job.cluster.name} as processes of this machine; type"
                f" {retyped('cluster=slurm')}, or leave sweep.here out"
            )


def _distinct(
    composed: Sequence[tuple[Sequence[str], Job]],
    root: Path,
    say: Callable[[str], None],
    hydra_of: HydraOf,
) -> dict[str, tuple[Point, str | None]]:
    """By id, each point once, and why it cannot run."""
    points: dict[str, tuple[Point, str | None]] = {}
    asked: dict[str, Sequence[str]] = {}  # overrides as typed; twice is what comes again
    twice: dict[str, None] = {}
    why = _Reasons()
    for number, (overrides, job) in enumerate(composed):
        reason = why(job)
        for point in _repeated(job, root, overrides, hydra_of(number)):
            first, skip = points.setdefault(point.id, (point, reason))
            if first is not point:
                check_one_job(first, point)
                twice[_twice(first, asked[point.id], overrides)] = None
            asked.setdefault(point.id, overrides)
            if skip and not reason:  # by another name, of a pair that is this model's, it can run
                points[point.id] = (point, reason)
    for words in twice:
        say(words)
    return points


class _Reasons:
    """Why jobs cannot run, asked once of those that differ in seeds alone: no rule reads one."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def __call__(self, job: Job) -> str | None:
        alike = repr(replace(job, seed=0))
        if alike not in self._known:
            self._known[alike] = impossible(job)
        return self._known[alike]


def _twice(point: Point, one: Sequence[str], other: Sequence[str]) -> str:
    """What is said of two lists of overrides that make one point: where they differ."""
    only = [" ".join(o for o in a if o not in b) for a, b in ((one, other), (other, one))]
    if not any(only):
        return f"asked for twice, runs once: {' '.join(one) or 'the point'}"
    differ = " and ".join(words or "what is shipped" for words in only)
    of_experts = "etp" in differ and not point.job.model.is_moe
    why = "; ETP has no meaning without experts" if of_experts else ""
    return f"the same point, runs once: {differ} make one job, {point.name}{why}"


def _repeated(
    job: Job, root: Path, overrides: Sequence[str], hydra: dict[str, Any] | None
) -> Iterator[Point]:
    """The points of a job, sweep.repeat of them; the overrides of each make that one alone."""
    if job.sweep.repeat == 1:
        yield Point.of(job, root, tuple(overrides), hydra)
        return
    for number in range(1, job.sweep.repeat + 1):
        repetition = replace(job, sweep=replace(job.sweep, repetition=number))
        alone = ["sweep.repeat=1", f"sweep.repetition={number}"]
        if job.sweep.interleave:
            alone.append("sweep.interleave=false")
        yield Point.of(repetition, root, (*overrides, *alone), hydra)


def _not_excluded(points: Sequence[Point], say: Callable[[str], None]) -> list[Point]:
    """The points whose name no pattern of sweep.exclude matches."""
    unused = {pattern for point in points for pattern in point.job.sweep.exclude or ()}
    included = []
    for point in points:
        matching = {p for p in point.job.sweep.exclude or () if fnmatchcase(point.name, p)}
        unused -= matching
        if not matching:
            included.append(point)
    if unused or not included:
        names = [point.name for point in points]
        fault = "it leaves out all points"
        if unused:
            fault = f"no point matches {', '.join(sorted(unused))}"
        more = f" and {len(names) - 10} more" if names[10:] else ""
        raise UserError(f"sweep.exclude: {fault}; there are {', '.join(names[:10])}{more}")
    if len(included) < len(points):
        say(f"sweep.exclude leaves out {len(points) - len(included)} of {len(points)} points")
    return included


def earlier(point: Point, mode: str) -> tuple[Record | None, str | None]:
    """The point's record, if `sweep.mode` keeps it; or why one that it would keep does not stand.

    A record stands for what ran on the nodes, and with the variables, that are asked for now.
    """
    try:
        record = Record.load(point.timing)
    except NotARecord as error:
        there = point.timing.exists()
        return None, f"{error}; it is kept aside once there is another" if there else None
    if not keeps(mode, record):
        return None, None
    reason = elsewhere(point.job, record.environment)
    if point.job.mode == "measure" and not reason:
        name = environment.other_variable(point.variables, record.environment)
        reason = f"it ran with another value of hydra.job.env_set.{name}, or none" if name else None
    return (None, reason) if reason else (record, None)


def _earlier(point: Point, mode: str, say: Callable[[str], None]) -> Record | None:
    record, reason = earlier(point, mode)
    if reason:
        say(f"{point.name}: its record is not kept: {reason}")
    return record
