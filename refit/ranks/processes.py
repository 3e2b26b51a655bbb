"""The rank processes of one point, torch-free: start, watch, end, and say what went wrong."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from refit.ranks import server
from refit.ranks.task import Task
from refit.record import environment
from refit.record.point import Attempt
from refit.record.record import Ended
from refit.record.report import RankReport
from refit.weights.memory import Room, needed

Context = ForkServerContext | SpawnContext

GRACE_S = 1.0  # after a first failure, for the others to say what they saw
STOP_POLL_S = 0.5
LOST = 255  # the exit code that multiprocessing gives where nobody is left to say it
NO_IMPORT = "ranks cannot import torch or what they need with it"
LOG_LINES = 8  # of the first failing rank, shown with its failure


@dataclass
class _Rank:
    """One process and what it has said."""

    number: int
    process: BaseProcess
    pipe: Connection
    doing: str = "starting"
    ended: Ended | None = None
    ended_at: float = 0.0
    report: RankReport | None = None
    listening: bool = field(default=True)

    def hear(self, progress: Callable[[str], None]) -> None:
        """Take in every message that is there."""
        try:
            while self.listening and self.pipe.poll():
                match self.pipe.recv():
                    case ("progress", doing):
                        self.doing = doing
                        if self.number == 0:
                            progress(doing)
                    case ("end", status, reason, report):
                        self.ended, self.ended_at = Ended(status, reason), time.monotonic()
                        self.report = report
        except (EOFError, OSError):
            self.listening = False

    @property
    def running(self) -> bool:
        """It has still something to do; one that is done waits to be ended."""
        return self.report is None and self.process.exitcode is None

    def failure(self, room: Room) -> Ended | None:
        """What went wrong with it, or None."""
        if self.report is not None:
            return None
        if self.ended:
            return self.ended
        code = self.process.exitcode
        if code is None:
            return None
        if code >= 0:
            return Ended("crashed", f"exited with code {code} while '{self.doing}'")
        name = signal.Signals(-code).name
        if name == "SIGKILL" and room.killed():
            killed = f"was killed by the kernel for memory while '{self.doing}'"
            return Ended("oom", f"{killed}; {room.numbers()}")
        if name == "SIGBUS":
            return Ended("oom", f"ended by SIGBUS while '{self.doing}': shared memory ran out")
        return Ended("crashed", f"ended by {name} while '{self.doing}'")


def run_ranks(
    context: Context,
    tasks: list[Task],
    listener: socket.socket | None,
    deadline_s: float,
    progress: Callable[[str], None],
    stop: Callable[[], bool] | None = None,
) -> tuple[Ended | None, list[RankReport]]:
    """Run ranks until all have ended, one has failed, or the deadline is past; none is left.

    Args:
        listener: a bound, listening socket for rank 0's store, where rank 0 is among the tasks.
        progress: told what rank 0 is doing.
        stop: asked twice a second whether to end them for somebody else's sake.

    Returns:
        How they ended, None where `stop` said so; and where all are "ok", what they measured.
    """
    ranks: list[_Rank] = []
    room = Room.now(_weight_bytes(tasks))
    deadline = time.monotonic() + deadline_s
    server.forget_words()
    try:
        for task in tasks:
            try:
                ranks.append(_start(context, task, listener if task.rank == 0 else None))
            except (OSError, EOFError) as error:
                return server.refusal(error, room, task.rank, len(tasks)), []
        if _stopped(ranks, deadline, room, progress, stop):
            return None, []
        verdict = _verdict(ranks, room, deadline_s, tasks[0].attempt)
        return verdict, [rank.report for rank in ranks if rank.report is not None]
    finally:
        for rank in ranks:  # each has memory to give back: all of them at a time
            rank.process.kill()
        for rank in ranks:
            rank.process.join()
            rank.pipe.close()


def _weight_bytes(tasks: list[Task]) -> int:
    """Of all these ranks, who are those of a node."""
    setup, here = tasks[0].setup, range(tasks[0].rank, tasks[-1].rank + 1)
    return sum(map(sum, needed(setup.catalogue, setup.placement, here)))


def _start(context: Context, task: Task, listener: socket.socket | None) -> _Rank:
    ours, theirs = context.Pipe()
    process = context.Process(target=_enter, args=(task, theirs, listener), daemon=True)
    try:
        with environment.added(task.setup.job.cluster.env), _without_main(), server.words_kept():
            process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return _Rank(task.rank, process, ours)


@contextmanager
def _without_main() -> Iterator[None]:
    """What is started here does not import the program that runs this one.

    Multiprocessing would import it in each rank, and with it Hydra: 0.6 s of a core that a rank
    has no use for, as all that it is handed is of modules of this package.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _stopped(
    ranks: list[_Rank],
    deadline: float,
    room: Room,
    progress: Callable[[str], None],
    stop: Callable[[], bool] | None,
) -> bool:
    """Wait until all ranks have ended, some time after one has failed, or until the deadline.

    Args:
        deadline: on time.monotonic().
        room: of before the ranks started.

    Returns:
        Whether `stop` ended the wait.
    """
    until = deadline
    # Reading an exit code takes the news out of the sentinel's pipe, so `wait` would not see it:
    # it is read once per turn, here.
    while running := [r for r in ranks if r.running]:
        remaining_s = until - time.monotonic()
        if remaining_s <= 0:
            break
        sentinels = [r.process.sentinel for r in running]
        turn_s = min(remaining_s, STOP_POLL_S) if stop else remaining_s
        wait([*sentinels, *(r.pipe for r in ranks if r.listening)], turn_s)
        for rank in ranks:
            rank.hear(progress)
        # A failure of our own comes first: the others' may be what follows from it.
        if until == deadline and any(r.failure(room) for r in ranks):
            until = min(deadline, time.monotonic() + GRACE_S)
        if stop and until == deadline and stop():
            return True
    for rank in ranks:
        rank.hear(progress)
    return False


def _enter(task: Task, agent: Connection, listener: socket.socket | None) -> None:
    try:
        from refit.ranks import worker  # only in the rank: it imports torch
    except Exception as error:  # whatever a library raises that is there and does not work
        first = next(iter(str(error).splitlines()), "")
        reason = f"{NO_IMPORT}: {type(error).__name__}: {first}; without it there is mode=plan"
        agent.send(("end", "unsupported", reason, None))
        return
    worker.main(task, agent, listener)


def _verdict(ranks: list[_Rank], room: Room, deadline_s: float, attempt: Attempt) -> Ended:
    """How they ended, with the end of the log of the rank that explains it."""
    if any(rank.process.exitcode == LOST for rank in ranks) and (lost := server.lost(room)):
        return lost
    failed = [(rank, failure) for rank in ranks if (failure := rank.failure(room))]
    if failed:
        # A rank that died outright explains the others' lost connections; else the first to speak
        # does.
        rank, first = min(failed, key=lambda pair: (follows(pair[1]), pair[0].ended_at))
        if first.status == "unsupported":  # its text is written for the user, and of every rank
            return Ended(first.status, server.with_limits(first.reason, room))
        log = tail(attempt.rank_log(rank.number))
        reason = server.with_limits(first.reason, room, log)
        return Ended(first.status, f"rank {rank.number}: {reason}{log}")
    late = [rank for rank in ranks if rank.running]
    if late:
        doing = ", ".join(f"rank {rank.number} in '{rank.doing}'" for rank in late[:4])
        more = ", ..." if late[4:] else ""
        log = tail(attempt.rank_log(late[0].number))
        return Ended("timeout", f"not done after {deadline_s:g} s: {doing}{more}{log}")
    return Ended("ok")


def follows(failure: Ended) -> int:
    """0 for a death, 1 for an error of its own, 2 for an error that a lost peer causes."""
    if failure.status in ("crashed", "oom"):
        return 0
    lost = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "connection was broken",
    )
    return 2 if any(text in failure.reason for text in lost) else 1


def tail(path: Path) -> str:
    """The last lines of a log, and its path; nothing where there is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return ""
    return "\n".join(["", *(f"  | {line}" for line in lines), f"  log: {path}"])
