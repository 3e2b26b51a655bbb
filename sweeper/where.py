"""`--where NAME=PATTERN` of status and collect: the points whose columns match."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from fnmatch import fnmatchcase

from refit.errors import UserError
from refit.record.record import Record
from refit.record.row import Row

HELP = "only these: partition=low, nodes='node[12]', device='*H100*', or any column of --csv"

Wanted = Sequence[tuple[str, str]]
"""Names of columns, and the patterns that they must match."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--where`, which may be given several times; all must hold."""
    parser.add_argument("--where", metavar="NAME=PATTERN", action="append", default=[], help=HELP)


def parsed(texts: Iterable[str]) -> Wanted:
    """What was asked for.

    Raises:
        UserError: it is not NAME=PATTERN, or there is no such column.
    """
    names = [field.name for field in fields(Row)]
    wanted = []
    for text in texts:
        name, equals, pattern = text.partition("=")
        if not equals or name not in names:
            close = get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(
                f"--where {text}: needs NAME=PATTERN, NAME being one of {', '.join(names)}{hint}"
            )
        wanted.append((name, pattern))
    return wanted


def chosen(records: Sequence[Record], wanted: Wanted) -> list[Record]:
    """The records whose row has what is wanted; one of several nodes will do.

    Raises:
        UserError: there is none; the text says what there is.
    """
    found = [record for record in records if _matches(Row.of(record), wanted)]
    if not found:
        raise _nothing([Row.of(record) for record in records], wanted)
    return found


def _matches(row: Row, wanted: Wanted) -> bool:
    return all(
        any(fnmatchcase(value, pattern) for value in _values(row, name)) for name, pattern in wanted
    )


def _nothing(rows: Sequence[Row], wanted: Wanted) -> UserError:
    said = " ".join(f"{name}={pattern}" for name, pattern in wanted)
    there = (
        f"{name}: {', '.join(sorted({v for row in rows for v in _values(row, name)}))[:200]}"
        for name, _ in wanted
    )
    return UserError(f"no point of {len(rows)} matches {said}; there is {'; '.join(there)}")


def _values(row: Row, name: str) -> list[str]:
    value = getattr(row, name)
    if isinstance(value, bool):
        return [str(value).lower()]
    text = "" if value is None else str(value)
    return text.split(",") if name == "nodes" else [text]
