"""Wait for submitted points: follow them, take in what ended, submit again what Slurm took away."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from refit import environment, record
from refit.job import UserError
from refit.point import Point, write_atomic
from refit.record import Status
from sweeper import slurm, status

POLL_S = 1.0
MISSED = 3  # polls without a trace of a job before its end is believed: accounting lags

# Slurm's state of a job that left no record -> the point's status, and whether it is run again.
TAKEN: dict[str, tuple[Status, bool]] = {
    "PREEMPTED": ("crashed", True),
    "NODE_FAIL": ("crashed", True),
    "BOOT_FAIL": ("crashed", True),
    "TIMEOUT": ("timeout", True),
    "DEADLINE": ("timeout", True),
    "OUT_OF_MEMORY": ("oom", False),
    "CANCELLED": ("failed", False),
}


def watch(points: Sequence[Point], root: Path, say: Callable[[str], None]) -> None:
    """Return when every point has a final state. A controller that is killed may be run again.

    Args:
        points: submitted; their status.json says under which ids.
        root: the sweep's folder.
        say: told the counts whenever they change.
    """
    missed: Counter[str] = Counter()
    last = ""
    while True:
        states = {p.name: status.get(p) for p in points}
        counts = Counter(s["state"] for s in states.values())
        line = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
        if line != last:
            say(f"{time.strftime('%H:%M:%S')} {line}")
            last = line
        open_points = [p for p in points if states[p.name]["state"] not in status.FINAL]
        if not open_points:
            return
        try:
            alive = slurm.queued()
        except UserError as error:  # a controller that restarts: ask again
            say(f"waiting for Slurm: {error}")
            time.sleep(5 * POLL_S)
            continue
        again = []
        for point in open_points:
            slurm_id = states[point.name]["slurm_id"]
            missed[slurm_id] = 0 if slurm_id in alive else missed[slurm_id] + 1
            lost = missed[slurm_id] >= MISSED and status.get(point)["state"] not in status.FINAL
            if lost and _settle(point, states[point.name], say):
                again.append(point)
        if again:
            slurm.submit(again, root)
        time.sleep(POLL_S)


def _settle(point: Point, said: dict[str, str], say: Callable[[str], None]) -> bool:
    """Decide on a point whose job is gone without a record; True to submit it again."""
    words = slurm.state(said["slurm_id"])
    found, retried = TAKEN.get(words.split()[0], ("crashed", False))
    reached = said["state"] == "running"
    attempts = len([p for p in (point.directory / "attempts").iterdir() if p.name.isdigit()])
    left = attempts < point.job.sweep.max_attempts
    # what an allocation did not get to is pending again, unless somebody cancelled it
    if (retried or (not reached and found == "crashed")) and left:
        say(f"{point.name}: Slurm says {words}; attempt {attempts + 1}")
        return True
    logs = point.directory.parent / ".submitit"
    reason = (
        f"Slurm says {words} of job {said['slurm_id']}, which left no record after {attempts}"
        f" attempt(s); log: {logs / said['slurm_id']}_0_log.out"
    )
    final = record.ended(record.begin(point, environment.describe()), found, reason)
    record.write(point.attempt(said["attempt"]).timing, final)
    write_atomic(point.timing, point.attempt(said["attempt"]).timing.read_text())
    status.put(point, found, said["attempt"], said["slurm_id"])
    return False
