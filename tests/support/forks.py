"""A program as a user starts it, in a fork of this process: what both have imported is there."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from refit import compose

LATE = (
    "refit.show.display", "refit.forecast.predict", "refit.ranks.agent", "refit.rules.impossible",
    "refit.show.running", "sweeper.sweep", "numpy.ma",
)  # fmt: skip
"""What `refit.run` imports once it has a config."""


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


def fork_of(main: Callable[[], object], *words: str, **environment: str) -> Ended:
    """Run a program's entry with a command line; this process stays as it is.

    What a process of its own adds, the start of Python and the imports, is not in it. Where this
    process has an agent, the program's ranks are forked from the server which that has made ready.
    """
    return fork_in(Path.cwd(), main, *words, **environment)


def fork_in(folder: Path, main: Callable[[], object], *words: str, **environment: str) -> Ended:
    """The same, standing in a folder."""
    _warm()
    with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        child = os.fork()
        if child == 0:
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.environ.update(environment)
            os.chdir(folder)
            _share_fork_server()
            sys.argv[1:] = words
            os._exit(_code_of(main))
        _, status = os.waitpid(child, 0)
        stdout.seek(0)
        stderr.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), stdout.read(), stderr.read())


@cache
def _warm() -> None:
    """What most programs do first is done once: imports, Hydra's plugins, its grammars' tables."""
    for name in LATE:
        import_module(name)
    with compose.configs():
        compose.job(["mode=plan"])


def _share_fork_server() -> None:
    """The server of the process that was forked is this one's too: nobody else's child runs it.

    It is private to multiprocessing, which would wait for a child that is not its own here.
    """
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        server.ensure_running = lambda: None


def _code_of(main: Callable[[], object]) -> int:
    """The exit code that Python would end with, everything printed."""
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code
