"""How fast a refit of these ranks could be: plain copies of as many bytes, by the same clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist

from refit.model.weight_bytes import per_rank_bytes
from refit.plan.part import Part
from refit.plan.peers import Pair, stretches
from refit.ranks.clock import Clock
from refit.ranks.proof import Sides
from refit.record import limits
from refit.record.report import Copied, Limits, Span
from refit.rules import devices
from refit.rules.setup import Setup
from refit.transport import memcpy, share
from refit.weights.weights import Weights

# Of all destinations together. Where ranks take turns at cores, the last of them ends some ms late:
# of a shorter copy that is a tenth, and the limit would be beaten.
COPY_BYTES = 4e9
# Copies of memory and between peers, before the timed refits and behind them. The first between
# peers maps their pages; a rank's own are there.
BEFORE, BEHIND = (1, 2), (1, 1)

Copy = Callable[[], dict[str, float]]


class Copies:
    """Copies of both kinds, the second where it can be, timed like refits.

    All ranks make them together, twice: the machine may be faster before the refits or after. What
    the destinations hold is gone then.

    Args:
        part: this rank's of our plan, also of a method that carries out another.
    """

    def __init__(self, setup: Setup, clock: Clock, sides: Sides, rank: int, part: Part) -> None:
        self._clock = clock
        on_cpu = devices.device(setup.job) == "cpu"
        self._no_peers = limits.no_peer_copy(part.cross_node_bytes, on_cpu, setup.method)
        self._works = [_memory_copy(setup, sides)]
        if not self._no_peers:
            self._works.append(_peer_copy(sides, rank, part.pairs))
        self._spans: list[list[Span]] = [[] for _ in self._works]

    def make(self, counts: Sequence[int]) -> None:
        """Time so many of each kind."""
        for (copy, _), spans, count in zip(self._works, self._spans, counts, strict=False):
            spans += [self._clock.timed(copy)[0] for _ in range(count)]

    def found(self) -> Limits:
        """All that were made."""
        memory, *peers = [
            Copied(spans, share) for (_, share), spans in zip(self._works, self._spans, strict=True)
        ]
        return Limits(memory, peers[0] if peers else None, self._no_peers)


def _memory_copy(setup: Setup, sides: Sides) -> tuple[Copy, float]:
    """Copies within the destination's own memory, and the share of it that is copied.

    That is what this machine's memory can do for this rank, on the very pages that a refit writes.
    """
    arena = _bytes_of(sides.destination)
    receiving = setup.placement.destinations
    part = _share(sum(int(per_rank_bytes(setup.catalogue, side).sum()) for side in receiving))

    half, remaining = arena.numel() // 2, round(part * arena.numel())
    copies = []
    while remaining:
        now = min(remaining, half)
        copies.append((arena[:now], arena[half : half + now]))
        remaining -= now
    return _each(copies), part


def _peer_copy(sides: Sides, rank: int, between: Sequence[Pair]) -> tuple[Copy, float]:
    """Each rank's bytes out of each of its peers' weights, one contiguous copy of each peer.

    Args:
        between: the pairs of all ranks, who are on one node; so nobody passes anything on.

    Returns:
        The copies, and the share of the bytes that they copy.
    """
    mine, into = _bytes_of(sides.source), _bytes_of(sides.destination)
    world = dist.get_world_size()
    peers = {pair.sender for pair in between if pair.receiver == rank} - {rank}
    arenas = {rank: mine, **share.exchange(mine, rank, peers)}
    held = {peer: arena.numel() for peer, arena in arenas.items()}
    part = _share(sum(pair.nbytes for pair in between))
    found = stretches(between, rank, held, into.numel(), part)
    copies = [
        (into[s.into : s.into + s.nbytes], arenas[s.sender][s.out_of : s.out_of + s.nbytes])
        # each begins with another sender
        for s in sorted(found, key=lambda s: (s.sender - rank) % world)
    ]
    return _each(copies), part


def _each(copies: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Copy:
    """Copies of bytes, into and out of, one after another and as fast as a transport's own."""
    moves: list[Callable[[], object]] = [
        partial(into.copy_, out_of) if into.is_cuda else memcpy.copier([into], [out_of])
        for into, out_of in copies
    ]

    def copy() -> dict[str, float]:
        for move in moves:
            move()
        return {}

    return copy


def _bytes_of(weights: Weights | None) -> torch.Tensor:
    """[bytes], all that this rank holds of a side."""
    return weights.arena if weights else torch.empty(0, dtype=torch.uint8)


def _share(nbytes: int) -> float:
    """The share that is copied of all ranks' bytes."""
    return min(1.0, COPY_BYTES / nbytes)
