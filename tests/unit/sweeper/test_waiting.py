"""Which of Slurm's reasons no waiting ends, and what is said of them."""

from __future__ import annotations

import pytest

from sweeper.waiting import forever, waiting


@pytest.mark.parametrize(
    "reason",
    [
        "PartitionTimeLimit", "PartitionNodeLimit", "PartitionConfig", "DependencyNeverSatisfied",
        "JobHeldUser", "JobHeldAdmin", "launch failed requeued held",
        "(launch_failed_requeued_held)",
        "QOSMaxWallDurationPerJobLimit", "AssocMaxNodePerJobLimit", "AccountNotAllowed",
        "InvalidQOS", "BadConstraints",
    ],
)  # fmt: skip
def test_a_job_that_cannot_start_is_said_loudly(reason: str) -> None:
    assert forever(reason)
    (held,) = waiting([("12_0", reason), ("12_1", reason), ("13", reason)])
    assert str(held).startswith(f"WARNING: job 12_0 and 2 more cannot start as asked for: {reason}")
    assert "; scancel 12 13 and ask" in str(held)


@pytest.mark.parametrize(
    "reason",
    [
        "Resources", "Priority", "Dependency", "BeginTime", "QOSMaxJobsPerUserLimit",
        "AssocMaxJobsLimit", "QOSMaxGRESPerUser", "ReqNodeNotAvail, UnavailableNodes:node1",
        "JobArrayTaskLimit", "Reservation",
    ],
)  # fmt: skip
def test_other_reasons_are_named(reason: str) -> None:
    assert forever(reason) is None
    assert [str(held) for held in waiting([("12", reason)])] == [f"job 12 waits: {reason}"]


def test_a_reason_is_named_once_and_none_is_none() -> None:
    found = waiting([("1", "Priority"), ("2", "None"), ("3", "Resources"), ("4", "Priority")])
    assert [(held.reason, held.slurm_ids) for held in found] == [
        ("Priority", ("1", "4")),
        ("Resources", ("3",)),
    ]
