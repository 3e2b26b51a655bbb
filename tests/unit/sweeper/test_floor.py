"""A log of ct-perftest -> the limit of a plan's record, in numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refit.errors import UserError
from refit.plan.plan import Bounds
from refit.record.parts import Limit, Placed, PlanNumbers, Side, Throughput
from refit.record.point import Point
from refit.record.record import begin
from sweeper.floor import LATENCY, SIZE, limit_of, with_limit
from tests.support.jobs import job

# 3 GB, of which 2 go between ranks, of eight
PLAN = PlanNumbers(1, 3 * 10**9, 10**9, 0, 0, 0, 0, 0, 0, Bounds(0, 0, 0, 0))
SIDE = Side([0], 1, 1, 1, 1, 1, 1, 1, 1)
RECORD = replace(
    begin(Point.of(job(), Path("results")), {}), plan=PLAN, layout=Placed(8, 8, SIDE, SIDE, [])
)
HEAD = f"  Iters    Total time (s)    {LATENCY}    {SIZE}    Other"


@pytest.mark.parametrize(
    ("log", "gbps"),
    [
        ([HEAD, "10 5.0 0.5 2.0"], 6.0),
        (["words", HEAD, "-----", "", "10 5.0 0.5 2.0", "10 5.0 9.0 9.0"], 6.0),
        ([HEAD, "10 5.0 0.5 1.5", "", HEAD, "10 5.0 0.25 0.5"], 4.0),
        # sizes are rounded to a millionth, and a rank may write one byte of its own
        ([HEAD, "10 5.0 0.5 2.000001"], 6.0),
        ([HEAD, "10 5.0 0.5 1.999999"], 6.0),
        ([HEAD, "10 5.0 0.0 7.0", HEAD, "10 5.0 0.5 2.0"], 6.0),  # of a hop that moves nothing
    ],
)
def test_what_a_log_says_of_a_plan(log: list[str], gbps: float) -> None:
    limit = limit_of([line.replace("-----", "") for line in log], "x.log", RECORD)
    what = "nixl ct-perftest of this plan's bytes, from x.log"
    assert limit == Limit(what, limit.gbps, "imported", "nixl")
    assert limit.gbps == pytest.approx(gbps)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ([], "x.log has no table of ct-perftest, whose columns are"),
        ([HEAD], "x.log has no table"),
        ([HEAD, "", "", "", "10 5.0 0.5 2.0"], "x.log has no table"),
        (
            [HEAD, "10 5.0 0.5 2.000003"],
            "x.log is of 2.000003 GB, and the plan of tiny-pair-ipc-.* moves",
        ),
        ([HEAD, "10 5.0 0.5 3.0"], r"moves 2.000000 GB between ranks; export its matrix"),
    ],
)
def test_what_says_nothing_of_a_plan(log: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        limit_of(log, "x.log", RECORD)


def test_a_limit_takes_the_place_of_an_earlier_one() -> None:
    copies = Limit("copies", 4.0, "measured", "memory")
    rate = Throughput(2.0, 4.0, "copies", "measured", 0.5, [copies])
    loose, tight = (Limit("nixl", gbps, "imported", "nixl") for gbps in (8.0, 2.5))
    first = with_limit(rate, loose)
    assert first == replace(rate, limits=[copies, loose])
    assert with_limit(first, tight) == Throughput(
        2.0, 2.5, "nixl", "imported", 0.8, [copies, tight]
    )
