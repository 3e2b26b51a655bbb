"""One controller at a time works on a sweep's folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from refit.job import UserError
from refit.record import record


@contextmanager
def controller_lock(root: Path) -> Iterator[None]:
    """Hold the sweep's folder; it is let go when this process ends, however it ends.

    Raises:
        UserError: another controller holds it, or the folder cannot be written.
    """
    path = root / ".controller"
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"cannot write results to {root}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another controller works on {root}: {path.read_text().strip()}; wait for it, or"
                " choose another folder with hydra.sweep.dir=..."
            ) from None
        with suppress(OSError):  # a full disk: who holds it is then not said, but it is held
            os.ftruncate(file.fileno(), 0)
            holder = f"process {os.getpid()} on {socket.gethostname()} since {record.now()}\n"
            os.write(file.fileno(), holder.encode())
        yield


def holder(root: Path) -> str | None:
    """Who works on it now: `process 12 on login1 since ...`; None where nobody does."""
    path = root / ".controller"
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return path.read_text().strip() or "a process that did not say which"
    except OSError:
        return None
    return None
