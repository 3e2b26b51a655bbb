"""What becomes of a point: kept, held by a job, submitted again, ended. Values in, values out."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from refit.record.point import Point
from refit.record.record import Record, Status
from sweeper.status import FINAL, Standing

DONE = ("ok",)  # what sweep.mode=retry keeps; cached and read-only keep what has ended by itself

# Final states that a job which Slurm starts anew does not try again. A crash it does: what ended
# the job may have ended some of its ranks first.
SETTLED = FINAL - {"crashed"}

UNKNOWN_POLLS = 20  # in which Slurm does not know a job, until it is given up; accounting lags

GONE_POLLS = 2  # in which a job has left the queue and no record is seen, until that is believed

# Slurm's state of a job that left no record -> the point's status, and whether it is run again.
TAKEN: dict[str, tuple[Status, bool]] = {
    "PREEMPTED": ("crashed", True),
    "NODE_FAIL": ("crashed", True),
    "BOOT_FAIL": ("crashed", True),
    "TIMEOUT": ("timeout", True),
    "DEADLINE": ("timeout", True),
    "OUT_OF_MEMORY": ("oom", False),
    "CANCELLED": ("failed", False),
    "COMPLETED": ("crashed", False),
    "FAILED": ("crashed", False),
    "UNKNOWN": ("failed", False),
}

# States of a job that Slurm has not finished with.
ALIVE = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "STOPPED", "SIGNALING"),
        *("STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESIZING"),
    )
)


def keeps(mode: str, record: Record | None) -> bool:
    """Whether `sweep.mode` lets an earlier record stand for the point."""
    if mode == "force" or record is None:
        return False
    if record.status == "interrupted":  # it has not ended by itself
        return mode == "read-only"
    return mode in ("cached", "read-only") or record.status in DONE


def holds(standing: Standing, slurm_id: str, alive: Container[str]) -> bool:
    """Whether a job that Slurm has not finished with may still run the point.

    One that has ended the point may take a while to end itself, or have its pack-mates to run.

    Args:
        slurm_id: the job's.
        alive: ids of the jobs in the queue.
    """
    ended = standing.slurm_id == slurm_id and standing.state in SETTLED
    return slurm_id in alive and not ended


def adoption(
    standing: Standing, slurm_id: str, alive: Container[str]
) -> Literal["submit", "adopt", "held"]:
    """What to do with a point that is to be submitted.

    A controller that is killed while it submits leaves jobs whose ids no status.json has.

    Args:
        slurm_id: of the queued job that was made for the point; empty where there is none.

    Returns:
        submit: no job holds it. adopt: one does, and its status.json is to say which. held: one
        does, and it says so.
    """
    if not holds(standing, slurm_id, alive):
        return "submit"
    return "held" if standing.slurm_id == slurm_id else "adopt"


def is_requeued(standing: Standing, queue_state: str | None) -> bool:
    """Whether Slurm will start anew a job that was running.

    Args:
        queue_state: what squeue says of the job; None where it is not queued.
    """
    return standing.state == "running" and queue_state == "PENDING"


@dataclass(frozen=True)
class Wait:
    """Nothing is to be done yet."""


@dataclass(frozen=True)
class Resubmit:
    """The point is to be submitted again.

    Attributes:
        cost: how many of its tries that takes.
        why: what a person is told; empty for nothing.
    """

    cost: int
    why: str = ""


@dataclass(frozen=True)
class End:
    """The point ends with a record of the controller's."""

    status: Status
    reason: str


Decision = Wait | Resubmit | End


def decide(
    standing: Standing,
    slurm_state: str | None,
    tries: int,
    max_attempts: int,
    began: bool = True,
    unknown_polls: int = 0,
    gone_polls: int = GONE_POLLS,
) -> Decision:
    """What becomes of a point that has no record and whose job is not queued any more.

    Args:
        standing: not final.
        slurm_state: what Slurm says of the job; UNKNOWN where it does not know it, None where the
            point has no job.
        tries: jobs that reached the point, this one included.
        max_attempts: how many there may be.
        began: whether the job got to at least one of its points.
        unknown_polls: in how many polls on end, this one included, Slurm did not know the job.
        gone_polls: in how many the point had neither a queued job nor a record.
    """
    if slurm_state is None:
        return Resubmit(0)  # refused when it was submitted again
    if gone_polls < GONE_POLLS:
        return Wait()  # a file of another node may be there and not be seen yet
    job = f"job {standing.slurm_id}"
    if slurm_state in ALIVE:
        return Wait()  # queued anew after it was looked for
    if slurm_state == "UNKNOWN":
        if unknown_polls <= UNKNOWN_POLLS:
            return Wait()
        lost = "which was cancelled while it was pending, or is long gone"
        return End(TAKEN["UNKNOWN"][0], f"Slurm does not know {job}, {lost}")
    if standing.state == "submitted" and began and slurm_state != "CANCELLED":
        return Resubmit(0, f"{job} is {slurm_state} and did not get to it; submitted again")
    status, is_retried = TAKEN.get(slurm_state, ("crashed", False))
    if is_retried and tries < max_attempts:
        same = ", under the same time limit" if slurm_state == "TIMEOUT" else ""
        return Resubmit(1, f"{job} is {slurm_state}; try {tries + 1} of {max_attempts}{same}")
    which = f" in try {tries}" if is_retried else ""
    return End(status, f"Slurm says {slurm_state} of {job}, which left no record{which}")


@dataclass(frozen=True)
class Outcome:
    """How a point stands at the end of a sweep.

    Attributes:
        state: the record's status; pending, submitted or running where Slurm still has the point;
            failed where it has ended and its record is gone.
        record: None unless it is of this state.
    """

    point: Point
    state: str
    record: Record | None

    @property
    def is_good(self) -> bool:
        """Whether the sweep may exit 0: the point is ok, cannot run, or is left to Slurm."""
        return self.state in ("ok", "skipped", "submitted", "running")

    @property
    def reason(self) -> str:
        """Why it is not ok."""
        if self.state == "pending":
            return "not submitted yet: Slurm had no room; the same command submits it"
        return self.record.reason if self.record else f"{self.point.timing} is gone"


def outcome(
    point: Point, standing: Standing, made: Record | None, stored: Record | None, is_distant: bool
) -> Outcome:
    """Which record stands for a point.

    Args:
        made: what this process has made or kept, also where the disk refused it.
        stored: the point's timing.json.
        is_distant: whether the point is Slurm's.
    """
    if made is not None:
        return Outcome(point, made.status, made)
    if is_distant and not standing.is_final:
        return Outcome(point, standing.state, None)  # what is stored is of an earlier attempt
    if stored is not None:
        return Outcome(point, stored.status, stored)
    return Outcome(point, "failed", None)
