"""A user's YAML file, before anything is made of it: text, no cycle, no bomb; or it is named."""

from __future__ import annotations

from pathlib import Path

import yaml

from refit.errors import UserError

LARGEST, VALUES, DEPTH = 1_000_000, 100_000, 40
"""Bytes of a file; values that it stands for, aliases counted as what they repeat; nesting."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check(file: Path) -> None:
    """Check what a parser would not survive, or say without the file's name.

    Raises:
        UserError: it is too large or no text, is malformed, holds itself, or is a bomb of aliases.
    """
    try:
        content = file.read_bytes()
        if len(content) > LARGEST:
            raise UserError(f"{file}: has {len(content)} bytes, and {LARGEST} is the most")
        _Count().of(content.decode())
    except UnicodeDecodeError as error:
        what = f"is no text in UTF-8: {error.reason} at byte {error.start}"
        raise UserError(f"{file}: {what}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: malformed YAML: {error}") from None
    except _Impossible as error:
        raise UserError(f"{file}: {error}") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None


class _Impossible(Exception):
    """What is wrong with a file."""


class _Count:
    """Counts the values that a text stands for, by its events."""

    def __init__(self) -> None:
        self._total = 0
        self._open: list[tuple[str | None, int]] = []  # anchors, and the count when each began
        self._sizes: dict[str, int] = {}

    def of(self, text: str) -> None:
        for event in yaml.parse(text, Loader=LOADER):
            if isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in self._open):
                    raise _Impossible(f"*{event.anchor} is within what it stands for")
                self._total += self._sizes.get(event.anchor or "", 0)
            elif isinstance(event, yaml.CollectionStartEvent):
                if not self._open and isinstance(event, yaml.SequenceStartEvent):
                    raise _Impossible("is a list, and a file of options is a mapping of fields")
                self._open.append((event.anchor, self._total))
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = self._open.pop()
                if anchor:
                    self._sizes[anchor] = self._total - before + 1
            elif isinstance(event, yaml.ScalarEvent):
                if not self._open and event.value:
                    raise _Impossible("is one value, and a file of options is a mapping of fields")
                self._total += 1
            if len(self._open) > DEPTH:
                raise _Impossible(f"is nested deeper than {DEPTH}")
            if self._total > VALUES:
                raise _Impossible(f"stands for more than {VALUES} values, by its aliases")
