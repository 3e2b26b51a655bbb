"""How the programs beside `refit.run` end: exit codes, mistakes in one line, closed pipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from refit.job import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
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
