"""How fast a refit of these ranks could be: plain copies of as many bytes, by the same clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from refit.plan.peers import Pair, pairs, stretches
from refit.plan.plan import Plan
from refit.ranks.clock import Clock
from refit.ranks.proof import Sides
from refit.record import limits
from refit.record.report import Copied, Limits, Span
from refit.rules import devices
from refit.rules.setup import Setup
from refit.transport import share
from refit.weights.weights import Weights

COPY_BYTES = 1e9  # of all destinations together: more than any cache holds
COPIES = 5  # of each kind; the fastest is the limit


def measure(setup: Setup, clock: Clock, sides: Sides, rank: int, plan: Plan) -> Limits:
    """Both, the second where it can be. All ranks call it; the destination's weights are gone then.

    Args:
        plan: ours, also of a method that carries out another.
    """
    copied = _memory_copy(clock, sides)
    on_cpu = devices.device(setup.job) == "cpu"
    if reason := limits.no_peer_copy(plan.cross_node_bytes, on_cpu, setup.method):
        return Limits(copied, None, reason)
    return Limits(copied, _peer_copy(clock, sides, rank, pairs(plan)))


def _memory_copy(clock: Clock, sides: Sides) -> Copied:
    """Copies within the destination's own memory.

    That is what this machine's memory can do for this rank, on the very pages that a refit writes.
    """
    arena = _bytes_of(sides.destination)
    nbytes = torch.tensor(arena.numel())
    dist.all_reduce(nbytes)
    part = _share(int(nbytes))

    def copy() -> dict[str, float]:
        half = arena.numel() // 2
        remaining = round(part * arena.numel())
        while remaining:
            now = min(remaining, half)
            arena[:now].copy_(arena[half : half + now])
            remaining -= now
        return {}

    return Copied(_timed(clock, copy), part)


def _peer_copy(clock: Clock, sides: Sides, rank: int, between: Sequence[Pair]) -> Copied:
    """Each rank's bytes out of each of its peers' weights, one contiguous copy of each peer.

    Args:
        between: the pairs of all ranks, who are on one node; so nobody passes anything on.
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

    def copy() -> dict[str, float]:
        for there, here in copies:
            there.copy_(here)
        return {}

    return Copied(_timed(clock, copy), part)


def _bytes_of(weights: Weights | None) -> torch.Tensor:
    """[bytes], all that this rank holds of a side."""
    return weights.arena if weights else torch.empty(0, dtype=torch.uint8)


def _share(nbytes: int) -> float:
    """The share that is copied of all ranks' bytes."""
    return min(1.0, COPY_BYTES / nbytes)


def _timed(clock: Clock, copy: Callable[[], dict[str, float]]) -> list[Span]:
    return [clock.timed(copy)[0] for _ in range(COPIES)]
