"""What a refit moved that was planned elsewhere: counted on the ranks, summed up for a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from refit.record.parts import PlanNumbers


@dataclass
class Moved:
    """What one rank handed to a transport in one refit, in bytes, by the rank at the other end.

    What it copies within itself is in both.
    """

    copies: int = 0  # received
    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)

    def add(self, sends: bool, peer: int, nbytes: int) -> None:
        """Count one block."""
        ends = self.sent if sends else self.received
        ends[peer] = ends.get(peer, 0) + nbytes
        self.copies += not sends


def unknown(plan: PlanNumbers) -> PlanNumbers:
    """Our plan of a refit that is planned elsewhere: what is so of any plan, the rest null.

    Args:
        plan: of a record.
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
    )


def executed(plan: PlanNumbers, moved: Sequence[Moved], ranks_per_node: int) -> PlanNumbers:
    """A record's `plan`, of what the ranks moved.

    Args:
        plan: of the record so far; its lower bounds are of any plan, and stay.
        moved: [world], by rank.
    """
    local = cross = 0
    peers, away = [0], [0]  # of a rank and direction
    for rank, one in enumerate(moved):
        for ends in (one.sent, one.received):
            near = {peer for peer in ends if peer // ranks_per_node == rank // ranks_per_node}
            peers.append(sum(ends[peer] for peer in near - {rank}))
            away.append(sum(ends[peer] for peer in ends.keys() - near))
        local += one.received.get(rank, 0)
        cross += away[-1]
    others = [
        [sum(n for peer, n in ends.items() if peer != rank) for ends in (one.sent, one.received)]
        for rank, one in enumerate(moved)
    ]
    return replace(
        plan,
        copies=sum(one.copies for one in moved),
        bytes=sum(sum(one.received.values()) for one in moved),
        local_bytes=local,
        cross_node_bytes=cross,
        max_send_bytes=max(sent for sent, _ in others),
        max_forward_bytes=0,
        max_recv_bytes=max(received for _, received in others),
        max_peer_bytes=max(peers),
        max_cross_node_bytes=max(away),
    )
