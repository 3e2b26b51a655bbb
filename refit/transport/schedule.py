"""A rank's messages: blocks packed per peer into buckets, in an order that cannot deadlock."""

from __future__ import annotations

from dataclasses import dataclass

from refit.plan import Plan

ALIGN = 16  # bytes; each block of a bucket starts on such a boundary


@dataclass(frozen=True)
class Block:
    """Part of one row: `length` indices of a tensor's cut axis, and where it lies in its bucket."""

    tensor: int
    start: int  # along the cut axis, in this rank's shard
    length: int
    offset: int  # bytes, in the bucket
    nbytes: int


@dataclass(frozen=True)
class Message:
    """One bucket to or from a peer.

    Attributes:
        order: (destination - source) mod world, then the number of the bucket in the pair. All
            ranks post in this order and wait only for earlier messages, so the least message not
            yet done is always posted at both its ends: no cycle of waits can form.
    """

    order: tuple[int, int]
    peer: int
    is_send: bool
    blocks: tuple[Block, ...]
    nbytes: int


def messages(plan: Plan, rank: int, bucket_bytes: int) -> list[Message]:
    """Everything a rank sends and receives, in posting order; receives before sends of equal order.

    A message is at most `bucket_bytes`, except where one index of a cut axis alone is larger.
    """
    found = []
    for is_send, rows in ((False, plan.to_rank(rank)), (True, plan.from_rank(rank))):
        peers = plan.destination if is_send else plan.source
        starts = plan.source_start if is_send else plan.destination_start
        by_peer: dict[int, list[int]] = {}
        for row in rows[plan.remote[rows]].tolist():
            by_peer.setdefault(int(peers[row]), []).append(row)
        for peer, mine in by_peer.items():
            shift = (peer - rank if is_send else rank - peer) % plan.placement.world
            for number, blocks in enumerate(_buckets(plan, mine, starts.tolist(), bucket_bytes)):
                size = blocks[-1].offset + blocks[-1].nbytes
                found.append(Message((shift, number), peer, is_send, tuple(blocks), size))
    return sorted(found, key=lambda m: (m.order, m.is_send))


def _buckets(plan: Plan, rows: list[int], starts: list[int], limit: int) -> list[list[Block]]:
    """Pack rows, cut along their axis where too large, into buckets of at most `limit` bytes."""
    buckets: list[list[Block]] = [[]]
    used = 0
    for row in rows:
        tensor, length = int(plan.tensor[row]), int(plan.length[row])
        unit = int(plan.nbytes[row]) // length
        done = 0
        while done < length:
            offset = -(-used // ALIGN) * ALIGN
            fits = (limit - offset) // unit
            if fits < 1 and buckets[-1]:
                buckets.append([])
                used = 0
                continue
            take = min(max(fits, 1), length - done)
            buckets[-1].append(Block(tensor, starts[row] + done, take, offset, take * unit))
            used = offset + take * unit
            done += take
    return buckets
