"""The command line as Hydra's parser wants it: options first, then all overrides."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr

from hydra._internal.utils import get_args_parser


def ordered(words: Sequence[str]) -> list[str]:
    """The same command line with its options before its overrides.

    Hydra's parser takes overrides from one place only, so that no option may stand between two of
    them. Its own definitions are used here: whatever it offers is found, and what is wrong is said
    by Hydra, with exit code 2.
    """
    said = vars(get_args_parser().parse_intermixed_args(list(words)))
    overrides = said.pop("overrides")
    options = []
    for name, value in said.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            options.append(option)
        elif value:
            options.append(f"{option}={value}")
    return [*options, *overrides]


def completable(line: str) -> str:
    """A line that a shell wants completed, `ordered`; the word that is being typed stays last.

    Raises:
        SystemExit: no parser takes it, as where an option still lacks its value. Nothing is
            printed: a usage message would land in the line that is being typed.
    """
    program, *words = line.split()
    with redirect_stderr(io.StringIO()):
        return " ".join([program, *ordered(words)]) + (" " if line.endswith(" ") else "")
