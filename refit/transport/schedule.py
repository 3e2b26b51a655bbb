"""A rank's messages: blocks packed per peer into buckets, in an order that cannot deadlock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from refit.plan.copies import Copies

ALIGN = 16  # bytes; each block of a bucket starts on such a boundary

Order = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """Part of one row: so many indices of its main axis, and where it lies in its bucket."""

    row: int  # of the copies
    first: int  # of the row's block along its main axis
    count: int
    offset: int  # bytes, in the bucket
    nbytes: int


@dataclass(frozen=True)
class Message:
    """One bucket to or from a peer.

    Attributes:
        order: (destination - source) mod world, then the number of the bucket in the pair. All
            ranks post in this order and wait only for earlier messages, so the least message not
            yet done is always posted at both its ends: no cycle of waits can form. A rank has at
            most one send and one receive of each order.
        in_place: a single block that is contiguous in both shards: it need not be packed.
    """

    order: Order
    peer: int
    is_send: bool
    blocks: tuple[Block, ...]
    nbytes: int
    in_place: bool = False


def messages(
    copies: Copies, rank: int, bucket_bytes: int, in_place_bytes: int | None = None
) -> list[Message]:
    """Everything a rank sends and receives, in posting order; receives before sends of equal order.

    A message is at most `bucket_bytes`, except where one index of a main axis alone is larger.

    Args:
        in_place_bytes: contiguous blocks of at least so many bytes go as messages of their own;
            None: all blocks are packed.
    """
    both_ways = []
    for is_send, rows in ((False, copies.to_rank(rank)), (True, copies.from_rank(rank))):
        peers = copies.destination if is_send else copies.source
        by_peer: dict[int, list[int]] = {}
        for row in rows[copies.remote[rows]].tolist():
            by_peer.setdefault(int(peers[row]), []).append(row)
        for peer, mine in by_peer.items():
            shift = (peer - rank if is_send else rank - peer) % copies.placement.world
            alone = [r for r in mine if _goes_in_place(copies, r, in_place_bytes)]
            packed = [r for r in mine if not _goes_in_place(copies, r, in_place_bytes)]
            buckets = [(b, False) for b in _buckets(copies, packed, bucket_bytes)]
            for row in alone:
                # its own bucket, or several where it exceeds one
                buckets += [(b, True) for b in _buckets(copies, [row], bucket_bytes)]
            for number, (blocks, in_place) in enumerate(buckets):
                size = blocks[-1].offset + blocks[-1].nbytes
                order = (shift, number)
                both_ways.append(Message(order, peer, is_send, tuple(blocks), size, in_place))
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
    """The next boundary on which a block may start."""
    return -(-nbytes // ALIGN) * ALIGN


def _goes_in_place(copies: Copies, row: int, in_place_bytes: int | None) -> bool:
    if in_place_bytes is None or copies.nbytes[row] < in_place_bytes:
        return False
    return copies.is_one_run(row)


def _buckets(copies: Copies, rows: list[int], limit: int) -> list[list[Block]]:
    """Pack rows, divided along their main axis where too large, into buckets of at most `limit`."""
    buckets: list[list[Block]] = []
    used = limit
    for row in rows:
        length = int(copies.length[row])
        unit = int(copies.nbytes[row]) // length
        done = 0
        while done < length:
            offset = aligned(used)
            fits = (limit - offset) // unit
            if fits < 1:
                buckets.append([])
                offset, fits = 0, max(limit // unit, 1)
            take = min(fits, length - done)
            buckets[-1].append(Block(row, done, take, offset, take * unit))
            used = offset + take * unit
            done += take
    return buckets
