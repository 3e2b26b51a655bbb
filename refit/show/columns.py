"""Columns of text as lines no wider than a terminal: nothing is cut, what does not fit goes below.

Pure; rich's Text carries the styles, which a pipe does not see.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rich.text import Text

GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        cells: one per line.
        group: stands above the headings of neighbours that have the same.
        is_text: is set to the left; numbers are to the right.
        styles: of each cell, as rich names them; empty for none.
    """

    heading: str
    cells: tuple[str, ...]
    group: str = ""
    is_text: bool = False
    styles: tuple[str, ...] = ()

    @cached_property  # of ten thousand cells, and asked for each of them
    def width(self) -> int:
        """Of the widest cell or the heading."""
        return max(map(len, (self.heading, *self.cells)))

    def padded(self, text: str, width: int) -> str:
        """A text to the column's side."""
        return text.ljust(width) if self.is_text else text.rjust(width)


def lines(names: Sequence[Column], columns: Sequence[Column], width: int | None) -> list[Text]:
    """A heading and a line for each cell; several such blocks where the columns do not fit.

    The names stand in front of each block. Where they leave no room what they have in common is
    said once, in their heading; and where that does not do, they stand on lines of their own.

    Args:
        width: of the terminal; None: any.
    """
    if width is None:
        return _block(names, columns)
    notes: list[Text] = []
    blocks = _blocks(names, columns, width)
    if len(blocks) != 1:
        shorter, patterns = zip(*map(shortened, names), strict=True)
        found = _blocks(shorter, columns, width)
        if found and (not blocks or len(found) < len(blocks)):
            names, blocks = shorter, found
            said = zip(names, patterns, strict=True)
            notes = [Text(f"{name.heading}: {pattern}") for name, pattern in said if pattern]
    if not blocks:
        return _tall(names, columns, width)
    return [*notes, *_below([_block(names, block) for block in blocks])]


def shortened(column: Column) -> tuple[Column, str]:
    """The column without what its cells begin and end with alike, and a pattern that says it.

    Parts are those between underscores: `noncollocated_*`; empty where they have none in common.
    """
    cells = [cell.split("_") for cell in dict.fromkeys(column.cells)]
    if len(cells) < 2:
        return column, ""
    least = min(map(len, cells)) - 1
    begin = min(_alike(cells), least)
    end = min(_alike([cell[::-1] for cell in cells]), least - begin)
    if not begin and not end:
        return column, ""
    first = cells[0]

    def short(cell: str) -> str:
        parts = cell.split("_")
        return "_".join(parts[begin : len(parts) - end])

    pattern = "_".join([*first[:begin], "*", *first[len(first) - end :]])
    return replace(column, cells=tuple(map(short, column.cells))), pattern


def known(columns: Sequence[Column]) -> list[Column]:
    """Those that say anything."""
    return [column for column in columns if any(column.cells)]


def above(text: str, width: int | None) -> list[Text]:
    """What stands above a table, in lines; none where it is empty."""
    parts = textwrap.wrap(text, width or max(len(text), 1), break_long_words=False)
    return [Text(part) for part in parts]


def _alike(cells: Sequence[Sequence[str]]) -> int:
    """How many parts all begin with."""
    columns = enumerate(zip(*cells, strict=False))
    return next((n for n, parts in columns if len(set(parts)) > 1), min(map(len, cells)))


def _size(columns: Sequence[Column]) -> int:
    return sum(column.width + len(GAP) for column in _wide(columns))


def _fits(names: Sequence[Column], columns: Sequence[Column], width: int) -> bool:
    return _size(names) + _size(columns) - len(GAP) <= width


def _blocks(names: Sequence[Column], columns: Sequence[Column], width: int) -> list[list[Column]]:
    """The columns in as few runs as fit beside the names; a group is parted only if it must be.

    None where a column does not fit beside them by itself.
    """
    blocks: list[list[Column]] = [[]]
    for group in _groups(columns):
        if _fits(names, [*blocks[-1], *group], width):
            blocks[-1] += group
        elif _fits(names, group, width):
            blocks.append(list(group))
        else:
            for column in group:
                if not _fits(names, [column], width):
                    return []
                if not _fits(names, [*blocks[-1], column], width):
                    blocks.append([])
                blocks[-1].append(column)
    return [block for block in blocks if block]


def _groups(columns: Sequence[Column]) -> Iterator[list[Column]]:
    run: list[Column] = []
    for column in columns:
        if run and (not column.group or column.group != run[-1].group):
            yield run
            run = []
        run.append(column)
    if run:
        yield run


def _wide(columns: Sequence[Column]) -> list[Column]:
    """The columns, the last of a group being as wide as its name needs."""
    made: list[Column] = []
    for group in _groups(columns):
        have = sum(c.width for c in group) + len(GAP) * (len(group) - 1)
        last = group[-1]
        if (lacking := len(last.group) - have) > 0:
            heading = last.padded(last.heading, last.width + lacking)
            group = [*group[:-1], replace(last, heading=heading)]
        made += group
    return made


def _block(names: Sequence[Column], columns: Sequence[Column]) -> list[Text]:
    """Headings, with the groups' above them, and a line per cell."""
    columns = _wide(columns)
    every = [*names, *columns]
    made = []
    if any(column.group for column in columns):
        spans = [" " * (_size(names) - len(GAP))] if names else []
        for group in _groups(columns):
            have = sum(c.width for c in group) + len(GAP) * (len(group) - 1)
            spans.append(group[0].group.center(have) if group[1:] else group[0].group.rjust(have))
        made.append(_plain(spans))
    made.append(_plain([column.padded(column.heading, column.width) for column in every]))
    for number in range(len(every[0].cells)):
        made.append(_line(every, number))
    return made


def _tall(names: Sequence[Column], columns: Sequence[Column], width: int) -> list[Text]:
    """As `_block`, each name on a line of its own above its cells; wider only than one column."""
    indent = Column("", ("",) * len(names[0].cells), is_text=True)
    blocks = _blocks([indent], columns, width) or [[column] for column in columns]
    made = []
    for block in blocks:
        head, body = [], _block([indent], block)
        while len(body) > len(indent.cells):
            head.append(body.pop(0))
        made.append([_plain([name.heading for name in names]), *head])
        for number, line in enumerate(body):
            made[-1] += [_plain([name.cells[number] for name in names]), line]
    return _below(made)


def _below(blocks: Sequence[list[Text]]) -> list[Text]:
    """The blocks one below the other, an empty line between two."""
    return [
        line
        for number, block in enumerate(blocks)
        for line in ([Text(""), *block] if number else block)
    ]


def _line(columns: Sequence[Column], number: int) -> Text:
    text = Text()
    for place, column in enumerate(columns):
        style = column.styles[number] if column.styles else ""
        text.append(GAP if place else "")
        text.append(column.padded(column.cells[number], column.width), style)
    text.rstrip()
    return text


def _plain(parts: Sequence[str]) -> Text:
    return Text(GAP.join(parts).rstrip())
