"""What differs between points: the things that were swept, and a label for each point. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GROUPS = ("parallel", "refit", "model", "cluster")
"""Config groups; the name of an option stands for all that its file says."""

FIRST = (*GROUPS, "mode", "build", "verify", "seed")
LAST = "refit.method"  # which the option's name says, in most cases
SAYS_NOTHING = (
    "parallel.use_case",
    "model.published_parameters",
    "model.pairs_of",
    "bench.deadline_s",
)
"""Fields that change no result."""


@dataclass(frozen=True)
class Axis:
    """One thing that was swept.

    Attributes:
        key: as it is typed: `parallel`, `refit.bucket_mb`.
        values: of each point, in its order.
    """

    key: str
    values: tuple[str, ...]

    @property
    def distinct(self) -> list[str]:
        """Each value once, in order of appearance."""
        return list(dict.fromkeys(self.values))


def axes(configs: Sequence[Mapping[str, Any]]) -> list[Axis]:
    """The fewest fields that tell the points apart: the pair and the method first.

    A field that follows from those before it is none: the degrees of a pair that has a name, a
    model that its pair brings.

    Args:
        configs: of each point, as a record has it; one of an older version may lack fields.
    """
    plain = [dict(_flat(config)) for config in configs]
    shared = set.intersection(*map(set, plain)) if plain else set()
    rest = shared - {*FIRST, LAST, *SAYS_NOTHING}
    found: list[Axis] = []
    told: list[tuple[str, ...]] = [()] * len(plain)
    for key in (*FIRST, *sorted(rest), LAST):
        if key not in shared:
            continue
        values = tuple(one[key] for one in plain)
        if len(set(values)) == 1:
            continue
        more = [(*before, value) for before, value in zip(told, values, strict=True)]
        if len(set(more)) > len(set(told)):
            found.append(Axis(key, values))
            told = more
    return found


def labels(configs: Sequence[Mapping[str, Any]], found: Sequence[Axis]) -> list[str]:
    """Of each point its pair and its method, and what else of `axes` tells it apart."""
    rest = [axis for axis in found if axis.key not in ("parallel", "refit")]
    return [
        " ".join(
            [
                config["parallel"]["name"],
                config["refit"]["name"],
                *(worded(axis.key, axis.values[number]) for axis in rest),
            ]
        )
        for number, config in enumerate(configs)
    ]


def worded(key: str, value: str) -> str:
    """A value as it stands among others: an option by its name, a number with its field."""
    return value if key in (*GROUPS, LAST) else f"{key}={value}"


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        key = f"{above}.{name}" if above else name
        if above in GROUPS and name == "name":
            yield above, str(value)
        elif above == "sweep" and name != "repetition":
            continue
        elif isinstance(value, Mapping):
            yield from _flat(value, key)
        else:
            yield key, "null" if value is None else str(value)
