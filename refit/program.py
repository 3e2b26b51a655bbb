"""What all programs share: their names, exit codes, mistakes in one line, closed pipes."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from refit import __version__
from refit.errors import UserError

COMMAND = "refit-sweep"
VERSION = f"{COMMAND} {__version__}"
EXIT_FAILED = 1
EXIT_USER_ERROR = 2

UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT)
"""What writing to stdout or stderr may raise: the disk behind it is full, say."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another signal that means the same; its text is the signal's name."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number  # as a shell says it


def interruptible() -> None:
    """From now on SIGTERM and SIGHUP end this program as Ctrl-C does, and none does it twice.

    PID 1 of a container would ignore them, and any other process leave its ranks and files to
    themselves. What is ignored stays so: below nohup, or in the background of a script.
    """
    struck = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal struck
        if not struck:  # the next ones would end the end
            struck = True
            raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def standard_streams() -> None:
    """Open what is closed of stdin, stdout and stderr, as /dev/null; let stdout take any character.

    Else the next files that are opened have their numbers, and what is printed goes there. What the
    locale's encoding lacks is escaped, as on stderr.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "the lowest number that is free"
            os.set_inheritable(number, True)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """A text of a record, a name or a library as a terminal may show it: no escape codes in it."""
    return "".join(c if c.isprintable() or c in "\n\t" else _shown(c) for c in text)


def _shown(character: str) -> str:
    return character.encode("unicode_escape").decode()


def write_nowhere() -> None:
    """What is still buffered for stdout has nowhere to go; Python would complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def lost_stdout(error: OSError) -> int:
    """The exit code of a program whose stdout takes no more; what is no such error is raised."""
    if isinstance(error, BrokenPipeError):
        write_nowhere()
        return 0
    if not is_of_stdout(error):
        raise error
    write_nowhere()
    print(f"error: cannot write to stdout: {error.strerror}", file=sys.stderr)
    return EXIT_FAILED


def is_of_stdout(error: OSError) -> bool:
    """Whether it is what writing to stdout raised, and of no file that has a name."""
    return error.filename is None and error.errno in UNWRITABLE


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser with -h and --version, under the name that the user called.

    Args:
        module: of the program, such as `refit.advise`.
        description: its first lines; they stay as they are.
    """
    called = sys.argv[0].startswith(f"{COMMAND} ")
    made = argparse.ArgumentParser(
        prog=sys.argv[0] if called else f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=VERSION)
    return made


def exit_with(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Call `main` with the command line's arguments and exit with what it returns.

    What a user got wrong is one message on stderr and exit code 2. A reader that goes away, as
    `| head` does, is no error.
    """
    standard_streams()
    interruptible()
    try:
        code = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except OSError as error:
        code = lost_stdout(error)
    except Interrupted as end:
        code = end.exit_code
    sys.exit(code)
