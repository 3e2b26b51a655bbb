"""The columns of a report's table: those of the terminal's, as there, and what others publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refit.display import COLUMNS, size
from refit.record.record import Record
from refit.record.row import Row
from sweeper.report import words

_Cell = Callable[[Record, Row], str]


def columns(records: Sequence[Record]) -> dict[str, list[str]]:
    """By heading the cells of all records; columns without a text are left out."""
    rows = [Row.of(record) for record in records]
    found = {name: [of(r, w) for r, w in zip(records, rows, strict=True)] for name, of in CELLS}
    found["set"] = words.varied(records)
    return {name: cells for name, cells in found.items() if any(cells)}


def _as_there(column: str) -> _Cell:
    return lambda record, row: COLUMNS[column](row)


def _p95(record: Record, row: Row) -> str:
    return f"{words.p95(record.seconds.warm):.3f} s" if record.seconds else ""


CELLS: Sequence[tuple[str, _Cell]] = (
    ("row", _as_there("row")),
    ("model", _as_there("model")),
    ("mapping", lambda record, row: words.mapping(record)),
    ("placement", _as_there("placement")),
    ("method", _as_there("method")),
    ("GPUs", lambda record, row: str(row.ranks or "")),
    ("bytes", lambda record, row: "" if row.bytes is None else size(row.bytes)),
    ("cold", _as_there("cold")),
    ("median", _as_there("median")),
    ("p95", _p95),
    ("slowest", _as_there("slowest")),
    ("of limit", lambda record, row: "" if row.fraction is None else f"{row.fraction:.0%}"),
    ("floor", _as_there("floor")),
    ("estimate", _as_there("estimate")),
    ("verified", _as_there("verified")),
    ("status", _as_there("status")),
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
