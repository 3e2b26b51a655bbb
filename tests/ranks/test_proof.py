"""Faults of every kind, by every method: none of them has a time, and the reason says which refit.

All of them are tried on top of `ipc`; by the other methods those that once came through as ok.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from refit.job import Cluster, Degrees, Job
from refit.ranks.agent import Agent
from tests.support import broken, faults
from tests.support.faults import Fault
from tests.support.jobs import job, methods_on_cpu
from tests.support.records import ran
from tests.support.sample import sampled, thorough

METHODS = methods_on_cpu()

# what the reason must say, by kind
WRONG = r"^\d+ of \d+ (elements|stamps) are wrong, first in \S+ after "
AFTER: dict[type[Fault], str] = {
    broken.LeavesTensorWhenWarm: r"timed iteration 1",
    broken.LeavesTensorInTimed: r"timed iteration 1",
    broken.SkipsTimed: r"timed iteration 1",
    broken.SkipsLastTimed: r"timed iteration 2",
    broken.SkipsChanged: r"the refit of changed weights",
    broken.MovesOnlyChanges: r"timed iteration",
    broken.DeliversBefore: r"timed iteration 1",
    broken.OnlyFirstTimedWrong: r"timed iteration 1",
    broken.OnlyLastTimedWrong: r"timed iteration 2",
    broken.LateTail: r"",  # of twenty timed ones, any
    broken.OneRankUnchecked: r"timed iteration 1",  # its stamps are looked at all the same
    faults.DeliversStale: r"timed iteration 1",
}
SOURCE = r"^the refits changed \d+ elements of the source, first in \S+, seen after "
COVERAGE = r"^rank \d looked at \d+ elements, and the plan writes \d+ there"
REASONS: dict[type[Fault], str] = {
    **{
        fault: WRONG + AFTER.get(fault, "the cold refit")
        for fault in (
            *broken.BITS, *broken.PLACES, *broken.NOT_WRITTEN, *broken.TIME,
            faults.SwapsExperts, faults.MisordersGateUp, faults.DropsBlock, faults.RoundsUp,
            faults.DeliversStale,
        )
    },
    **dict.fromkeys(broken.COVERAGE, COVERAGE),
    **dict.fromkeys((*broken.SOURCE, faults.ScribblesOnSource), SOURCE),
}  # fmt: skip
ONCE_OK = (
    broken.SkipsTimed, broken.LeavesTensorWhenWarm, broken.OnlyColdWrong,
    broken.OnlyFirstTimedWrong, broken.LateTail, broken.ZeroesSourceAfterTimed,
    broken.NothingToCheck, broken.OneRankUnchecked, faults.DropsBlock, faults.DeliversStale,
)  # fmt: skip


def of(fault: type[Fault], method: str, **bench: int) -> Job:
    """Five ranks: TP 2 -> TP 1 in two replicas; of hierarchical plans over pretended nodes."""
    how, _, below = method.partition(" ")
    if fault is broken.LateTail:
        bench = {"iterations": 20}
    sides = (Degrees(tp=2, etp=1), Degrees(tp=1, etp=1, gpus=2))
    name = f"tests.support.faults:{below or how}_{fault.__name__}"
    what = job(*sides, method=name, bench=bench, ranks_per_node=4)
    if how != "hierarchical":
        return what
    refit = replace(what.refit, fanout=how)
    return replace(what, refit=refit, cluster=Cluster(name="pretended", nodes=2, ranks_per_node=2))


@pytest.mark.parametrize(
    ("fault", "method"),
    [
        *(thorough((f, "ipc")) if f in ONCE_OK else (f, "ipc") for f in REASONS),
        # every third of four ways each: each of these faults is left, and each way
        *sampled(
            (
                (fault, way)
                for fault in ONCE_OK
                for way in (*METHODS, "hierarchical gloo")
                if way != "ipc"
            ),
            3,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_fault_has_no_time(agent: Agent, tmp_path: Path, fault: type[Fault], method: str) -> None:
    record = ran(agent, tmp_path, of(fault, method))
    assert (record["status"], record["seconds"]) == ("invalid", None), record["reason"]
    # a rank that passes on what was spoilt spoils others
    reason = "wrong|changed|looked at" if "hierarchical" in method else REASONS[fault]
    assert re.search(reason, record["reason"]), record["reason"]
