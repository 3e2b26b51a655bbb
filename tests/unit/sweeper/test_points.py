"""Overrides -> points: repetitions in their order, what is left out, what comes twice."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Job
from refit.record.point import Point
from refit.record.record import begin, ended, write
from sweeper import status
from sweeper.points import ORDER_OF_JOBS, SweepPlan, _check_allocation, _twice, plan_points
from sweeper.status import Standing
from tests.support.jobs import job

IPC, GLOO = job(), job(method="gloo")


def swept(what: Job, **changes: Any) -> Job:
    return replace(what, sweep=replace(what.sweep, **changes))


def on_slurm(what: Job) -> Job:
    return replace(what, cluster=replace(what.cluster, launcher="slurm"))


def planned(jobs: list[Job], root: Path = Path("/none")) -> tuple[SweepPlan, list[str]]:
    said: list[str] = []
    batch = [[str(number)] for number in range(len(jobs))]
    return plan_points(batch, lambda o: jobs[int(o[0])], root, said.append), said


@pytest.mark.parametrize(
    ("interleave", "order"), [(False, [0, 0, 0, 1, 1, 1]), (True, [0, 1, 0, 1, 0, 1])]
)
def test_repetitions_are_points_of_their_own(interleave: bool, order: list[int]) -> None:
    plan, said = planned([swept(each, repeat=3, interleave=interleave) for each in (IPC, GLOO)])
    assert [int(p.point.overrides[0]) for p in plan.points] == order and said == []
    alone = ("sweep.interleave=false",) if interleave else ()
    last = plan.points[-1].point
    assert last.overrides == ("1", "sweep.repeat=1", "sweep.repetition=3", *alone)
    assert last.job.sweep.repetition == 3
    (once,) = planned([IPC])[0].points
    assert once.point.overrides == ("0",)


def test_which_job_starts_when_is_slurms_to_decide() -> None:
    both = [on_slurm(swept(IPC, repeat=2, interleave=True)), swept(GLOO, repeat=2, interleave=True)]
    assert planned(both)[1] == [ORDER_OF_JOBS]
    plan = [replace(each, mode="plan") for each in both]
    assert planned(plan)[1] == []
    assert planned([on_slurm(IPC), GLOO])[1] == []


def test_taking_turns_needs_repetitions() -> None:
    with pytest.raises(
        UserError, match=r"sweep\.repeat=1 says there are none; add sweep\.repeat=3"
    ):
        planned([swept(IPC, interleave=True), swept(GLOO, interleave=True)])
    plan, _ = planned([swept(IPC, interleave=True, repeat=2), swept(GLOO, interleave=True)])
    assert [p.point.job.sweep.repetition for p in plan.points] == [1, 1, 2]


def test_an_allocation_is_for_what_is_below_slurm() -> None:
    _check_allocation([on_slurm(IPC), replace(IPC, mode="plan")])
    with pytest.raises(UserError, match=r"cluster=local as processes of this machine; type"):
        _check_allocation([on_slurm(IPC), IPC])


def test_what_is_excluded() -> None:
    plan, said = planned([swept(each, exclude=["*gloo*"]) for each in (IPC, GLOO)])
    assert [p.point.job.refit.method for p in plan.points] == ["ipc"]
    assert said == ["sweep.exclude leaves out 1 of 2 points"]
    plan, said = planned([IPC, swept(GLOO, exclude=[])])
    assert len(plan.points) == 2 and said == []


@pytest.mark.parametrize(
    ("patterns", "fault"),
    [
        (["*x", "*gloo*"], "no point matches *x; there are "),
        (["*y", "*x"], "no point matches *x, *y; there are "),
        (["*"], "it leaves out all points; there are "),
    ],
)
def test_what_cannot_be_excluded(patterns: list[str], fault: str) -> None:
    jobs = [swept(each, exclude=patterns) for each in (IPC, GLOO)]
    names = ", ".join(Point.of(each, Path("/none")).name for each in jobs)
    with pytest.raises(UserError, match=re.escape(f"sweep.exclude: {fault}{names}") + "$"):
        planned(jobs)


@pytest.mark.parametrize(("count", "end"), [(10, ""), (11, " and 1 more"), (13, " and 3 more")])
def test_ten_points_are_named(count: int, end: str) -> None:
    jobs = [swept(replace(IPC, seed=seed), exclude=["x"]) for seed in range(count)]
    names = ", ".join(Point.of(each, Path("/none")).name for each in jobs[:10])
    with pytest.raises(UserError, match=re.escape(f"there are {names}{end}") + "$"):
        planned(jobs)


@pytest.mark.parametrize(("count", "end"), [(3, ""), (4, ", ...")])
def test_what_is_only_read_must_be_there(count: int, end: str, tmp_path: Path) -> None:
    jobs = [swept(replace(IPC, seed=seed), mode="read-only") for seed in range(count + 1)]
    points = [Point.of(each, tmp_path) for each in jobs]
    points[0].freeze()
    write(points[0].timing, ended(begin(points[0], {}), "failed", "x"))
    names = ", ".join(point.name for point in points[1:4])
    words = f"sweep.mode=read-only, and {count} of {count + 1} points have no record in {tmp_path}:"
    with pytest.raises(UserError, match=re.escape(f"{words} {names}{end}; run them with")):
        planned(jobs, tmp_path)
    plan, _ = planned(jobs[:1], tmp_path)
    assert plan.points[0].kept is not None and not plan.points[0].runs


def test_a_file_in_a_records_place_is_told(tmp_path: Path) -> None:
    point = Point.of(IPC, tmp_path)
    point.freeze()
    point.timing.write_text("{}")
    plan, (said,) = planned([IPC], tmp_path)
    assert plan.points[0].runs and said.endswith("; it is kept aside once there is another")


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (["a", "b"], ["a", "c", "d"], "the same point, runs once: b and c d make one job, NAME"),
        (["a"], ["a", "c"], "the same point, runs once: what is shipped and c make one job, NAME"),
        (["b", "a"], ["a", "b"], "asked for twice, runs once: b a"),
        ([], [], "asked for twice, runs once: the point"),
        (["etp=1"], ["etp=2"], "the same point, runs once: etp=1 and etp=2 make one job, NAME"),
    ],
)
def test_what_makes_one_point(one: list[str], other: list[str], words: str) -> None:
    point = Point.of(IPC, Path("/none"))
    assert _twice(point, one, other) == words.replace("NAME", point.name)


@pytest.mark.parametrize(
    ("said", "record", "state"),
    [
        (None, None, "pending"),
        (None, "ok", "ok"),
        (None, "half", "damaged"),
        ("submitted", None, "submitted"),
        ("running", "ok", "running"),  # what is stored is of an earlier attempt
        ("ok", "ok", "ok"),
        ("failed", "ok", "failed"),
        ("ok", None, "damaged"),
        ("ok", "half", "damaged"),
    ],
)
def test_where_a_point_stands(
    said: str | None, record: str | None, state: str, tmp_path: Path
) -> None:
    point = Point.of(IPC, tmp_path)
    point.freeze()
    assert status.get(point) == Standing()
    if said:
        status.put(point, said, "0", "3_1")
        assert status.get(point) == replace(status.get(point), state=said, slurm_id="3_1")
    if record == "half":
        point.timing.write_text('{"status')
    elif record:
        write(point.timing, ended(begin(point, {}), "ok", ""))
    found = status._standing(point.directory)
    assert (found.state, found.slurm_id) == (state, "3_1" if said else "")
    status.put_pending(point)
    assert status.get(point).state == "pending" and status.get(point).at
