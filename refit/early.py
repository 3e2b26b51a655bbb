"""Ctrl-C while a program still imports: it ends without a traceback, as nothing has begun."""

from __future__ import annotations

import os
import signal
import sys

PROGRAMS = ("-m", "refit-sweep")
"""What Python calls itself until it has found the module of `python -m`, and the console script."""


def quiet() -> None:
    """Until `refit.program.interruptible` Ctrl-C ends this process at once, with exit code 130.

    Only of a program of ours, and not where SIGINT is ignored or somebody else's.
    """
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if name in PROGRAMS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
