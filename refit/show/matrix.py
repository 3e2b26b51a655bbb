"""What two things varied as a matrix, more as one for each value of the others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from rich.text import Text

from refit.record.row import Row
from refit.record.varied import Axis, worded
from refit.show.columns import Column, above, known, lines
from refit.show.figures import SIZE, Numbers, metrics

BEST = "*"
NOTE = f"{BEST} the best of its row"
MISSING = "-"
STYLES = {"ok": "green", "skipped": "dim"}
"""Of a status; any other is red."""


def matrices(
    rows: Sequence[Row], found: Sequence[Axis], shared: Sequence[str], width: int | None
) -> list[Text]:
    """Rows by columns, for each value of the other things; empty where that says less.

    That is where more than half of the cells would be empty, or a cell have two points.
    """
    down, across, outer = _roles(found)
    wanted = _of_matrix(rows)
    tables: list[tuple[str, list[int]]] = []
    for values in product(*(axis.distinct for axis in outer)):
        picked = [
            number
            for number in range(len(rows))
            if all(a.values[number] == v for a, v in zip(outer, values, strict=True))
        ]
        title = " ".join(worded(a.key, v) for a, v in zip(outer, values, strict=True))
        if picked:
            tables.append((title, picked))
    cells = len(tables) * len(down.distinct) * len(across.distinct)
    is_told = len(set(zip(*(axis.values for axis in found), strict=True))) == len(rows)
    if not wanted or not is_told or 2 * len(rows) < cells:
        return []
    made = above("; ".join(filter(None, [", ".join(shared), NOTE])), width)
    for title, picked in tables:
        sides = [Axis(a.key, tuple(a.values[n] for n in picked)) for a in (down, across)]
        made += [Text(""), Text(title, "bold")] if title else []
        made += _matrix([rows[n] for n in picked], sides[0], sides[1], wanted, width)
    return made


def _roles(found: Sequence[Axis]) -> tuple[Axis, Axis, list[Axis]]:
    """What goes down, what goes across, and the rest: pairs down and methods across, if any."""
    rest = list(found)

    def take(key: str, choose: Callable[[Axis], float]) -> Axis:
        taken = next((axis for axis in rest if axis.key == key), None) or min(rest, key=choose)
        rest.remove(taken)
        return taken

    if any(axis.key == "refit" for axis in rest):
        across = take("refit", lambda axis: 0)
        return take("parallel", lambda axis: -len(axis.distinct)), across, rest
    down = take("parallel", lambda axis: -len(axis.distinct))
    return down, take("", lambda axis: len(axis.distinct)), rest


def _of_matrix(rows: Sequence[Row]) -> list[Numbers]:
    """What a matrix says of each point: a measured one's median, a predicted one's estimate."""
    said = {n.name: n for n in metrics(rows) if any(n.of(row) is not None for row in rows)}
    return [said[name] for name in ("median", "of limit", "estimate", "floor") if name in said]


def _matrix(
    rows: Sequence[Row], down: Axis, across: Axis, wanted: Sequence[Numbers], width: int | None
) -> list[Text]:
    at = dict(zip(zip(down.values, across.values, strict=True), rows, strict=True))
    size = next(numbers for numbers in metrics(rows) if numbers.name == SIZE)
    columns = [column for column in [_by_row(rows, down, size)] if column]
    for numbers in wanted:
        if numbers.name == "floor" and (alike := _by_row(rows, down, numbers)):
            columns.append(alike)  # no method can change it
            continue
        is_first = numbers is wanted[0]
        for value in across.distinct:
            cells, styles = zip(
                *(
                    _cell(
                        at.get((key, value)),
                        [at.get((key, other)) for other in across.distinct],
                        numbers,
                        is_first,
                    )
                    for key in down.distinct
                ),
                strict=True,
            )
            heading = worded(across.key, value) + (" " if is_first else "")  # for the mark
            columns.append(Column(heading, cells, group=numbers.heading, styles=styles))
    return lines([Column(down.key, tuple(down.distinct), is_text=True)], known(columns), width)


def _by_row(rows: Sequence[Row], down: Axis, numbers: Numbers) -> Column | None:
    """One column of what all points of a row say alike, or None."""
    said: dict[str, set[float]] = {key: set() for key in down.distinct}
    for key, row in zip(down.values, rows, strict=True):
        if (value := numbers.of(row)) is not None:
            said[key].add(value)
    if any(len(values) > 1 for values in said.values()):
        return None
    cells = tuple("".join(map(numbers.text, values)) for values in said.values())
    return Column(numbers.heading, cells)


def _cell(
    row: Row | None, line: Sequence[Row | None], numbers: Numbers, is_first: bool
) -> tuple[str, str]:
    """A cell of a matrix, and its style."""
    pad = " " if is_first else ""
    if row is None:
        return (f"{MISSING}{pad}", "dim") if is_first else ("", "")
    value = numbers.of(row) if row.status == "ok" else None  # what does not fit has an estimate
    if value is None:
        return (f"{row.status}{pad}", STYLES.get(row.status, "red")) if is_first else ("", "")
    text = numbers.text(value)
    if not is_first:
        return text, ""
    good = [numbers.of(one) for one in line if one and one.status == "ok"]
    known = [each for each in good if each is not None]
    is_best = len(known) > 1 and value == min(known)
    return (f"{text}{BEST}", "bold green") if is_best else (f"{text} ", "")
