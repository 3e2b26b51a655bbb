"""What becomes of a point, case by case; no Slurm, no disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refit.record.point import Point
from refit.record.record import Record, Status, begin, ended
from sweeper.decisions import (
    ALIVE,
    TAKEN,
    UNKNOWN_POLLS,
    Decision,
    End,
    Resubmit,
    Wait,
    adoption,
    decide,
    holds,
    is_requeued,
    keeps,
    outcome,
)
from sweeper.status import FINAL, Standing
from tests.support.jobs import job

POINT = Point.of(job(), Path("/results"))
RUNNING = Standing("running", "0", "12_3", "then")
SUBMITTED = replace(RUNNING, state="submitted")
LEFT = "Slurm says {} of job 12_3, which left no record"


def record(status: Status) -> Record:
    """A record of the point."""
    return ended(begin(POINT, {}), status, f"because it is {status}")


@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        ("retry", {"ok"}),
        ("cached", FINAL - {"interrupted"}),
        ("read-only", FINAL),
        ("force", set()),
    ],
)
def test_what_a_mode_keeps(mode: str, kept: set[str]) -> None:
    statuses: list[Status] = [
        "ok", "invalid", "failed", "timeout", "oom", "crashed", "unsupported", "skipped",
        "interrupted", "imported",
    ]  # fmt: skip
    assert {s for s in statuses if keeps(mode, record(s))} == kept
    assert not keeps(mode, None)


@pytest.mark.parametrize(
    ("standing", "alive", "held"),
    [
        (SUBMITTED, {"12_3"}, True),
        (RUNNING, {"12_3", "13"}, True),
        (RUNNING, {"12", "12_30"}, False),
        (RUNNING, set(), False),
        # a job that has ended the point runs its pack-mates
        (replace(RUNNING, state="ok"), {"12_3"}, False),
        (replace(RUNNING, state="failed"), {"12_3"}, False),
        # Slurm may start it anew, and then it tries the point again
        (replace(RUNNING, state="crashed"), {"12_3"}, True),
        # it was another job that ended it
        (replace(RUNNING, state="ok", slurm_id="11"), {"12_3"}, True),
        (Standing(), {"12_3"}, True),
    ],
)
def test_what_a_job_holds(standing: Standing, alive: set[str], held: bool) -> None:
    assert holds(standing, "12_3", alive) is held


@pytest.mark.parametrize(
    ("standing", "slurm_id", "what"),
    [
        (Standing(), "", "submit"),
        (SUBMITTED, "", "submit"),  # its job has gone
        (Standing(), "12_3", "adopt"),  # killed after sbatch, before it wrote the id
        (replace(SUBMITTED, slurm_id="11"), "12_3", "adopt"),
        (SUBMITTED, "12_3", "held"),
        (RUNNING, "12_3", "held"),
        (replace(RUNNING, state="crashed"), "12_3", "held"),
        (replace(RUNNING, state="oom"), "12_3", "submit"),
        (SUBMITTED, "14", "submit"),  # made by a job that is not in the queue
    ],
)
def test_which_job_is_adopted(standing: Standing, slurm_id: str, what: str) -> None:
    assert adoption(standing, slurm_id, {"12_3": "PENDING", "13": "RUNNING"}) == what


def test_what_is_queued_anew() -> None:
    assert is_requeued(RUNNING, "PENDING")
    for standing, queue_state in ((RUNNING, "RUNNING"), (RUNNING, None), (SUBMITTED, "PENDING")):
        assert not is_requeued(standing, queue_state)


CASES: dict[str, tuple[Standing, str | None, int, bool, Decision]] = {
    # standing, what Slurm says, tries of three, whether the job got to a point of its pack
    "no job": (Standing(), None, 1, False, Resubmit(0)),
    "queued anew": (RUNNING, "PENDING", 1, True, Wait()),
    "ends itself": (RUNNING, "COMPLETING", 1, True, Wait()),
    "waits in the queue": (SUBMITTED, "REQUEUED", 3, True, Wait()),
    "preempted": (RUNNING, "PREEMPTED", 1, True, Resubmit(1, "job 12_3 is PREEMPTED; try 2 of 3")),
    "and again": (RUNNING, "NODE_FAIL", 2, True, Resubmit(1, "job 12_3 is NODE_FAIL; try 3 of 3")),
    "once too often": (
        RUNNING, "NODE_FAIL", 3, True, End("crashed", LEFT.format("NODE_FAIL") + " in try 3"),
    ),
    "too long": (RUNNING, "TIMEOUT", 3, True, End("timeout", LEFT.format("TIMEOUT") + " in try 3")),
    "too long, first": (
        RUNNING, "TIMEOUT", 1, True,
        Resubmit(1, "job 12_3 is TIMEOUT; try 2 of 3, under the same time limit"),
    ),
    "out of memory": (RUNNING, "OUT_OF_MEMORY", 1, True, End("oom", LEFT.format("OUT_OF_MEMORY"))),
    "cancelled": (RUNNING, "CANCELLED", 1, True, End("failed", LEFT.format("CANCELLED"))),
    "cancelled in the queue": (
        SUBMITTED, "CANCELLED", 1, False, End("failed", LEFT.format("CANCELLED")),
    ),
    "its pack was cancelled": (
        SUBMITTED, "CANCELLED", 1, True, End("failed", LEFT.format("CANCELLED")),
    ),
    "no record, no error": (
        RUNNING, "COMPLETED", 1, True, End("crashed", LEFT.format("COMPLETED")),
    ),
    "its agent died": (RUNNING, "FAILED", 1, True, End("crashed", LEFT.format("FAILED"))),
    "a word of a later Slurm": (RUNNING, "MELTED", 1, True, End("crashed", LEFT.format("MELTED"))),
    # the pack ended before its turn: that is no try of its own
    "not got to": (
        SUBMITTED, "TIMEOUT", 3, True,
        Resubmit(0, "job 12_3 is TIMEOUT and did not get to it; submitted again"),
    ),
    "not got to, of a failed job": (
        SUBMITTED, "FAILED", 1, True,
        Resubmit(0, "job 12_3 is FAILED and did not get to it; submitted again"),
    ),
    # a job that gets to none of its points would be submitted for ever
    "a job that never began": (
        SUBMITTED, "FAILED", 1, False, End("crashed", LEFT.format("FAILED")),
    ),
    "lost its node before it began": (
        SUBMITTED, "BOOT_FAIL", 1, False, Resubmit(1, "job 12_3 is BOOT_FAIL; try 2 of 3"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_point_whose_job_is_not_queued(case: str) -> None:
    standing, slurm_state, tries, began, decision = CASES[case]
    assert decide(standing, slurm_state, tries, 3, began) == decision


def test_a_job_that_slurm_has_not_finished_with_is_waited_for() -> None:
    words = (
        "PENDING CONFIGURING RUNNING SUSPENDED COMPLETING STOPPED SIGNALING STAGE_OUT REQUEUED"
        " REQUEUE_HOLD REQUEUE_FED SPECIAL_EXIT RESIZING"
    )
    assert all(decide(RUNNING, word, 3, 3) == Wait() for word in words.split())


def test_what_is_not_seen_once_may_be_there() -> None:
    for standing, slurm_state, tries, began, decision in CASES.values():
        first = Wait() if slurm_state else decision  # without a job there is none to leave it
        assert decide(standing, slurm_state, tries, 3, began, 0, 1) == first
        assert decide(standing, slurm_state, tries, 3, began, 0, 2) == decision


def test_a_job_that_slurm_does_not_know_is_waited_for() -> None:
    # accounting lags; and one that was cancelled in the queue it never learns of
    for standing in (RUNNING, SUBMITTED):
        for began in (True, False):
            for polls in (1, UNKNOWN_POLLS):
                assert decide(standing, "UNKNOWN", 1, 3, began, polls) == Wait()
            given_up = decide(standing, "UNKNOWN", 1, 3, began, UNKNOWN_POLLS + 1)
            assert given_up == End(
                "failed",
                "Slurm does not know job 12_3, which was cancelled while it was pending, or is"
                " long gone",
            )


def test_one_attempt_is_not_repeated() -> None:
    for word, (status, _) in TAKEN.items():
        decision = decide(RUNNING, word, 1, 1, unknown_polls=UNKNOWN_POLLS + 1)
        assert isinstance(decision, End) and decision.status == status


def test_no_word_is_of_two_kinds() -> None:
    assert not ALIVE & set(TAKEN)


MADE, STORED = record("failed"), record("ok")


@pytest.mark.parametrize(
    ("standing", "made", "stored", "is_distant", "state", "stands", "is_good"),
    [
        # what this process made stands, also where the disk has another
        (Standing(), MADE, None, False, "failed", MADE, False),
        (Standing(), MADE, STORED, False, "failed", MADE, False),
        (Standing(), record("skipped"), None, False, "skipped", record("skipped"), True),
        # Slurm still has it, and what is stored is of an earlier attempt
        (SUBMITTED, None, STORED, True, "submitted", None, True),
        (RUNNING, None, None, True, "running", None, True),
        (Standing(), None, STORED, True, "pending", None, False),
        # it has ended
        (replace(RUNNING, state="ok"), None, STORED, True, "ok", STORED, True),
        (replace(RUNNING, state="failed"), None, MADE, True, "failed", MADE, False),
        # done by another controller, or as a step: not this one's to wait for
        (RUNNING, None, STORED, False, "ok", STORED, True),
        # its record is gone
        (replace(RUNNING, state="ok"), None, None, True, "failed", None, False),
        (RUNNING, None, None, False, "failed", None, False),
    ],
)
def test_which_record_stands_for_a_point(
    standing: Standing,
    made: Record | None,
    stored: Record | None,
    is_distant: bool,
    state: str,
    stands: Record | None,
    is_good: bool,
) -> None:
    found = outcome(POINT, standing, made, stored, is_distant)
    assert (found.state, found.is_good) == (state, is_good)
    if stands is None:
        lacks = "not submitted yet: Slurm had no room; the same command submits it"
        expected = lacks if state == "pending" else f"{POINT.timing} is gone"
        assert found.record is None and found.reason == expected
    else:
        assert found.record is not None and found.record.status == stands.status
        assert found.reason == stands.reason
