"""A rank's copies as runs of bytes between two arenas, and strided blocks of them. Pure numpy.

Every transport takes these, and never a list of copies per tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray
from refit.layout.tensors import ITEMSIZE
from refit.plan.arena import Arena
from refit.plan.copies import Copies
from refit.plan.pieces import NO_AXIS

NO_CAST = -1

_DTYPES = tuple(ITEMSIZE)
_ITEMS = np.array(list(ITEMSIZE.values()), dtype=np.int64)


@dataclass(frozen=True)
class Runs:
    """Bytes of one memory, and where in another they go: of arenas, or of a bucket.

    Each is `rows` rows of `width` bytes, at a distance (pitch) of their own at each end; one row is
    a run. Neighbours that touch at both ends are one. No two write the same byte.

    Attributes, each [runs] of int64, by peer, then by destination:
        peer: the rank at the other end.
        source, destination: the first byte, in the giver's arena and in the receiver's.
        rows: how many.
        source_pitch, destination_pitch: bytes from row to row; 0 where there is one.
        width: bytes of a row, at the source.
        cast: `NO_CAST`, or of which dtype its elements are and shall be; see `dtypes`.
    """

    peer: IntArray
    source: IntArray
    destination: IntArray
    rows: IntArray
    source_pitch: IntArray
    destination_pitch: IntArray
    width: IntArray
    cast: IntArray

    def __len__(self) -> int:
        return len(self.peer)

    @property
    def nbytes(self) -> IntArray:
        """[runs]."""
        return self.rows * self.width

    @property
    def flat(self) -> NDArray[np.bool_]:
        """[runs]: it is one row."""
        return self.rows == 1

    @property
    def destination_width(self) -> IntArray:
        """[runs]: bytes of a row, at the destination."""
        there, here = (_ITEMS[dtype] for dtype in np.divmod(np.maximum(self.cast, 0), len(_ITEMS)))
        return np.where(self.cast == NO_CAST, self.width, self.width // there * here)

    def tuples(self) -> list[tuple[int, ...]]:
        """Of each run its numbers, in the order of the attributes."""
        return list(zip(*(column.tolist() for column in _columns(self)), strict=True))

    def where(self, which: NDArray[np.bool_] | IntArray) -> Runs:
        """Some of them."""
        return Runs(*(getattr(self, field.name)[which] for field in fields(Runs)))

    def by_rows(self) -> Runs:
        """The same bytes, each row a run of its own."""
        each = self.where(np.repeat(np.arange(len(self)), self.rows))
        number, none = within(self.rows), np.zeros_like(each.rows)
        return replace(
            each,
            source=each.source + number * each.source_pitch,
            destination=each.destination + number * each.destination_pitch,
            rows=none + 1,
            source_pitch=none,
            destination_pitch=none,
        )

    def split(self, largest: int) -> Runs:
        """The same bytes, none of them more than so many at once; a strided block by its rows.

        Args:
            largest: bytes at the source; a multiple of every element that is cast.
        """
        wide = self._divided(-(-self.width // largest), largest) if len(self) else self
        return wide.by_blocks(largest // np.maximum(1, wide.width))

    def by_blocks(self, most: IntArray) -> Runs:
        """The same bytes in blocks of at most so many rows each, but one at least."""
        per = np.maximum(1, most)
        parts = -(-self.rows // per)
        cut = self.where(np.repeat(np.arange(len(self)), parts))
        number = within(parts)
        first = number * np.repeat(per, parts)
        rows = np.minimum(cut.rows - first, np.repeat(per, parts))
        several = rows > 1
        return replace(
            cut,
            source=cut.source + first * cut.source_pitch,
            destination=cut.destination + first * cut.destination_pitch,
            rows=rows,
            source_pitch=np.where(several, cut.source_pitch, 0),
            destination_pitch=np.where(several, cut.destination_pitch, 0),
        )

    def _divided(self, parts: IntArray, largest: int) -> Runs:
        """Rows of more bytes than `largest`: several blocks side by side."""
        cut = self.where(np.repeat(np.arange(len(self)), parts))
        number = within(parts)
        narrow = replace(cut, width=np.minimum(cut.width - number * largest, largest))
        full = replace(cut, width=np.minimum(cut.width, largest)).destination_width
        return replace(
            narrow,
            source=cut.source + number * largest,
            destination=cut.destination + number * full,
        )


def received(copies: Copies, rank: int) -> Runs:
    """What a rank receives, its own bytes too; `peer` is who has them."""
    return _of_rank(copies, rank, receives=True)


def given(copies: Copies, rank: int) -> Runs:
    """What a rank gives, to itself too; `peer` is who receives, and of it in the order there."""
    return _of_rank(copies, rank, receives=False)


def dtypes(cast: int) -> tuple[str, str]:
    """Of a `Runs.cast`, the dtypes at the source and at the destination."""
    return _DTYPES[cast // len(_DTYPES)], _DTYPES[cast % len(_DTYPES)]


def none() -> Runs:
    """A table without a run."""
    return Runs(*[np.zeros(0, dtype=np.int64)] * len(fields(Runs)))


def together(tables: Sequence[Runs]) -> Runs:
    """All of them, one table after another."""
    return Runs(*map(np.concatenate, zip(*map(_columns, tables), strict=True)))


def _of_rank(copies: Copies, rank: int, receives: bool) -> Runs:
    """All that a rank receives, or all that it gives."""
    mine = copies.to_rank(rank) if receives else copies.from_rank(rank)
    if not len(mine):
        return none()
    ends = copies.source if receives else copies.destination
    mine = mine[np.argsort(ends[mine], kind="stable")]
    own = copies.arena(rank, of_source=not receives)
    peers, first = np.unique(ends[mine], return_index=True)
    family = np.searchsorted(copies.catalogue.bases, copies.tensor[mine], side="right") - 1
    found = []
    for peer, rows, families in zip(
        peers.tolist(), np.split(mine, first[1:]), np.split(family, first[1:]), strict=True
    ):
        theirs = copies.arena(peer, of_source=receives)
        out_of, into = (theirs, own) if receives else (own, theirs)
        found.append(_of_peer(copies, peer, rows, families, out_of, into))
    tables, likes = zip(*found, strict=True)
    return _merged(together(tables), np.concatenate(likes))


def _columns(table: Runs) -> list[IntArray]:
    return [getattr(table, field.name) for field in fields(Runs)]


def _of_peer(
    copies: Copies, peer: int, rows: IntArray, family: IntArray, out_of: Arena, into: Arena
) -> tuple[Runs, IntArray]:
    """Some rows of one peer, not merged yet; and of each its piece."""
    pieces, piece = copies.pieces, copies.piece[rows]
    count = copies.shapes[family]
    strides, starts = [], []
    for arena, start, step in (
        (out_of, pieces.source_start, pieces.source_step),
        (into, pieces.destination_start, pieces.destination_step),
    ):
        stride, at = arena.strides[family], arena.starts(copies.tensor[rows])
        for k in (0, 1):
            has = np.flatnonzero(pieces.axis[piece, k] != NO_AXIS)
            axis = pieces.axis[piece[has], k]
            at[has] += start[piece[has], k] * stride[has, axis]
            stride[has, axis] *= step[piece[has], k]
            count[has, axis] = pieces.length[piece[has], k]
        strides.append(stride)
        starts.append(at)
    items = out_of.itemsizes[family], into.itemsizes[family]
    table, box = _collapsed(starts, strides, count, items)
    cast = _casts(out_of, into)[family[box]]
    return replace(table, peer=np.full(len(box), peer), cast=cast), piece[box]


def _casts(out_of: Arena, into: Arena) -> IntArray:
    """[families]: as in `Runs`."""
    ends = zip(out_of.dtypes, into.dtypes, strict=True)
    return np.array(
        [NO_CAST if a == b else _DTYPES.index(a) * len(_DTYPES) + _DTYPES.index(b) for a, b in ends]
    )


def _collapsed(
    starts: list[IntArray],
    strides: list[IntArray],
    count: IntArray,
    items: tuple[IntArray, IntArray],
) -> tuple[Runs, IntArray]:
    """Boxes of any dimensions as blocks of rows: from the innermost dimension out, what is dense
    widens a row, what is not makes rows, and what fits neither makes blocks.

    Args:
        starts: of source and destination, [boxes].
        strides: of both, [boxes, dimensions].
        count: [boxes, dimensions].
        items: of both, [boxes], bytes of an element.

    Returns:
        The blocks, of no peer and no cast yet; and [blocks], which box each is of.
    """
    one, box = np.ones_like(items[0]), np.arange(len(count))
    state = np.stack([*starts, one, 0 * one, 0 * one, items[0]])  # as in Runs, from source to width
    for axis in reversed(range(count.shape[1])):
        source, destination, n = strides[0][box, axis], strides[1][box, axis], count[box, axis]
        _, _, rows, source_pitch, destination_pitch, width = state
        several = n > 1
        dense = several & (rows == 1) & (source == width)
        dense &= destination * items[0][box] == width * items[1][box]
        first = several & (rows == 1) & ~dense
        longer = several & (rows > 1) & (source == rows * source_pitch)
        longer &= destination == rows * destination_pitch
        state[5] = np.where(dense, width * n, width)
        state[3] = np.where(first, source, source_pitch)
        state[4] = np.where(first, destination, destination_pitch)
        state[2] = np.where(first | longer, rows * n, rows)
        parts = np.where(several & ~dense & ~first & ~longer, n, 1)
        if (parts > 1).any():
            at, number = np.repeat(np.arange(len(parts)), parts), within(parts)
            state, box = state[:, at], box[at]
            state[0] += number * source[at]
            state[1] += number * destination[at]
    return Runs(*(0 * box, *state, 0 * box)), box


def within(parts: IntArray) -> IntArray:
    """Of each part its number among those of the same: 0 0 1 2 0 of 1 3 1."""
    return np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)


def _merged(table: Runs, like: IntArray) -> Runs:
    """Runs that touch at both ends are one; blocks too that go on at the same pitches.

    Args:
        like: [runs], equal for those that may be at equal distances, as the same part of alike
            tensors is: then they are one block.
    """
    flat, like = table.where(table.flat), like[table.flat]
    order = np.lexsort((flat.destination, flat.peer))
    flat, like = flat.where(order), like[order]
    ends = flat.width, flat.destination_width
    flat, first = _joined(flat, *ends, (flat.cast, flat.peer), "width")
    folded = _folded(flat, like[first])
    rest = together((table.where(~table.flat), folded.where(~folded.flat)))
    pitches = rest.source_pitch, rest.destination_pitch
    phases = rest.source % pitches[0], rest.destination % pitches[1]
    order = np.lexsort((rest.destination, *phases, *pitches, rest.width, rest.cast, rest.peer))
    rest = rest.where(order)
    reach = [rest.rows * pitch for pitch in (rest.source_pitch, rest.destination_pitch)]
    alike = (rest.source_pitch, rest.destination_pitch, rest.width, rest.cast, rest.peer)
    rest, _ = _joined(rest, reach[0], reach[1], alike, "rows")
    both = together((folded.where(folded.flat), rest))
    return both.where(np.lexsort((both.destination, both.peer)))


def _joined(
    table: Runs, source: IntArray, destination: IntArray, alike: tuple[IntArray, ...], grows: str
) -> tuple[Runs, IntArray]:
    """Neighbours in the table as one, where the second begins at both ends where the first ends.

    Args:
        source, destination: [runs], from a first byte to what would be the next one's.
        alike: columns that must be equal.
        grows: the column that is the sum of theirs.

    Returns:
        Them, and [runs], the first that each is made of.
    """
    if not len(table):
        return table, table.peer
    goes_on = table.source[1:] == (table.source + source)[:-1]
    goes_on &= table.destination[1:] == (table.destination + destination)[:-1]
    for column in alike:
        goes_on &= column[1:] == column[:-1]
    first = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    summed = np.add.reduceat(getattr(table, grows), first)
    return replace(table.where(first), **{grows: summed}), first


def _folded(flat: Runs, like: IntArray) -> Runs:
    """Three runs or more of one width, at equal distances at both ends, as one block."""
    order = np.lexsort((flat.destination, like, flat.width, flat.cast, flat.peer))
    flat, like = flat.where(order), like[order]
    apart = np.diff([flat.source, flat.destination], axis=1)
    near = (apart[0] > 0) & (np.diff(like) == 0) & (np.diff(flat.width) == 0)
    near &= (np.diff(flat.peer) == 0) & (np.diff(flat.cast) == 0)
    again = near[1:] & near[:-1] & (apart[:, 1:] == apart[:, :-1]).all(0)
    # stretches of equal distances; of two that touch, the run that both have is the former's
    begins = np.flatnonzero(np.concatenate([[True], ~again])[: len(near)])
    equal = np.diff(np.append(begins, len(near)))
    long = near[begins] & (equal > 1)
    shared = np.concatenate([[False], long])[: len(long)]
    blocks = long & (equal - shared > 1)
    start, size = (begins + shared)[blocks], (equal + 1 - shared)[blocks]
    depth = np.zeros(len(flat) + 1, dtype=np.int64)  # 1 from the second run of a block to its last
    depth[start + 1] += 1
    depth[start + size] -= 1
    first = np.flatnonzero(np.cumsum(depth[:-1]) == 0)
    rows = np.diff(np.append(first, len(flat)))
    several = np.flatnonzero(rows > 1)
    pitches = np.zeros((2, len(first)), dtype=np.int64)
    pitches[:, several] = apart[:, first[several]]
    return replace(
        flat.where(first), rows=rows, source_pitch=pitches[0], destination_pitch=pitches[1]
    )
