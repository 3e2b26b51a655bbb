"""The points of a sweep that are Slurm's: which of them are submitted, and what is said of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from refit.errors import UserError
from refit.record import environment, record
from refit.record.point import Point
from refit.record.record import Record
from refit.rules.methods import cannot_anywhere
from refit.show.display import Display
from sweeper import clients, points, status, time_limit, watch
from sweeper.decisions import holds
from sweeper.points import SweepPlan
from sweeper.status import Standing
from sweeper.submission import How, submit


def going_on(points: Sequence[tuple[Point, Standing]], root: Path) -> str | None:
    """What is said of a sweep that is left while Slurm has jobs of it."""
    left = [at.slurm_id for _, at in points if at.slurm_id and not at.is_final]
    if not left:
        return None
    jobs = list(dict.fromkeys(job.partition("_")[0] for job in left))
    more = f" and {len(jobs) - 5} more" if jobs[5:] else ""
    return (
        f"\n{len(left)} points are with Slurm, in jobs {', '.join(jobs[:5])}{more}, which go on;"
        f" python -m sweeper.cancel {shlex.quote(str(root))} ends them"
    )


def queue(
    distant: Sequence[Point], how: How, plan: SweepPlan, display: Display
) -> tuple[list[Point], dict[str, Record]]:
    """Submit what no job holds and no other controller has done meanwhile.

    Returns:
        What is then queued, and the records of what Slurm refuses, by the points' names.

    Raises:
        UserError: it refuses all points of the sweep, in its own words; then there is no record.
    """
    alive = clients.queue()
    standings = [(p, status.get(p)) for p in distant]
    without_job = [p for p, standing in standings if not holds(standing, standing.slurm_id, alive)]
    done = {p.name for p in without_job if _is_done(p, plan.settings.mode)}
    missing = [p for p in without_job if p.name not in done]
    made = _unsupported(missing)
    missing = [p for p in missing if p.name not in made]
    for words in time_limit.remarks(missing, plan.settings.pack):
        display.line(words)
    queued = len(distant) - len(made) - len(missing)
    done_now = submit(missing, how)
    refused = done_now.refused
    if len(refused) == len(plan.points):
        raise UserError(next(iter(refused.values())).words)
    waiting = len(done_now.waiting)
    display.line(f"{queued} points are queued, {len(missing) - waiting} submitted")
    for point in (p for p in missing if p.name in refused):
        attempt, words = refused[point.name]
        display.line(f"{point.name}: {words}")
        made[point.name] = end_here(point, "failed", words)
        status.put(point, "failed", attempt, "")
    return [p for p in distant if p.name not in done | made.keys()], made


def _unsupported(asked: Sequence[Point]) -> dict[str, Record]:
    """End those for which no allocation is to be waited for; their records by their names."""
    made = {}
    for point in asked:
        if reason := cannot_anywhere(point.job):
            made[point.name] = end_here(point, "unsupported", reason)
            status.put(point, "unsupported", point.attempt().directory.name, "")
    return made


def _is_done(point: Point, mode: str) -> bool:
    """Whether a job of another controller has ended it, unless all is to run again."""
    standing = status.get(point)
    if standing.state in ("submitted", "running"):
        watch.take_in_record(point, standing)  # killed before it could say so for the point
    return points.earlier(point, mode)[0] is not None


def end_here(point: Point, how: record.Status, reason: str) -> Record:
    """A record for a point that cannot run; an earlier one stays in its attempt's folder."""
    try:
        point.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write results to {point.directory}: {error.strerror}") from None
    begun = record.begin(point, _environment())
    return record.keep(record.ended(begun, how, reason), point.timing)


@cache
def _environment() -> dict[str, Any]:
    """This machine and code, asked once per process and not once per point that is skipped."""
    return environment.of_controller()
