"""Runs as one-sided reads: which bytes go straight to their place, and which by staging."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray
from refit.plan.runs import NO_CAST, Runs, together, within
from refit.transport.schedule import ALIGN, WHOLE, filled


@dataclass(frozen=True)
class Read:
    """What is read from one peer by one request.

    Attributes:
        peer: who has it.
        theirs, ours, nbytes: [descriptors], the first byte in the peer's arena, and in this rank's
            arena or in the read's part of staging; and how many.
        is_staged: [descriptors], which of the two.
        runs: what goes on from staging into the arena; `peer` is 0.
        staged: bytes of staging.
    """

    peer: int
    theirs: IntArray
    ours: IntArray
    nbytes: IntArray
    is_staged: NDArray[np.bool_]
    runs: Runs
    staged: int


def reads(table: Runs, first: int, world: int, limit: int, gap: int) -> list[Read]:
    """A rank's reads, per peer, of at most `limit` bytes each.

    A descriptor is a run, or a row of a block that lands in its place. Rows that lie near each
    other are read with what lies between them, as one, into staging, and so is what is cast.

    Args:
        table: what it receives from others.
        first: the rank whose successors are read from first, so that not all readers begin at one.
        gap: how many bytes between two rows cost less than a descriptor.
    """
    joined = ~table.flat & (table.source_pitch - table.width <= gap) & (table.source_pitch <= limit)
    near, rest = table.where(joined), table.where(~joined)
    near = near.by_blocks(limit // np.maximum(1, near.source_pitch))
    rest = rest.split(max(WHOLE, limit // WHOLE * WHOLE))
    pieces = together([near, rest])
    joined = np.arange(len(pieces)) < len(near)
    shift = (pieces.peer - first) % world
    order = np.lexsort((pieces.destination, shift))
    pieces, joined = pieces.where(order), joined[order] & ~pieces.flat[order]
    return [
        _read(pieces.where(chosen), joined[chosen])
        for chosen in _batches(shift[order], _spans(pieces, joined), limit)
    ]


def _batches(shift: IntArray, nbytes: IntArray, limit: int) -> Iterator[IntArray]:
    """[pieces of a batch], of one peer each, in order."""
    for peer in np.unique(shift).tolist():
        mine = np.flatnonzero(shift == peer)
        numbers = np.array(filled(nbytes[mine].tolist(), limit))
        yield from np.split(mine, np.flatnonzero(np.diff(numbers)) + 1)


def _spans(pieces: Runs, joined: NDArray[np.bool_]) -> IntArray:
    """[pieces]: bytes that are read; of the last row none behind it, as they may be nobody's."""
    return np.where(
        joined, (pieces.rows - 1) * pieces.source_pitch + pieces.width, pieces.rows * pieces.width
    )


def _read(pieces: Runs, joined: NDArray[np.bool_]) -> Read:
    is_staged = joined | (pieces.cast != NO_CAST)
    spans = _spans(pieces, joined)
    room = np.where(is_staged, -(-spans // ALIGN) * ALIGN, 0)
    at = np.cumsum(room) - room
    dense = np.where(pieces.flat, 0, pieces.width)
    runs = replace(
        pieces,
        peer=0 * pieces.peer,
        source=at,
        source_pitch=np.where(joined, pieces.source_pitch, dense),
    )
    of = np.repeat(np.arange(len(pieces)), np.where(joined, 1, pieces.rows))
    row = within(np.where(joined, 1, pieces.rows))
    in_place = pieces.destination[of] + row * pieces.destination_pitch[of]
    return Read(
        peer=int(pieces.peer[0]),
        theirs=pieces.source[of] + row * pieces.source_pitch[of],
        ours=np.where(is_staged[of], at[of] + row * pieces.width[of], in_place),
        nbytes=np.where(joined, spans, pieces.width)[of],
        is_staged=is_staged[of],
        runs=runs.where(is_staged),
        staged=int(room.sum()),
    )
