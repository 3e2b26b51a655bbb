"""The command line as Hydra's parser wants it: options first, then all overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from refit.hydra_side import get_args_parser
from refit.job import Job


def ordered(words: Sequence[str]) -> list[str]:
    """The same command line with its options before its overrides.

    Hydra's parser takes overrides from one place only, so that no option may stand between two of
    them. Its own definitions are used here: whatever it offers is found, and what is wrong is said
    by Hydra, with exit code 2.
    """
    options = vars(get_args_parser().parse_intermixed_args(list(words)))
    overrides = options.pop("overrides")
    before = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            before.append(option)
        elif value:
            before.append(f"{option}={value}")
    return [*before, *overrides]


def deletes(words: Sequence[str]) -> str | None:
    """Why what an override with ~ deletes is needed, or None."""
    needed = {field.name for field in fields(Job)}
    for word in words:
        key = word[1:].partition("=")[0].partition("@")[0]
        if word.startswith("~") and key.partition(".")[0] in needed:
            return (
                f"{word} deletes what every point needs; leave it out for the shipped value, or set"
                f" another: {key}=..."
            )
    return None
