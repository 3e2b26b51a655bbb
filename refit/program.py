"""What all programs share: their names, exit codes, mistakes in one line, closed pipes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from refit import __version__
from refit.job import UserError

COMMAND = "refit-sweep"
VERSION = f"{COMMAND} {__version__}"
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


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
    try:
        code = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except BrokenPipeError:
        # what is still buffered has nowhere to go; Python would complain about it at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)
