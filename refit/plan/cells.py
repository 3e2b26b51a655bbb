"""Boxes of several destinations in cells, of which two are the same indices or share none."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from refit.layout.layout import IntArray
from refit.layout.tensors import Catalogue
from refit.plan.pieces import NO_AXIS, Pieces

_Range = tuple[int, int, int]
"""Start, step and length along an axis of the source's shard."""


@dataclass(frozen=True)
class Cells:
    """The cells of some boxes.

    Attributes:
        count: of all cells.
        indices: [pieces], how many indices a box has; 1 where the piece is none of the boxes.
        first, number: [pieces], where a box's cells begin in the columns below, and how many.
        cell, size: [cells of all boxes], its number, and its indices.
    """

    count: int
    indices: IntArray
    first: IntArray
    number: IntArray
    cell: IntArray
    size: IntArray

    def of(self, box: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """The cells of each row's box, one row after another.

        Returns:
            row, cell, size, each [cells].
        """
        count = self.number[box]
        row = np.repeat(np.arange(len(box)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        at = self.first[box[row]] + within
        return row, self.cell[at], self.size[at]


def cells(pieces: Pieces, box: IntArray, family: IntArray, catalogue: Catalogue) -> Cells:
    """Divide boxes where others of the same shard begin and end.

    Two boxes of rows 0 to 3 and 2 to 5 have the cells 0 to 1, 2 to 3 and 4 to 5, two each. Where a
    box is strided, each index along its axis is a cell.

    Args:
        box, family: [copies], the first piece of a row's box, and the family of its tensor.
    """
    used, at = np.unique(box, return_index=True)
    groups: dict[tuple[int, int], list[int]] = {}  # by family and shard of the source
    for piece, of_family in zip(used.tolist(), family[at].tolist(), strict=True):
        groups.setdefault((of_family, int(pieces.source_shard[piece])), []).append(piece)
    indices, first, number = np.ones((3, len(pieces)), dtype=np.int64)
    all_cells: list[IntArray] = []
    sizes: list[IntArray] = []
    count = end = 0
    for (of_family, _), boxes in groups.items():
        shape = catalogue.families[of_family].shape
        ranges = [_ranges(pieces, piece, shape) for piece in boxes]
        edges = [_edges([of_box[axis] for of_box in ranges]) for axis in range(len(shape))]
        grid = tuple(max(1, len(of_axis) - 1) for of_axis in edges)
        for piece, of_box in zip(boxes, ranges, strict=True):
            along = [_along(*pair) for pair in zip(edges, of_box, strict=True)]
            theirs = np.array(list(product(*along)), dtype=np.int64).T  # [axes, cells]
            all_cells.append(count + np.ravel_multi_index(tuple(theirs), grid))
            lengths = [np.diff(of_axis)[c] for of_axis, c in zip(edges, theirs, strict=True)]
            sizes.append(np.prod(lengths, axis=0))
            first[piece], number[piece] = end, theirs.shape[1]
            indices[piece] = sizes[-1].sum()
            end += theirs.shape[1]
        count += int(np.prod(grid))
    none = [np.zeros(0, dtype=np.int64)]
    return Cells(
        count, indices, first, number, np.concatenate(all_cells or none),
        np.concatenate(sizes or none),
    )  # fmt: skip


def _ranges(pieces: Pieces, piece: int, shape: tuple[int, ...]) -> list[_Range]:
    """Of a box along every axis; whole along those that it does not cut."""
    found = [(0, 1, size) for size in shape]
    for k, axis in enumerate(pieces.axis[piece].tolist()):
        if axis != NO_AXIS:
            found[axis] = (
                int(pieces.source_start[piece, k]),
                int(pieces.source_step[piece, k]),
                int(pieces.length[piece, k]),
            )
    return found


def _edges(ranges: list[_Range]) -> IntArray:
    """Where cells begin along an axis, and where the last ends."""
    stops = [start + (length - 1) * step + 1 for start, step, length in ranges]
    starts = [start for start, _, _ in ranges]
    if any(step != 1 for _, step, length in ranges if length > 1):
        return np.arange(min(starts), max(stops) + 1)
    return np.unique([*starts, *stops])


def _along(edges: IntArray, of_box: _Range) -> list[int]:
    """The cells of one axis that a box has."""
    start, step, length = of_box
    if step == 1 or length == 1:
        first, last = np.searchsorted(edges, [start, start + length]).tolist()
        return list(range(first, last))
    return [start - int(edges[0]) + step * i for i in range(length)]
