"""The columns of a report's table: those of the terminal's, as there, and what others publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refit.record.record import Record
from refit.record.row import Row
from refit.show import table
from refit.show.words import size
from sweeper.report import words

_Cell = Callable[[Record, Row], str]


def columns(records: Sequence[Record]) -> dict[str, list[str]]:
    """By heading the cells of all records; columns without a text are left out."""
    rows = [Row.of(record) for record in records]
    found = {name: [of(r, w) for r, w in zip(records, rows, strict=True)] for name, of in CELLS}
    found["set"] = words.varied(records)
    return {name: cells for name, cells in found.items() if any(cells)}


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f} s"


def _p95(record: Record, row: Row) -> str:
    return _seconds(words.p95(record.seconds.warm) if record.seconds else None)


CELLS: Sequence[tuple[str, _Cell]] = (
    ("row", lambda record, row: row.parallel),
    ("model", lambda record, row: row.model),
    ("mapping", lambda record, row: words.mapping(record)),
    ("placement", lambda record, row: row.placement),
    ("method", lambda record, row: row.method or ""),
    ("GPUs", lambda record, row: str(row.ranks or "")),
    ("bytes", lambda record, row: "" if row.bytes is None else size(row.bytes)),
    ("cold", lambda record, row: _seconds(row.cold_s)),
    ("median", lambda record, row: _seconds(row.median_s)),
    ("p95", _p95),
    ("slowest", lambda record, row: _seconds(row.max_s)),
    ("of limit", lambda record, row: "" if row.fraction is None else f"{row.fraction:.0%}"),
    ("floor", lambda record, row: _seconds(row.floor_s)),
    ("estimate", lambda record, row: _seconds(row.estimate_s)),
    ("verified", lambda record, row: table.verified(row)),
    ("status", lambda record, row: row.status),
)

NUMBERS = {
    "GPUs": "gpus",
    "bytes": "bytes",
    "cold": "cold_s",
    "median": "median_s",
    "p95": "p95_s",
    "slowest": "max_s",
    "of limit": "fraction",
    "floor": "floor_s",
    "estimate": "estimate_s",
}
"""Columns that are sorted by a number of a point of `sweeper.report.data`; others by their text."""
