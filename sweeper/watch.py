"""Wait for submitted points: follow them, take in what ended, submit again what Slurm took away."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refit.display import Display
from refit.job import UserError
from refit.ranks.processes import tail
from refit.record import environment, record
from refit.record.point import Point, read_json, write_atomic
from refit.record.record import Status
from sweeper import slurm, status

POLL_S = 1.0
UNKNOWN = 20  # polls in which Slurm does not know a job, until it is given up; accounting lags
REFUSED = 5  # times that Slurm may refuse what is submitted again

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


@dataclass
class _Watched:
    """What the controller remembers of a point."""

    tries: int = 1  # jobs that reached it, the one under way included
    unknown: int = 0  # polls in which Slurm did not know its job


def watch(points: Sequence[Point], root: Path, display: Display) -> None:
    """Return when every point has a final state. A controller that is killed may be run again.

    Args:
        points: submitted; their status.json says under which ids.
        root: the sweep's folder.
        display: shows what the points of each shape do.

    Raises:
        UserError: Slurm refuses, several times, what is submitted again.
    """
    groups = slurm.labelled(points)
    with display.groups() as show:
        _follow(
            points,
            root,
            lambda said: show({name: _counts(said, alike) for name, alike in groups.items()}),
            display.line,
        )


_Said = dict[str, dict[str, Any]]  # status.json by the point's name


def _counts(said: _Said, points: Sequence[Point]) -> Counter[str]:
    """How many of the points are pending, running, done and failed."""
    words = dict.fromkeys(status.FINAL, "failed") | {"ok": "done", "skipped": "done"}
    words |= {"running": "running"}
    return Counter(words.get(said[p.name]["state"], "pending") for p in points)


def _follow(
    points: Sequence[Point],
    root: Path,
    show: Callable[[_Said], None],
    say: Callable[[str], None],
) -> None:
    watched = {p.name: _Watched() for p in points}
    refused, start = 0, time.monotonic()
    while True:
        said = {p.name: status.get(p) for p in points}
        show(said)
        open_points = [p for p in points if said[p.name]["state"] not in status.FINAL]
        if not open_points:
            return
        try:
            alive = slurm.queued()
            # read once more: a job that is not queued any more has written its last
            gone = [p for p in open_points if said[p.name]["slurm_id"] not in alive]
            said |= {p.name: status.get(p) for p in gone}
            for point in open_points:
                at = said[point.name]
                requeued = at["state"] == "running" and alive.get(at["slurm_id"]) == "PENDING"
                if requeued and status.get(point) == at:
                    # Slurm will start its job anew; the next attempt has a name of its own
                    status.put(point, "submitted", at["attempt"], at["slurm_id"])
            began = {s["slurm_id"] for s in said.values() if s["state"] != "submitted"}
            cost = {p.name: _again(p, said[p.name], began, watched[p.name], say) for p in gone}
            again = [p for p in gone if cost[p.name] is not None]
            if again:
                slurm.submit(again, root)
                for point in again:
                    watched[point.name].tries += cost[point.name] or 0
            refused = 0
        except UserError as error:  # slurmctld restarts, say
            refused += 1
            if refused >= REFUSED and "refuses" in str(error):
                raise
            if refused == 1:
                say(f"trying again every {6 * POLL_S:g} s: {error}")
            time.sleep(5 * POLL_S)
        except OSError as error:  # a full disk, say
            refused += 1
            lost = f"cannot write results to {root}: {error.strerror}"
            if refused >= REFUSED:
                raise UserError(
                    f"{lost}; nothing that was written is lost: make room, and the same command"
                    " goes on from here"
                ) from None
            say(f"trying again in {6 * POLL_S:g} s: {lost}")
            time.sleep(5 * POLL_S)
        # a long sweep asks less often: after ten minutes every ten seconds
        time.sleep(min(10.0, max(POLL_S, (time.monotonic() - start) / 60)))


def _again(
    point: Point,
    said: dict[str, Any],
    began: set[str],
    watched: _Watched,
    say: Callable[[str], None],
) -> int | None:
    """Decide on a point whose job is not queued any more.

    Args:
        said: its status.json.
        began: ids of jobs that got to at least one of their points.

    Returns:
        How many tries it costs to submit it again; None if it is not to be.
    """
    if said["state"] == "pending":
        return 0  # refused when it was submitted again
    if said["state"] in status.FINAL or has_ended(point, said):
        return None
    slurm_id = said["slurm_id"]
    word = slurm.state(slurm_id)
    if word == "UNKNOWN" and watched.unknown < UNKNOWN:
        watched.unknown += 1
        return None
    if word in ALIVE:
        return None  # queued anew after it was looked for
    watched.unknown = 0
    found, retried = TAKEN.get(word, ("crashed", False))
    if said["state"] == "submitted" and slurm_id in began and word not in ("CANCELLED", "UNKNOWN"):
        say(f"{point.name}: job {slurm_id} is {word} and did not get to it; submitted again")
        return 0
    if retried and watched.tries < point.job.sweep.max_attempts:
        tries = f"try {watched.tries + 1} of {point.job.sweep.max_attempts}"
        say(f"{point.name}: job {slurm_id} is {word}; {tries}")
        return 1
    words = (
        "Slurm does not know job {}, which was cancelled while it was pending, or is long gone"
        if word == "UNKNOWN"
        else f"Slurm says {word} of job {{}}, which left no record"
    )
    log = point.directory.parent.resolve() / slurm.SUBMITIT / f"{slurm_id}_0_log.out"
    which = f" in try {watched.tries}" if retried else ""
    reason = words.format(slurm_id) + which + (tail(log) or "; it wrote no log")
    attempt = point.attempt(said["attempt"])
    begun = record.begin(point, environment.describe())
    record.write(attempt.timing, record.ended(begun, found, reason))
    has_ended(point, said)
    return None


# States of a job that Slurm has not finished with.
ALIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "STOPPED", "SIGNALING"),
    *("STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESIZING"),
}


def has_ended(point: Point, said: dict[str, Any]) -> bool:
    """Whether the attempt has a record, which then becomes the point's.

    A job may be killed, or its disk be full, between the record and the status.
    """
    path = point.attempt(said["attempt"]).timing
    found = read_json(path)
    if found is None:
        return False
    write_atomic(point.timing, path.read_text())
    status.put(point, found["status"], said["attempt"], said["slurm_id"])
    return True
