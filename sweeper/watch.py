"""Wait for submitted points: follow them, take in what ended, submit again what Slurm took away."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from refit.errors import UserError
from refit.ranks.processes import tail
from refit.record import environment, record
from refit.record.point import Point, write_atomic
from refit.record.record import Record
from refit.show.running import Running
from sweeper import clients, slurm, status, submitit_side
from sweeper.agreement import Settings
from sweeper.decisions import Decision, End, Resubmit, decide, is_requeued
from sweeper.status import Standing
from sweeper.submission import How, submit
from sweeper.waiting import waiting

POLL_S = 1.0
REFUSED_S = 5.0  # that a refusal adds to the time until the next poll
FULL_S = 60.0  # until Slurm is asked again for room, where none of our jobs has ended
REFUSED = 5  # times that Slurm, or the disk, may refuse on end

Standings = Mapping[str, Standing]  # by the point's name
Numbered = Mapping[str, tuple[int, str]]
"""By the point's name its number in the sweep, and what tells it from the others."""


@dataclass
class _Memory:
    """What the controller remembers of a point."""

    tries: int = 1  # jobs that reached it, the one under way included
    unknown_polls: int = 0  # on end, in which Slurm did not know its job
    gone_polls: int = 0  # on end, in which it had neither a queued job nor a record


def watch(
    points: Sequence[Point],
    how: How,
    settings: Settings,
    running: Running,
    numbered: Numbered,
) -> None:
    """Return when every point has a final state. A controller that is killed may be run again.

    Args:
        points: submitted, and their status.json says under which ids; or waiting for room.
        how: as they were submitted.
        running: shows what the points of each shape do, and how each ended.

    Raises:
        UserError: Slurm refuses, several times, what is submitted again; or the disk is full.
    """
    groups = slurm.labelled(points)
    open_points = {point.name: point for point in points}

    def show(standings: Standings) -> None:
        for name in [n for n in open_points if standings[n].is_final]:
            if ended := Record.find(open_points.pop(name).timing):
                running.told(*numbered[name], ended)
        running.counts({name: counts(standings, g) for name, g in groups.items()})

    _Watch(points, how, settings, how.say).follow(show)


def counts(standings: Standings, points: Sequence[Point]) -> Counter[str]:
    """How many of the points are pending, running, done and failed."""
    words = dict.fromkeys(status.FINAL, "failed") | {"ok": "done", "skipped": "done"}
    words |= {"running": "running"}
    return Counter(words.get(standings[p.name].state, "pending") for p in points)


class _Watch:
    """Turns decisions (`sweeper.decisions`) into deeds, poll after poll."""

    def __init__(
        self, points: Sequence[Point], how: How, settings: Settings, say: Callable[[str], None]
    ) -> None:
        self._points, self._how, self._settings, self._say = points, how, settings, say
        self._ended: dict[str, Standing] = {}
        self._full: tuple[int, float] | None = None  # jobs queued when Slurm took no more; when
        self._reasons: set[str] = set()  # for which jobs wait, or are submitted again, as said
        self._memories = {p.name: _Memory() for p in points}

    def follow(self, show: Callable[[Standings], None]) -> None:
        """Poll until every point has ended."""
        refused, start = 0, time.monotonic()
        while True:
            standings = {p.name: self._ended.get(p.name) or status.get(p) for p in self._points}
            self._ended |= {name: at for name, at in standings.items() if at.is_final}
            show(standings)
            still_open = [p for p in self._points if not standings[p.name].is_final]
            if not still_open:
                return
            try:
                self._turn(still_open, standings)
                refused = 0
            except (UserError, OSError) as error:  # slurmctld restarts, a full disk, say
                refused += 1
                self._refused(error, refused)
                time.sleep(REFUSED_S)
            # a long sweep asks less often: after ten minutes every ten seconds
            time.sleep(min(10.0, max(POLL_S, (time.monotonic() - start) / 60)))

    def _turn(self, still_open: Sequence[Point], standings: dict[str, Standing]) -> None:
        """One poll: mark what was queued anew, end or submit again what is in no queue."""
        queue = clients.queue()
        self._say_why(still_open, standings, queue)
        gone = [p for p in still_open if standings[p.name].slurm_id not in queue]
        # read once more: a job that is not queued any more has written its last
        for point in gone:
            if standings[point.name].slurm_id:  # thousands may wait for a job
                refresh(point.directory)
            standings[point.name] = status.get(point)
        for point in still_open:
            standing = standings[point.name]
            queued = queue.get(standing.slurm_id)
            if (
                is_requeued(standing, queued.state if queued else None)
                and status.get(point) == standing
            ):
                # Slurm will start its job anew; the next attempt has a name of its own
                status.put(point, "submitted", standing.attempt, standing.slurm_id)
        began = {s.slurm_id for s in standings.values() if s.state != "submitted"}
        lost = [
            p
            for p in gone
            if not (standings[p.name].is_final or take_in_record(p, standings[p.name]))
        ]
        missing = {p.name for p in lost}
        for name, memory in self._memories.items():
            memory.gone_polls = memory.gone_polls + 1 if name in missing else 0
        said = clients.states({standings[p.name].slurm_id for p in lost} - {""})
        again: dict[str, Resubmit] = {}
        for point in lost:
            standing = standings[point.name]
            decision = self._decide(point, standing, standing.slurm_id in began, said)
            if isinstance(decision, Resubmit):
                if decision.why and (words := f"{point.name}: {decision.why}") not in self._reasons:
                    self._reasons.add(words)
                    self._say(words)
                again[point.name] = decision
            elif isinstance(decision, End):
                self._end(point, standing, decision)
        if again and self._has_room(len(queue)):
            self._submit_again([p for p in lost if p.name in again], again)

    def _submit_again(self, missing: Sequence[Point], again: Mapping[str, Resubmit]) -> None:
        """Submit them; those that Slurm refuses, or has no room for, at a later poll."""
        done = submit(missing, self._how)
        waiting = {p.name for p in done.waiting}
        for name in again.keys() - done.refused.keys() - waiting:
            self._memories[name].tries += again[name].cost
        self._full = (done.queued, time.monotonic()) if waiting else None
        for refusal in done.refused.values():  # those are tried again
            raise UserError(refusal.words)

    def _has_room(self, queued: int) -> bool:
        """Whether Slurm may take more than when it last took no more."""
        if self._full is None:
            return True
        then, when = self._full
        return queued < then or time.monotonic() - when > FULL_S

    def _say_why(
        self, points: Sequence[Point], standings: Standings, queue: Mapping[str, clients.Queued]
    ) -> None:
        """Name each reason for which jobs wait, once."""
        ids = [standings[p.name].slurm_id for p in points]
        pending = [(i, queue[i].reason) for i in ids if i in queue and queue[i].state == "PENDING"]
        for held in waiting(dict(pending).items()):
            if held.reason not in self._reasons:
                self._reasons.add(held.reason)
                self._say(str(held))

    def _decide(
        self, point: Point, standing: Standing, began: bool, said: Mapping[str, str]
    ) -> Decision:
        memory, slurm_state = self._memories[point.name], None
        if standing.state != "pending":
            slurm_state = said.get(standing.slurm_id, "UNKNOWN")
        memory.unknown_polls = memory.unknown_polls + 1 if slurm_state == "UNKNOWN" else 0
        attempts = self._settings.max_attempts
        unknown, gone = memory.unknown_polls, memory.gone_polls
        return decide(standing, slurm_state, memory.tries, attempts, began, unknown, gone)

    def _end(self, point: Point, standing: Standing, decision: End) -> None:
        """Give a point that left no record one of the controller's, with the end of its log."""
        folder = point.directory.parent.resolve() / submitit_side.FOLDER
        log = tail(submitit_side.log(folder, standing.slurm_id))
        if not log:
            log = "; it wrote no log"
            if standing.state == "submitted" and decision.status == "crashed":
                log += f": do its nodes see {folder.parent}? results are to be on a shared folder"
        begun = record.begin(point, environment.of_controller())
        final = record.ended(begun, decision.status, decision.reason + log)
        record.write(point.attempt(standing.attempt).timing, final)
        take_in_record(point, standing)

    def _refused(self, error: UserError | OSError, times: int) -> None:
        """Say that it is tried again, or raise what a user is to know."""
        wait = f"{POLL_S + REFUSED_S:g} s"
        if isinstance(error, OSError):
            lost = f"cannot write results to {self._how.root}: {error.strerror}"
            if times >= REFUSED:
                raise UserError(
                    f"{lost}; nothing that was written is lost: make room, and the same command"
                    " goes on from here"
                ) from None
            self._say(f"trying again in {wait}: {lost}")
            return
        if times >= REFUSED and "refuses" in str(error):
            raise error
        if times == 1:
            self._say(f"trying again every {wait}: {error}")


def take_in_record(point: Point, standing: Standing) -> bool:
    """Make the attempt's record, where it has one, the point's.

    A job may be killed, or its disk be full, between the record and the status.

    Raises:
        OSError: as from the file system.
    """
    path = point.attempt(standing.attempt).timing
    if standing.slurm_id:
        refresh(path.parent)
    stored = Record.find(path)
    if stored is None:
        return False
    write_atomic(point.timing, path.read_text())
    status.put(point, stored.status, standing.attempt, standing.slurm_id)
    return True


def refresh(folder: Path) -> None:
    """Have a network file system look at a folder anew, in which another node may have written.

    What is in a folder its client remembers for up to a minute, and asks again once it has itself
    changed the folder (nfs(5), acdirmax).
    """
    with suppress(OSError), tempfile.NamedTemporaryFile(dir=folder):
        pass
