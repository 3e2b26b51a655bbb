"""Many records as a table: a line each, or a matrix of what was swept. Values in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.text import Text

from refit.record.record import Record
from refit.record.row import Row
from refit.record.varied import Axis, axes
from refit.show.columns import Column, above, known, lines
from refit.show.figures import metrics
from refit.show.matrix import STYLES, matrices

NO_LINE = ("skipped", "pending")
"""States of points that have no line where a sweep ends: what is skipped is said by reason."""


def summary(
    records: Sequence[Record],
    states: Sequence[str],
    width: int | None,
    without: Sequence[str] = NO_LINE,
) -> list[Text]:
    """What a sweep ends with: what two things varied is a matrix, more are one for each value.

    What is the same of all points is said once, above.

    Args:
        without: states of points that have no line.
        states: where each point stands, mostly its record's status.
        width: of the terminal; None: any.
    """
    told = [
        (record, state)
        for record, state in zip(records, states, strict=True)
        if state not in without
    ]
    if not told:
        return []
    rows = [replace(Row.of(record), status=state) for record, state in told]
    found = axes([record.config for record, _ in told])
    if len(found) > 1 and (made := matrices(rows, found, _parted(rows, found)[0], width)):
        return made
    return _flat(rows, found, width)


def plain(records: Sequence[Record]) -> list[Text]:
    """A line per record, each with all that the records say: for a pipe, and for grep."""
    rows = [Row.of(record) for record in records]
    found = [axis for axis in axes([r.config for r in records]) if axis.key not in _NAMED]
    names = [Column("parallel", tuple(row.parallel for row in rows), is_text=True)]
    names += [Column(axis.key, axis.values, is_text=True) for axis in found]
    return lines(names, known([*_texts(rows), *_numbers(rows), _status(rows)]), None)


_NAMED = ("parallel", "refit", "model", "cluster")
"""Things that `plain` has a column of anyway."""


def _flat(rows: Sequence[Row], found: Sequence[Axis], width: int | None) -> list[Text]:
    """A line per point, named by what varies."""
    names = [Column(axis.key, axis.values, is_text=True) for axis in found]
    names = names or [Column("parallel", tuple(row.parallel for row in rows), is_text=True)]
    shared, differing = _parted(rows, found)
    body = [*differing, *known(_numbers(rows)), _status(rows)]
    return [*above(", ".join(shared), width), *lines(names, body, width)]


def _parted(rows: Sequence[Row], found: Sequence[Axis]) -> tuple[list[str], list[Column]]:
    """What words say the same of all points, and the columns in which they do not."""
    keys = {axis.key for axis in found}
    shared = [] if "parallel" in keys or not found else [rows[0].parallel]
    differing = []
    for column in known(_texts(rows)):
        if column.heading in keys or (column.heading == "method" and "refit" in keys):
            continue
        if len(set(column.cells)) > 1:
            differing.append(column)
        elif column.heading != "cluster":  # which a prediction says as well
            shared.append(_ALONE.get(column.heading, "{}").format(column.cells[0]))
    return shared, differing


_ALONE = {"method": "by {}", "ranks": "{} ranks"}
"""How a value reads without its heading."""


def _texts(rows: Sequence[Row]) -> list[Column]:
    """What is said in words of each point."""
    described: dict[str, Callable[[Row], str]] = {
        "model": lambda row: row.model,
        "placement": lambda row: row.placement,
        "method": lambda row: row.method or row.refit,
        "cluster": lambda row: row.cluster,
        "ranks": lambda row: f"{row.ranks} of {row.world}" if row.world else "",
        "verified": verified,
    }
    return [Column(k, tuple(map(text, rows)), is_text=True) for k, text in described.items()]


def _status(rows: Sequence[Row]) -> Column:
    states = tuple(row.status for row in rows)
    styles = tuple(STYLES.get(state, "red") for state in states)
    return Column("status", states, is_text=True, styles=styles)


def _numbers(rows: Sequence[Row]) -> list[Column]:
    made = []
    for numbers in metrics(rows):
        values = [numbers.of(row) for row in rows]
        cells = tuple("" if value is None else numbers.text(value) for value in values)
        made.append(Column(numbers.heading, cells))
    return made


def verified(row: Row) -> str:
    """What was looked at, in a word or two."""
    if row.kind == "predicted":
        return "" if row.bytes is None else f"predicted, {row.cluster}"
    if row.elements is None:
        return ""
    return f"{row.mismatches} wrong" if row.mismatches else "bit-exact"
