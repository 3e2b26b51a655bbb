"""Overrides -> points -> records: rules, duplicates, what is done and what is left to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refit import environment, record
from refit.agent import Agent
from refit.display import Display
from refit.job import Job, UserError
from refit.point import Point, read_json
from refit.rules import impossible

Compose = Callable[[Sequence[str]], Job]

DONE = ("ok",)  # what `retry` keeps; `cached` keeps whatever has ended


@dataclass(frozen=True)
class Planned:
    """One point and what becomes of it: `kept` is an earlier record, `skip` a reason not to run."""

    point: Point
    kept: dict[str, Any] | None = None
    skip: str | None = None


def plan(batch: Sequence[Sequence[str]], compose: Compose, root: Path) -> list[Planned]:
    """Compose each point once and decide what becomes of it; a job that comes twice is one point.

    Args:
        batch: the overrides of each point.
        compose: overrides -> job.
        root: the sweep's folder.

    Raises:
        UserError: from `compose`; or sweep.mode=read-only finds a point without a record.
    """
    found: dict[str, Planned] = {}
    for overrides in batch:
        job = compose(overrides)
        point = Point.of(job, root, tuple(overrides))
        if point.id in found:
            continue
        reason = impossible(job)
        earlier = _earlier(point)
        if earlier or not reason:
            found[point.id] = Planned(point, kept=earlier)
        else:
            found[point.id] = Planned(point, skip=reason)
    missing = [
        p.point.name for p in found.values() if p.point.job.sweep.mode == "read-only" and not p.kept
    ]
    if missing:
        raise UserError(
            f"sweep.mode=read-only, and {len(missing)} of {len(found)} points have no record"
            f" in {root}: {', '.join(missing[:3])}{', ...' if missing[3:] else ''};"
            " run them with sweep.mode=retry"
        )
    return list(found.values())


def _earlier(point: Point) -> dict[str, Any] | None:
    """The point's record, if its mode keeps it."""
    mode = point.job.sweep.mode
    known = None if mode == "force" else read_json(point.timing)
    if known is None or known.get("schema_version") != record.SCHEMA_VERSION:
        return None
    return known if mode in ("cached", "read-only") or known["status"] in DONE else None


def run(planned: Sequence[Planned], display: Display) -> list[dict[str, Any]]:
    """Run what is to be run, one point after another on this machine; every point's record."""
    records = []
    with Agent(p.point.job for p in planned) as agent:
        for number, each in enumerate(planned, 1):
            point = each.point
            count = f"[{number}/{len(planned)}] "
            if each.kept:
                display.line(
                    f"{count}{point.job.parallel.name}: kept from {each.kept['finished_at']}"
                )
                records.append(each.kept)
            elif each.skip:
                display.line(f"{count}{point.job.parallel.name}: skipped: {each.skip}")
                records.append(_skipped(point, each.skip))
            else:
                display.begin(point.job, count)
                with display.progress() as progress:
                    records.append(agent.run(point, progress))
                display.result(records[-1])
    return records


def _skipped(point: Point, reason: str) -> dict[str, Any]:
    """A record for a point that cannot run; an earlier one stays in its attempt's folder."""
    final = record.ended(record.begin(point, environment.describe()), "skipped", reason)
    try:
        point.directory.mkdir(parents=True, exist_ok=True)
        record.write(point.timing, final)
    except OSError as error:
        raise UserError(f"cannot write results to {point.directory}: {error.strerror}") from None
    return asdict(final)


def summary(
    records: Sequence[dict[str, Any]], planned: Sequence[Planned], display: Display
) -> bool:
    """Print the table and each failure; True when every point is ok or skipped."""
    display.line("")
    display.table(records)
    bad = [
        (r, p)
        for r, p in zip(records, planned, strict=True)
        if r["status"] not in ("ok", "skipped")
    ]
    for failed, each in bad:
        display.line(
            f"\n{failed['status']}: {each.point.name}\n  {failed['reason']}"
            f"\n  record: {each.point.timing}"
        )
    counts = [
        f"{n} {s}" for s in dict.fromkeys(r["status"] for r in records) if (n := _count(records, s))
    ]
    display.line(
        f"\n{len(records)} points: {', '.join(counts)};"
        f" records below {planned[0].point.directory.parent}"
    )
    return not bad


def _count(records: Sequence[dict[str, Any]], status: str) -> int:
    return sum(r["status"] == status for r in records)
