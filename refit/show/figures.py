"""The numbers of a table's columns: units in their headings, digits that suit all their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refit.record.row import Row

SIZE = "size"
"""Of the bytes' column, whose heading is their unit."""


@dataclass(frozen=True)
class Numbers:
    """One column of numbers.

    Attributes:
        name: of the column, whatever its unit.
        heading: with the unit.
        of: the value of a row, or None.
        text: of a value, once all values are known.
    """

    name: str
    heading: str
    of: Callable[[Row], float | None]
    text: Callable[[float], str]


def metrics(rows: Sequence[Row]) -> list[Numbers]:
    """All columns of numbers, their units and digits chosen for these rows."""
    times: list[tuple[str, Callable[[Row], float | None]]] = [
        ("cold", lambda row: row.cold_s),
        ("median", lambda row: row.median_s),
        ("slowest", lambda row: row.max_s),
        ("floor", lambda row: row.floor_s),
        ("estimate", lambda row: row.estimate_s),
    ]
    seconds = _decimals([of(row) for _, of in times for row in rows])
    unit, scale = _unit([row.bytes for row in rows])
    return [
        Numbers(SIZE, unit, lambda row: row.bytes, lambda value: f"{value / scale:.2f}"),
        *(Numbers(name, f"{name} s", of, seconds) for name, of in times),
        Numbers("rate", "GB/s", lambda row: row.gbps, lambda value: f"{value:.2f}"),
        Numbers("of limit", "of limit", lambda row: row.fraction, lambda value: f"{value:.0%}"),
    ]


def _decimals(values: Sequence[float | None]) -> Callable[[float], str]:
    """Three digits of the smallest, and at least three behind the point."""
    least = min((value for value in values if value), default=1.0)
    digits = min(max(3, 2 - math.floor(math.log10(least))), 6)
    return lambda value: f"{value:.{digits}f}"


def _unit(sizes: Sequence[int | None]) -> tuple[str, float]:
    """The largest unit of which the smallest size has a tenth."""
    least = min((size for size in sizes if size), default=0)
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if least >= scale / 10:
            return unit, scale
    return "B", 1.0
