"""Slurm's time limit of a job against what its points may take. Pure, but for their records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from refit.job import Job
from refit.record.point import Point
from refit.record.record import Record

FORMS = (
    # what Slurm takes, and how many seconds each of its numbers is
    (r"(\d+)", (60,)),
    (r"(\d+):(\d+)", (60, 1)),
    (r"(\d+):(\d+):(\d+)", (3600, 60, 1)),
    (r"(\d+)-(\d+)", (86400, 3600)),
    (r"(\d+)-(\d+):(\d+)", (86400, 3600, 60)),
    (r"(\d+)-(\d+):(\d+):(\d+)", (86400, 3600, 60, 1)),
)

ENDED_BY_IT = "Slurm says TIMEOUT"
"""How the reason of a point begins whose job met its limit."""


def seconds(time: Any) -> int | None:
    """Of a time of Slurm's: minutes, h:m:s, d-h, ...; None where there is no limit."""
    for form, units in FORMS:
        if found := re.fullmatch(form, str(time)):
            return sum(int(n) * unit for n, unit in zip(found.groups(), units, strict=True)) or None
    return None


def asked(job: Job) -> Any:
    """`cluster.slurm.time`, or None."""
    slurm = job.cluster.slurm or {}
    more = slurm.get("additional_parameters") or {}
    return more.get("time", slurm.get("time"))


def remarks(points: Sequence[Point], pack: int) -> list[str]:
    """What is said of points before they are submitted: each once, however many it is of.

    Args:
        pack: the most points of one job.
    """
    short: dict[str, int] = {}
    for point in points:
        if words := _short(point.job, min(pack, len(points))):
            short[words] = short.get(words, 0) + 1
    said = [f"{count} points: {words}" for words, count in short.items()]
    met = [p for p in points if _met_it(p)]
    if met:
        who = met[0].name if len(met) == 1 else f"{len(met)} points, {met[0].name} among them,"
        said.append(
            f"{who} met the time limit of {asked(met[0].job)}, and"
            f" {'is' if len(met) == 1 else 'are'} tried again under the same one;"
            " cluster.slurm.time=... gives more"
        )
    return said


def _short(job: Job, pack: int) -> str | None:
    limit_s, may_take_s = seconds(asked(job)), pack * job.bench.deadline_s
    if limit_s is None or may_take_s <= limit_s:
        return None
    each = f"{pack} in a job, {job.bench.deadline_s:g} s each (bench.deadline_s)"
    return (
        f"{each if pack > 1 else each.partition(', ')[2]}, may take {may_take_s:g} s, and"
        f" cluster.slurm.time={asked(job)} ends the job after {limit_s} s; what it ends is"
        f" submitted again. cluster.slurm.time={-(-int(may_take_s) // 60)} is enough"
    )


def _met_it(point: Point) -> bool:
    """Whether its record says so, under the limit that is asked for now."""
    record = Record.find(point.timing)
    if record is None or not record.reason.startswith(ENDED_BY_IT):
        return False
    return asked(Job.from_dict(record.config)) == asked(point.job)
