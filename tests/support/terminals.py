"""A real terminal of some width: what is written to it, without the codes that move and colour."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(
    columns: int, write: Callable[[], object], patch: pytest.MonkeyPatch, **variables: str
) -> str:
    """All that a call writes to stdout, which is a terminal meanwhile.

    Args:
        columns: what the terminal says of itself; 0: nothing.
        variables: of the environment.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    said: list[bytes] = []

    def read() -> None:
        with suppress(OSError):
            while more := os.read(ours, 65536):
                said.append(more)

    reader = threading.Thread(target=read)
    reader.start()
    with patch.context() as within, os.fdopen(theirs, "w") as terminal:
        within.delenv("COLUMNS", raising=False)
        for name, value in {"TERM": "xterm", **variables}.items():
            within.setenv(name, value)
        within.setattr(sys, "stdout", terminal)
        write()
    reader.join()
    os.close(ours)
    return b"".join(said).decode()


def read_as_text(written: str) -> str:
    """Without codes; what was written over a line follows it."""
    return CODES.sub("", written.replace("\r\n", "\n").replace("\r", "\n"))
