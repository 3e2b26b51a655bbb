"""What shards of two sides have in common: the boxes of indices that travel. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from math import lcm

import numpy as np

from refit.layout.cut import Cut, Run
from refit.layout.layout import IntArray

NO_AXIS = -1


@dataclass(frozen=True)
class Pieces:
    """Boxes of indices that a shard of each side has: `length` of two axes, whole in the others.

    The second axis is there where the two sides cut different ones; else it is `NO_AXIS`. A box
    that several source shards have is as many pieces, one after another, in the shards' order.

    Attributes, each [pieces, 2] of int64, the main axis first:
        axis: the dimension.
        source_start, source_step: of the box in the source's shard.
        destination_start, destination_step: of the box in the destination's.
        length: of the box, in indices.
    And each [pieces] of int64:
        source_shard, destination_shard: which shards of the cuts.
        box: the first piece of the same box.
    """

    axis: IntArray
    source_start: IntArray
    source_step: IntArray
    destination_start: IntArray
    destination_step: IntArray
    length: IntArray
    source_shard: IntArray
    destination_shard: IntArray
    box: IntArray

    def __len__(self) -> int:
        return len(self.box)

    @staticmethod
    def joined(tables: Sequence[Pieces]) -> Pieces:
        """All of them, one table after another."""
        columns = {
            field.name: np.concatenate([getattr(table, field.name) for table in tables])
            for field in fields(Pieces)
        }
        sizes = [len(table) for table in tables]
        columns["box"] += np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
        return Pieces(**columns)

    @cached_property
    def givers(self) -> list[tuple[int, ...]]:
        """Of each box, in order, the source shards that have it, ascending."""
        firsts = np.flatnonzero(self.box == np.arange(len(self)))
        parts = np.split(self.source_shard, firsts[1:]) if len(firsts) else []
        return [tuple(part.tolist()) for part in parts]

    def given_by(self, piece: IntArray, shard: IntArray) -> IntArray:
        """[copies]: of the boxes whose first pieces these are, the pieces out of these shards."""
        found = piece.copy()
        for k in range(1, int(np.bincount(self.box).max(initial=1))):
            at = np.minimum(piece + k, len(self) - 1)
            theirs = (self.box[at] == piece) & (self.source_shard[at] == shard)
            found = np.where(theirs, at, found)
        return found

    def from_destination(self) -> Pieces:
        """The boxes as a destination rank passes them on, out of its own shard."""
        return replace(self, source_start=self.destination_start, source_step=self.destination_step)


@lru_cache(maxsize=4096)
def pieces(source: Cut, destination: Cut) -> Pieces:
    """Every box that a source shard and a destination shard have in common.

    Ordered by the destination's shards and runs, then the source's.
    """
    if source.axis == destination.axis or source.is_whole or destination.is_whole:
        axis = destination.axis if source.is_whole else source.axis
        along = _along(
            Cut.whole(axis, destination.length) if source.axis != axis else source,
            Cut.whole(axis, source.length) if destination.axis != axis else destination,
        )
        rows = [[(axis, *row[2:]), _WHOLE, row[:2]] for row in along]
    else:
        # the source is whole along the destination's axis, and the other way round
        per_source = _along(source, Cut.whole(source.axis, source.length))
        per_destination = _along(Cut.whole(destination.axis, destination.length), destination)
        rows = [
            [(source.axis, *s[2:]), (destination.axis, *d[2:]), (s[0], d[1])]
            for d in per_destination
            for s in per_source
        ]
        # rows before columns, so that a box is divided into runs of rows
        rows = [[*sorted(row[:2]), row[2]] for row in rows]
    geometry = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2, 6)
    shards = np.array([row[2] for row in rows], dtype=np.int64).reshape(-1, 2)
    columns = [geometry[:, :, column] for column in range(6)]
    return Pieces(
        axis=columns[0],
        source_start=columns[1],
        source_step=columns[2],
        destination_start=columns[3],
        destination_step=columns[4],
        length=columns[5],
        source_shard=shards[:, 0],
        destination_shard=shards[:, 1],
        box=_boxes(geometry, shards),
    )


_WHOLE = (NO_AXIS, 0, 1, 0, 1, 1)

_Row = tuple[int, int, int, int, int, int, int]
"""(source shard, destination shard, source start and step, destination start and step, length)"""


def _along(source: Cut, destination: Cut) -> list[_Row]:
    """Intersections of the runs of two cuts of one axis."""
    source = source.atoms() if source.overlaps else source
    destination = destination.atoms() if destination.overlaps else destination
    theirs = [(shard, run) for shard, runs in enumerate(source.runs) for run in runs]
    starts = np.array([run[0] for _, run in theirs])
    stops = np.array([run[0] + (run[2] - 1) * run[3] + 1 for _, run in theirs])
    rows: list[_Row] = []
    for shard, runs in enumerate(destination.runs):
        for run in runs:
            stop = run[0] + (run[2] - 1) * run[3] + 1
            of_run = []
            for i in np.flatnonzero((starts < stop) & (stops > run[0])).tolist():
                giver, given = theirs[i]
                common = intersection(given, run)
                if common is not None:
                    of_run.append((giver, shard, *common))
            if source.overlaps:  # what several shards have stands together
                of_run.sort(key=lambda row: (row[4], row[0]))
            rows += of_run
    return rows


def intersection(source: Run, destination: Run) -> tuple[int, int, int, int, int] | None:
    """The whole indices that two runs share.

    Returns:
        source start and step, destination start and step, length; None where they share none.
    """
    (a, a_local, a_count, a_step), (b, b_local, b_count, b_step) = source, destination
    step = lcm(a_step, b_step)
    first, last = max(a, b), min(a + (a_count - 1) * a_step, b + (b_count - 1) * b_step)
    # the smallest index of both: at most b_step steps of the source's until the remainders agree
    start = a + -(-(first - a) // a_step) * a_step
    for _ in range(step // a_step):
        if (start - b) % b_step == 0:
            break
        start += a_step
    else:
        return None
    if start > last:
        return None
    return (
        a_local + (start - a) // a_step,
        step // a_step,
        b_local + (start - b) // b_step,
        step // b_step,
        (last - start) // step + 1,
    )


def _boxes(geometry: IntArray, shards: IntArray) -> IntArray:
    """[pieces]: the first piece of the same box in the same destination shard.

    Args:
        geometry: [pieces, 2, 6], of (axis, source start and step, destination start and step,
            length).
        shards: [pieces, 2], the source's and the destination's.
    """
    same = np.zeros(len(shards), dtype=bool)
    same[1:] = (geometry[1:, :, 3:] == geometry[:-1, :, 3:]).all((1, 2))
    same[1:] &= shards[1:, 1] == shards[:-1, 1]
    return np.flatnonzero(~same)[np.cumsum(~same) - 1]
