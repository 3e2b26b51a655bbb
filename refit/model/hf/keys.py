"""The keys of one config.json: each is read, known to carry no weights, or left over. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refit.errors import UserError

MISSING = object()


class Keys:
    """A config that says of itself which keys were read, and what its class has by default.

    Args:
        values: the file's.
        implied: what the model class has where the file says nothing.

    Attributes:
        read: keys that the file has and that were read.
        held: those of them that have the one value that is modelled, and say nothing else.
        taken: defaults of the class that were used, by key.
    """

    def __init__(self, values: Mapping[str, Any], implied: Mapping[str, Any]) -> None:
        self._values, self._implied = values, implied
        self.read: set[str] = set()
        self.held: set[str] = set()
        self.taken: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def left(self) -> list[str]:
        """Keys that nobody read, in the file's order."""
        return [key for key in self._values if key not in self.read]

    def value(self, key: str) -> Any:
        """As the file has it, else as its class does.

        Raises:
            UserError: neither says it.
        """
        if key in self._values:
            self.read.add(key)
            return self._values[key]
        if key not in self._implied:
            raise UserError(
                f"it has no '{key}', which its weights depend on; take the whole file as published"
            )
        self.taken[key] = self._implied[key]
        return self._implied[key]

    def whole(self, key: str) -> int:
        """A whole number of 1 or more.

        Raises:
            UserError: it is none; so the other readers below of theirs.
        """
        found = self.value(key)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise UserError(f"{key}={found!r} is not a whole number of 1 or more")
        return found

    def count(self, key: str) -> int:
        """A whole number of 0 or more; null is 0."""
        return 0 if self.value(key) in (None, 0) else self.whole(key)

    def maybe(self, key: str) -> int | None:
        """A whole number of 1 or more, or null."""
        return None if self.value(key) is None else self.whole(key)

    def flag(self, key: str) -> bool:
        """true or false."""
        found = self.value(key)
        if not isinstance(found, bool):
            raise UserError(f"{key}={found!r} is not true or false")
        return found

    def number(self, key: str) -> float:
        """A number."""
        found = self.value(key)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise UserError(f"{key}={found!r} is not a number")
        return float(found)

    def word(self, key: str, words: Mapping[str, str]) -> str:
        """A word that is known, as ours."""
        found = self.value(key)
        if not isinstance(found, str) or found not in words:
            raise UserError(f"{key}={found!r} is not known; known are {', '.join(words)}")
        return words[found]

    def must(self, key: str, wanted: Any, why: str) -> None:
        """That a key has the one value whose weights are modelled; null is false and 0.

        Args:
            why: what another value would mean.
        """
        found = self.value(key)
        if (type(found) is type(wanted) and found == wanted) or (found is None and not wanted):
            self.held.add(key)
            return
        raise UserError(f"{key}={found!r} is not modelled ({why}); {wanted!r} is")

    def inner(self, key: str, implied: Mapping[str, Any]) -> Keys:
        """The keys of a mapping inside, `where.key` for messages."""
        found = self.value(key)
        if not isinstance(found, Mapping):
            raise UserError(f"{key}={found!r} is not a mapping of keys")
        return Keys(found, implied)
