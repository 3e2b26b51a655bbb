"""A rank's messages: runs packed per peer into buckets, in an order that cannot deadlock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refit.layout.layout import IntArray
from refit.plan.copies import Copies
from refit.plan.runs import NO_CAST, Runs, given

ALIGN = 16  # bytes; each run of a bucket starts on such a boundary
WHOLE = 64  # bytes; runs are cut at multiples of it, so that what is loaded at once stays together
PARTS = 8  # of a bucket: runs are cut as small as that, so that a bucket is that full at least

Order = tuple[int, int]


@dataclass(frozen=True)
class Message:
    """One bucket to or from a peer.

    Attributes:
        order: the number of the bucket in the pair, then (destination - source) mod world. All
            ranks post in this order and wait only for earlier messages, so the least message not
            yet done is always posted at both its ends: no cycle of waits can form. A rank has at
            most one send and one receive of each order, and its peers take turns.
        runs: its bytes, from arena to arena.
        at: [runs], the byte of the bucket at which each begins.
        cast_first: what is cast is cast before it is sent, and not on arrival.
        in_place: one run of bytes: it need not be packed.
    """

    order: Order
    peer: int
    is_send: bool
    runs: Runs
    at: IntArray
    nbytes: int
    cast_first: bool = False
    in_place: bool = False

    @property
    def start(self) -> int:
        """Of a message in place, its first byte in this rank's arena."""
        return int((self.runs.source if self.is_send else self.runs.destination)[0])

    def staged(self, offset: int = 0) -> Runs:
        """From this rank's arena into its bucket, or from its bucket into the arena.

        Args:
            offset: of the bucket in the memory that it lies in. Both ends' `peer` is 0.
        """
        runs, cast = self.runs, self.runs.cast
        width = _wire_width(runs, self.cast_first)
        pitch = np.where(runs.flat, 0, width)
        here = replace(runs, peer=0 * runs.peer)
        if self.is_send:
            cast = cast if self.cast_first else np.full_like(cast, NO_CAST)
            return replace(here, destination=self.at + offset, destination_pitch=pitch, cast=cast)
        cast = np.full_like(cast, NO_CAST) if self.cast_first else cast
        return replace(here, source=self.at + offset, source_pitch=pitch, width=width, cast=cast)


def messages(
    copies: Copies,
    rank: int,
    incoming: Runs,
    bucket_bytes: int,
    in_place_bytes: int | None = None,
) -> list[Message]:
    """Everything a rank sends and receives, in posting order; receives before sends of equal order.

    Args:
        incoming: what it receives (`refit.plan.runs.received`).
        bucket_bytes: the largest message; `ALIGN` or more.
        in_place_bytes: runs of at least so many bytes, and rows, go as messages of their own, as
            large as a bucket at most; None: all are packed.
    """
    both_ways: list[Message] = []
    world = copies.placement.world
    for is_send, table in ((False, incoming), (True, given(copies, rank))):
        for peer in np.unique(table.peer[table.peer != rank]).tolist():
            runs = table.where(table.peer == peer)
            cast_first = copies.cast_by_sender(peer if is_send else rank)
            shift = (peer - rank if is_send else rank - peer) % world
            for number, (part, at, in_place) in enumerate(
                _parts(runs, cast_first, bucket_bytes, in_place_bytes)
            ):
                nbytes = int(at[-1] + (part.rows * _wire_width(part, cast_first))[-1])
                order = (number, shift)
                both_ways.append(
                    Message(order, peer, is_send, part, at, nbytes, cast_first, in_place)
                )
    return sorted(both_ways, key=lambda m: (m.order, m.is_send))


def group_numbers(
    sent: Iterable[Mapping[Order, int]], max_bytes: int, max_ops: int
) -> dict[Order, int]:
    """In which group each message goes, the same on all ranks.

    Orders are cut into runs, so groups, too, wait only for earlier ones. A rank's part of a group
    is at most half of `max_ops` sends and as many receives, and at most `max_bytes` each way but
    for a message that is larger alone.

    Args:
        sent: for each rank, the order and bytes of each message that it sends.
        max_ops: 2 or more.
    """
    largest: dict[Order, int] = {}
    for of_rank in sent:
        for order, nbytes in of_rank.items():
            largest[order] = max(nbytes, largest.get(order, 0))
    numbers: dict[Order, int] = {}
    group, count, used = 0, 0, 0
    for order in sorted(largest):
        end = aligned(used) + largest[order]
        if count and (count == max_ops // 2 or end > max_bytes):
            group, count, end = group + 1, 0, largest[order]
        numbers[order] = group
        count, used = count + 1, end
    return numbers


def aligned(nbytes: int) -> int:
    """The next boundary on which a run may start."""
    return -(-nbytes // ALIGN) * ALIGN


def filled(nbytes: Sequence[int], limit: int) -> list[int]:
    """Of pieces one after another, the bucket of at most `limit` bytes that each goes into.

    A piece that is larger has one of its own.
    """
    numbers, number, used = [], 0, 0
    for size in nbytes:
        if used and aligned(used) + size > limit:
            number, used = number + 1, 0
        used = aligned(used) + size
        numbers.append(number)
    return numbers


def _parts(
    runs: Runs, cast_first: bool, limit: int, in_place_bytes: int | None
) -> Iterator[tuple[Runs, IntArray, bool]]:
    """The messages of a pair: of each its runs, where they begin in its bucket, and `in_place`."""
    alone = np.zeros(len(runs), dtype=bool)
    if in_place_bytes is not None:
        alone = (runs.cast == NO_CAST) & (runs.width >= in_place_bytes)
    packed = _cut(runs.where(~alone), cast_first, limit)
    sizes = packed.rows * _wire_width(packed, cast_first)
    ends = -(-sizes // ALIGN) * ALIGN
    numbers = np.array(filled(sizes.tolist(), limit), dtype=np.int64)
    for number in range(int(numbers.max(initial=-1)) + 1):
        mine = numbers == number
        yield packed.where(mine), np.cumsum(ends[mine]) - ends[mine], False
    large = runs.where(alone).by_rows().split(max(WHOLE, limit // WHOLE * WHOLE))
    for k in range(len(large)):
        yield large.where(np.array([k])), np.zeros(1, dtype=np.int64), True


def _cut(runs: Runs, cast_first: bool, limit: int) -> Runs:
    """Runs of so few bytes that buckets become full."""
    most = max(WHOLE, limit // PARTS // WHOLE * WHOLE)
    wider = int((-(-_wire_width(runs, cast_first) // np.maximum(1, runs.width))).max(initial=1))
    return runs.split(most // wider)


def _wire_width(runs: Runs, cast_first: bool) -> IntArray:
    """[runs]: bytes of a row as it travels."""
    return runs.destination_width if cast_first else runs.width
