"""Points of two results side by side: how their times compare, and what else differs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refit.record.record import Record
from sweeper import ratio
from sweeper.matched import Group, Matches, Pair
from sweeper.ratio import Ratio

_ID = re.compile(r"(-r\d+)?-[0-9a-f]{10}$")


@dataclass(frozen=True)
class Compared:
    """A pair, and how its times compare; None where a side has none."""

    pair: Pair
    ratio: Ratio | None


@dataclass(frozen=True)
class Result:
    """All of a comparison.

    Attributes:
        sides: what was compared, in words.
        conditions: what else differs than what was compared, a line each.
    """

    sides: str
    conditions: list[str]
    rows: list[Compared]
    matches: Matches

    @property
    def mean(self) -> tuple[float, float, float] | None:
        """See `ratio.geometric_mean`."""
        return ratio.geometric_mean([row.ratio for row in self.rows if row.ratio])

    @property
    def changed(self) -> list[Compared]:
        """The pairs of which one side ended otherwise than the other; what was imported did not."""
        return [
            row
            for row in self.rows
            for states in [{status(row.pair.before), status(row.pair.after)}]
            if len(states) == 2 and "imported" not in states
        ]

    def failures(self, above: float) -> list[str]:
        """Why a gate of this ratio does not open; empty where it does."""
        found = [
            f"{name(row.pair.after)}: {row.ratio.value:.3f}, above {above:g}"
            for row in self.rows
            if row.ratio and row.ratio.verdict == "slower" and row.ratio.value > above
        ]
        found += [
            f"{name(row.pair.after)}: was ok, is {status(row.pair.after)}"
            for row in self.changed
            if status(row.pair.before) == "ok"
        ]
        if not any(row.ratio and len(row.ratio.log_draws) for row in self.rows):
            found.append("no point could be decided, so nothing says that none is slower")
        return found


def name(group: Group) -> str:
    """A point for a person: its folder's name without the repetition and the identity."""
    return _ID.sub("", group.records[0].name)


def status(group: Group) -> str:
    """Of a point and its repetitions: ok where all are, else how the first that is not ended."""
    found = [record.status for record in group.records]
    return next((each for each in found if each != "ok"), "ok")


def samples(group: Group) -> list[list[float]]:
    """Seconds of each repetition's refits; none of one that has no times. Equally many of each."""
    times = [
        each.seconds.warm if each.seconds else each.imported.seconds if each.imported else []
        for each in group.records
    ]
    fewest = min((len(each) for each in times if each), default=0)
    return [list(each[:fewest]) for each in times if each]


def compared(pair: Pair) -> Compared:
    """How a pair's times compare; an estimate has no noise of its own."""
    sides = [samples(pair.before), samples(pair.after)]
    values = [group.records[0].objective_s for group in (pair.before, pair.after)]
    if not any(sides) and values[0] and values[1]:
        return Compared(pair, ratio.exact(values[0], values[1]))
    times = [
        side or ([[value] * ratio.FEWEST] if value else [])
        for side, value in zip(sides, values, strict=True)
    ]
    if not all(times):
        return Compared(pair, None)
    number = int(pair.before.records[0].id, 16)
    return Compared(pair, ratio.ratio(times[0], times[1], number))


def conditions(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """What is not alike on both sides of what a time depends on, a line each."""
    sides = [[_conditions(record) for record in side] for side in (before, after)]
    names = dict.fromkeys(name for side in sides for each in side for name in each)
    lines = []
    for name in names:
        values = [{each[name] for each in side if name in each} for side in sides]
        if all(values) and values[0] != values[1]:
            words = (" and ".join(sorted(each)) for each in values)
            lines.append(
                f"{name}: the words differ" if name.startswith("clock") else
                f"{name}: {' -> '.join(words)}"
            )  # fmt: skip
    return lines


def _conditions(record: Record) -> Mapping[str, str]:
    around = record.environment
    named = ("host", "platform", "cpus", "device", "partition", "python", "refit_sweep", "commit")
    found = {name: str(around[name]) for name in named if around.get(name) is not None}
    found |= {str(name): str(value) for name, value in around.get("versions", {}).items()}
    return {
        "kind": record.kind,
        **found,
        **{f"clock, {name}": words for name, words in record.clock.items()},
    }
