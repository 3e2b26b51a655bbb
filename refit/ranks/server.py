"""The fork server that ranks come from: what it says, how it ended, why it starts nobody."""

from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import forkserver

from refit.record.record import Ended
from refit.weights import memory
from refit.weights.memory import Room
from refit.weights.slab import Slab, anonymous

AHEAD = "REFIT_AHEAD"
"""Of its environment: names of the modules that it imports, with commas (`refit.ranks.ahead`)."""

ALWAYS = (
    "refit.ranks.worker",
    "refit.transport.gloo",
    "refit.transport.ipc",
    "numpy.ma",
    "numpy.random",
)
"""What it imports for every job; numpy its two by itself, on a first duplicate or random number."""

TUNABLES, TUNABLE = "GLIBC_TUNABLES", "glibc.cpu.x86_non_temporal_threshold"
"""What the C library reads when a process begins, and of it the size from which memcpy stores past
the caches. By itself it takes three quarters of the last cache, which is shared by a whole machine.
"""

NON_TEMPORAL = 1 << 15

OPEN_FILES = 1 << 14
"""Files that an agent or a rank may have open: four of each rank, two of each that it talks to.

Many systems allow 1024 until a process asks for more, which 340 ranks are too many for.
"""

END_S = 2.0  # for a server that let go of its pipes to be gone

NO_MORE = ("Resource temporarily unavailable", "can't start new thread")
"""What the system says of a process or thread that it refuses."""


def open_more_files() -> None:
    """Ask for `OPEN_FILES`, or as many as the hard limit allows, for what starts from here too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def tune() -> None:
    """Have what starts from here copy as `TUNABLE` says, where it is known and not said already."""
    said = os.environ.get(TUNABLES, "")
    if platform.machine() == "x86_64" and TUNABLE not in said:
        ours = f"{TUNABLE}={NON_TEMPORAL:#x}"
        os.environ[TUNABLES] = f"{said}:{ours}" if said else ours


@contextmanager
def words_kept() -> Iterator[None]:
    """What is started within it says its errors where `last_word` finds them, not on the terminal.

    A rank does so until it has its log, and a server always.
    """
    kept = os.dup(2)
    os.dup2(_words().descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def is_there() -> bool:
    """Whether it was started; else the first rank waits until it has imported all it should."""
    return getattr(forkserver._forkserver, "_forkserver_pid", None) is not None


def forget_words() -> None:
    """Of an earlier point."""
    _words().clear()
    os.lseek(_words().descriptor, 0, os.SEEK_SET)


def last_word() -> str:
    """The last line that was kept, of a traceback the error; one about `NO_MORE` goes before it."""
    said = os.pread(_words().descriptor, _words().nbytes, 0).decode(errors="replace")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if _no_more(line)), lines[-1] if lines else "")


@cache
def _words() -> Slab:
    return anonymous()  # one for this process, which has one server


def ended() -> str | None:
    """How the server ended, or None: it runs, or there is none. Multiprocessing is left its news.

    The next rank that is started has a new one.
    """
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is None:
        return None
    try:
        news = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if news is None:
        return None
    if news.si_code == os.CLD_EXITED:
        return f"exited with code {news.si_status}"
    return f"ended by {signal.Signals(news.si_status).name}"


def lost(room: Room) -> Ended | None:
    """How a point ended whose ranks lost their server, or None where it still runs."""
    until = time.monotonic() + END_S
    while (how := ended()) is None and time.monotonic() < until:
        time.sleep(0.01)
    if how is None:
        return None
    what = "the process that ranks are forked from"
    if how == "ended by SIGKILL" and room.killed():
        return Ended("oom", f"{what} was killed by the kernel for memory; {room.numbers()}")
    if word := last_word():
        return Ended("failed", with_limits(f"{what} {how}: {word}", room))
    return Ended("crashed", f"{what} {how}")


def refusal(error: OSError | EOFError, room: Room, rank: int, ranks: int) -> Ended:
    """How a point ended of which a rank could not be started.

    Args:
        error: what starting it raised.
        rank, ranks: which it was, and how many this node should have.
    """
    if isinstance(error, (EOFError, ConnectionError)) and (gone := lost(room)):
        return Ended(gone.status, f"rank {rank} of {ranks} could not be started: {gone.reason}")
    text = f"rank {rank} of {ranks} could not be started: {type(error).__name__}: {error}"
    if "AF_UNIX path too long" in text:
        text += f"; its socket is below {tempfile.gettempdir()}: set TMPDIR to a shorter folder"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        text += f"; open files are limited (ulimit -n {_soft(resource.RLIMIT_NOFILE)})"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return Ended("oom", f"{text}; {room.numbers()}")
    return Ended("failed", with_limits(text, room))


def with_limits(reason: str, room: Room, log: str = "") -> str:
    """A reason; where the system refuses processes, with its limits and the way out.

    Args:
        log: what else was said. A library that is refused a thread may say nothing of it.
    """
    if not (_no_more(reason) or _no_more(log) or room.refused()):
        return reason
    limits = [f"ulimit -u {_soft(resource.RLIMIT_NPROC)}"]
    if (of_group := memory.of_groups("pids", "pids.max")) is not None:
        limits.append(f"pids.max {of_group} of its control group (docker --pids-limit)")
    return (
        f"{reason}; the processes and threads that there may be are limited: {', '.join(limits)};"
        " raise the limit, or use fewer ranks"
    )


def _no_more(text: str) -> bool:
    return any(words in text for words in NO_MORE)


def _soft(what: int) -> str:
    soft = resource.getrlimit(what)[0]
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
