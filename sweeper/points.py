"""Overrides -> points: repeats, duplicates, exclusions, rules, and what is done already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from refit.job import Job, UserError
from refit.record import record
from refit.record.point import Point, read_json
from refit.rules.impossible import impossible
from refit.rules.values import misspelt

Compose = Callable[[Sequence[str]], Job]

DONE = ("ok",)  # what `retry` keeps; `cached` keeps whatever has ended


@dataclass(frozen=True)
class Planned:
    """One point and what becomes of it.

    Attributes:
        kept: an earlier record, which stands for the point.
        skip: why it cannot run, also where an earlier record is kept.
    """

    point: Point
    kept: dict[str, Any] | None = None
    skip: str | None = None


def plan(
    batch: Sequence[Sequence[str]], compose: Compose, root: Path, say: Callable[[str], None]
) -> list[Planned]:
    """Compose each point once and decide what becomes of it; a job that comes twice is one point.

    Args:
        batch: the overrides of each point.
        compose: overrides -> job.
        root: the sweep's folder.
        say: told how many points are excluded.

    Raises:
        UserError: from `compose`; a word is misspelt; a setting below `sweep` is wrong; a pattern
            of sweep.exclude matches no point; or sweep.mode=read-only finds a point without a
            record.
    """
    points: dict[str, tuple[Point, str | None]] = {}
    for overrides in batch:
        job = compose(overrides)
        reason = impossible(job)
        # neither a typo nor a wrong setting of the sweep is a property of a point: nothing is run
        mistake = misspelt(job) or (reason if (reason or "").startswith("sweep.") else None)
        if mistake:
            raise UserError(mistake)
        for point in _repeated(job, root, overrides):
            points.setdefault(point.id, (point, reason))
    kept = _not_excluded([point for point, _ in points.values()], say)
    found = [Planned(point, _earlier(point), points[point.id][1]) for point in kept]
    missing = [p.point.name for p in found if p.point.job.sweep.mode == "read-only" and not p.kept]
    if missing:
        raise UserError(
            f"sweep.mode=read-only, and {len(missing)} of {len(found)} points have no record"
            f" in {root}: {', '.join(missing[:3])}{', ...' if missing[3:] else ''};"
            " run them with sweep.mode=retry"
        )
    return found


def _repeated(job: Job, root: Path, overrides: Sequence[str]) -> Iterator[Point]:
    """The points of a job, sweep.repeat of them; their overrides would make each one again."""
    if job.sweep.repeat == 1:
        yield Point.of(job, root, tuple(overrides))
        return
    for number in range(1, job.sweep.repeat + 1):
        one = replace(job, sweep=replace(job.sweep, repetition=number))
        said = ("sweep.repeat=1", f"sweep.repetition={number}")
        yield Point.of(one, root, (*overrides, *said))


def _not_excluded(points: Sequence[Point], say: Callable[[str], None]) -> list[Point]:
    """The points whose name no pattern of sweep.exclude matches."""
    unused = {pattern for point in points for pattern in point.job.sweep.exclude or ()}
    left = []
    for point in points:
        matching = {p for p in point.job.sweep.exclude or () if fnmatchcase(point.name, p)}
        unused -= matching
        if not matching:
            left.append(point)
    if unused or not left:
        names = [point.name for point in points]
        what = (
            f"no point matches {', '.join(sorted(unused))}"
            if unused
            else "it leaves out all points"
        )
        more = f" and {len(names) - 10} more" if names[10:] else ""
        raise UserError(f"sweep.exclude: {what}; there are {', '.join(names[:10])}{more}")
    if len(left) < len(points):
        say(f"sweep.exclude leaves out {len(points) - len(left)} of {len(points)} points")
    return left


def _earlier(point: Point) -> dict[str, Any] | None:
    """The point's record, if its mode keeps it."""
    mode = point.job.sweep.mode
    known = None if mode == "force" else read_json(point.timing)
    if known is None or known.get("schema_version") != record.SCHEMA_VERSION:
        return None
    return known if mode in ("cached", "read-only") or known["status"] in DONE else None
