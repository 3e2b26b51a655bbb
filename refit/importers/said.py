"""What a launch script says, by key: read once, refused by name where it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from refit.errors import UserError
from refit.importers.script import SAYS, Command

LAYS_OUT = re.compile(
    r"parallel|pipeline|shard|disaggreg|num[-_]gpus|num[-_]nodes|[gn]pus[-_]per|nnodes"
    r"|(^|[-_.])(tp|pp|ep|cp|dp|etp|vpp|fsdp)([-_.]|$)",
    re.IGNORECASE,
)
"""Keys that may say where weights lie: one that is not known is refused, not left out."""

_NULL = ("null", "none", "~", "")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass
class Said:
    """A script's values.

    Attributes:
        values: as they are written.
        prefix: put before each key that is asked for.
        way_out: how to say what a value is, where the script does not.
        read: keys that were asked for.
    """

    values: Mapping[str, Any]
    way_out: str
    prefix: str = ""
    read: set[str] = field(default_factory=set)

    def below(self, prefix: str) -> Said:
        """The same, of keys that begin so."""
        return Said(self.values, self.way_out, self.prefix + prefix, self.read)

    def raw(self, *keys: str) -> Any:
        """The first of some keys that is there and not null; else None.

        Raises:
            UserError: the script does not say what it is.
        """
        found = None
        for key in keys:
            whole = self.prefix + key
            self.read.add(whole)
            value = self.values.get(whole)
            if isinstance(value, str) and value.lower() in _NULL:
                value = None
            if found is None and value is not None:
                if isinstance(value, str) and ("$" in value or "`" in value):
                    raise UserError(
                        f"{whole}: the script does not say what {value} is; {self.way_out}"
                    )
                found = value
        return found

    def as_written(self, key: str) -> str | None:
        """A value that need not be known, such as a path."""
        value = self.values.get(self.prefix + key)
        return None if value is None else str(value)

    def text(self, *keys: str) -> str | None:
        """Of letters."""
        value = self.raw(*keys)
        return None if value is None else str(value)

    def count(self, *keys: str) -> int | None:
        """A whole number of 1 or more.

        Raises:
            UserError: it is none.
        """
        value = self.raw(*keys)
        if value is None:
            return None
        if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)) or int(value) < 1:
            raise UserError(f"{self.prefix}{keys[0]}={value} is not a whole number of 1 or more")
        return int(value)

    def number(self, *keys: str) -> int:
        """A count where there is one, else 1."""
        return self.count(*keys) or 1

    def switch(self, *keys: str) -> bool:
        """True or false, however it is written; false where nothing is.

        Raises:
            UserError: it is neither.
        """
        value = str(self.raw(*keys) or "false").lower()
        if value not in (*_TRUE, *_FALSE):
            raise UserError(f"{self.prefix}{keys[0]}={value} is not true or false")
        return value in _TRUE

    def degrees(self, fields: Mapping[str, str]) -> Iterator[tuple[str, int]]:
        """Fields of `Degrees` whose keys are there, by the keys that say them."""
        for key, name in fields.items():
            if (value := self.count(key)) is not None:
                yield name, value

    def unread(
        self, begins: Sequence[str], harmless: Collection[str], ignored: Collection[str]
    ) -> None:
        """That no key is left that may say where weights lie.

        Args:
            begins: prefixes of the keys that are asked about.
            harmless: known to say nothing of it, without their prefix.
            ignored: what the user knows to say nothing of it.

        Raises:
            UserError: one is.
        """
        for key, value in self.values.items():
            inside = next((key[len(p) :] for p in begins if key.startswith(p)), None)
            last = (inside or "").rpartition(".")[2]
            if inside is None or key in self.read or not LAYS_OUT.search(last):
                continue
            if last in harmless or key in ignored:
                continue
            if str(value).lower() in (*_NULL, *_FALSE, "1"):
                continue  # off, or one: as if it were not there
            raise UserError(
                f"'{key}' is not known, and may say where weights lie; --ignore {key} if you know"
                " that it does not"
            )


def not_read(command: Command) -> list[str]:
    """What a script says of a layout under conditions that do not hold."""
    found = []
    for block in command.skipped:
        words = block.split()
        condition = list(takewhile(lambda word: not SAYS.match(word), words))
        says = [w for w in words[len(condition) :] if LAYS_OUT.search(w.partition("=")[0])]
        if says:
            said = " ".join([*condition, *says])
            found.append(f"not read, its condition does not hold: {said}")
    return list(dict.fromkeys(found))


ARRAY = re.compile(r"\$\{(\w+)\[[@*]\]\}")


def unfilled(words: Sequence[str], text: str) -> list[str]:
    """Arrays among a command's words that another file may fill.

    Raises:
        UserError: this one does, and not where it is read.
    """
    found = [match for word in words if (match := ARRAY.fullmatch(word))]
    for match in found:
        if re.search(rf"\b{match[1]}\+?=\(", text):
            raise UserError(
                f"{match[0]} is filled under a condition alone that does not hold, or that only a"
                " shell knows; put NAME=VALUE behind the file so that it holds"
            )
    return [match[0] for match in found]
