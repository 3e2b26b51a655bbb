"""Who works on a results folder: one controller of a sweep at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from refit.errors import UserError
from refit.record.record import now

NAME = ".controller"


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Hold a sweep's folder; it is let go when this process ends, however it ends.

    Raises:
        UserError: another controller holds it, it cannot be written, or its file system has no
            locks.
    """
    path = root / NAME
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"cannot write results to {root}: {error.strerror}") from None
    with file:
        _lock(file, root)
        with suppress(OSError):  # a full disk: who holds it is then not said, but it is held
            os.ftruncate(file.fileno(), 0)
            holder = f"process {os.getpid()} on {socket.gethostname()} since {now()}\n"
            os.write(file.fileno(), holder.encode())
        yield


def check_free(root: Path) -> None:
    """Check that no sweep runs in a folder into which a single run is to write.

    Raises:
        UserError: one does.
    """
    try:
        file = (root / NAME).open("r+")
    except OSError:
        return  # there was never one, or nobody may lock it
    with file:
        _lock(file, root)


def holder(root: Path) -> str | None:
    """Who works on it now: `process 12 on login1 since ...`; None where nobody does."""
    path = root / NAME
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return path.read_text().strip() or "a process that did not say which"
    except OSError:
        return None
    return None


def _lock(file: TextIO, root: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another controller works on {root}: {(root / NAME).read_text().strip()}; wait for it,"
            " or choose another folder with hydra.sweep.dir=... (a sweep) or hydra.run.dir=..."
        ) from None
    except OSError as error:
        raise UserError(
            f"{root} is on a file system without locks (flock): {error.strerror}; two controllers"
            " could submit the same points there; choose another folder with hydra.sweep.dir=..."
        ) from None
