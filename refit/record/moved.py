"""What a refit moved that was planned elsewhere: counted on the ranks, summed up for a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from refit.record.parts import PlanNumbers

KNOWN_FAULT = "known fault"
"""In what a transport says of itself: why weights may be wrong, which is then the reason."""


@dataclass
class Moved:
    """What one rank handed to a transport in one refit, in bytes, by the rank at the other end.

    What it copies within itself is in both directions, under its own number.

    Attributes:
        copies: blocks received.
    """

    copies: int = 0
    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)

    def add(self, sends: bool, peer: int, nbytes: int) -> None:
        """Count one block."""
        ends = self.sent if sends else self.received
        ends[peer] = ends.get(peer, 0) + nbytes
        self.copies += not sends


def unknown(plan: PlanNumbers) -> PlanNumbers:
    """A record's plan where the transport made another and did not count what it moved.

    The bytes written and the lower bounds are those of any plan, and stay; the rest is null.
    """
    return replace(
        plan,
        copies=None,
        local_bytes=None,
        cross_node_bytes=None,
        max_send_bytes=None,
        max_forward_bytes=None,
        max_recv_bytes=None,
        max_peer_bytes=None,
        max_cross_node_bytes=None,
        left_out_tensors=None,
        left_out_bytes=None,
    )


def executed(plan: PlanNumbers, moved: Sequence[Moved], ranks_per_node: int) -> PlanNumbers:
    """A record's plan where the transport made another: the numbers of what the ranks moved.

    Args:
        plan: of the record so far; its lower bounds are those of any plan, and stay.
        moved: [world], by rank.
    """
    sent = [_Split.of(rank, one.sent, ranks_per_node) for rank, one in enumerate(moved)]
    received = [_Split.of(rank, one.received, ranks_per_node) for rank, one in enumerate(moved)]
    written = sum(split.local + split.peers for split in received)
    left_out = max(0, plan.bytes - written)
    return replace(
        plan,
        copies=sum(one.copies for one in moved),
        bytes=written,
        local_bytes=sum(split.local for split in received),
        cross_node_bytes=sum(split.away for split in received),
        max_send_bytes=max(split.peers for split in sent),
        max_forward_bytes=0,
        max_recv_bytes=max(split.peers for split in received),
        max_peer_bytes=max(split.near for split in (*sent, *received)),
        max_cross_node_bytes=max(split.away for split in (*sent, *received)),
        left_out_tensors=None if left_out else 0,  # which they were was not counted
        left_out_bytes=left_out,
    )


@dataclass(frozen=True)
class _Split:
    """What one rank moved in one direction, in bytes.

    Attributes:
        local: within itself.
        near, away: by the other ranks of its node, and by those of other nodes.
    """

    local: int
    near: int
    away: int

    @property
    def peers(self) -> int:
        """By other ranks."""
        return self.near + self.away

    @staticmethod
    def of(rank: int, by_peer: Mapping[int, int], ranks_per_node: int) -> _Split:
        """The split of bytes by the rank at the other end."""
        node = rank // ranks_per_node
        local = by_peer.get(rank, 0)
        on_node = sum(n for peer, n in by_peer.items() if peer // ranks_per_node == node)
        return _Split(local, on_node - local, sum(by_peer.values()) - on_node)
