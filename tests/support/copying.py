"""Processes that copy as the limits of a run do, each with weights of its own number."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from refit.plan.peers import Pair
from refit.ranks import limit
from refit.ranks.clock import Clock
from refit.ranks.meeting import Meeting
from refit.ranks.proof import Sides
from refit.weights.slab import Slab, anonymous
from refit.weights.weights import Weights, attach

Sizes = list[tuple[int, int]]
"""By rank, bytes of its source and of its destination; 0: it has none."""


def copied(
    sizes: Sizes, between: list[Pair], port: int, at_most: float
) -> list[tuple[bytes, float]]:
    """By rank: what its destination holds afterwards, and which share of the bytes was copied.

    A source holds its rank + 1 in every byte, a destination rank + 101.

    Args:
        at_most: bytes that are copied in all.
    """
    context = multiprocessing.get_context("forkserver")
    meeting = Meeting.room(anonymous(), len(sizes))
    ends, ranks = [], []
    for rank in range(len(sizes)):
        here, there = context.Pipe()
        args = (rank, sizes, between, port, at_most, anonymous(), meeting, there)
        ranks.append(context.Process(target=_rank, args=args))
        ranks[-1].start()
        there.close()
        ends.append(here)
    found = [end.recv() for end in ends]
    for rank_process in ranks:
        rank_process.join()
    return found


def _rank(
    rank: int,
    sizes: Sizes,
    between: list[Pair],
    port: int,
    at_most: float,
    slab: Slab,
    meeting: Slab,
    end: Connection,
) -> None:
    world, limit.COPY_BYTES = len(sizes), at_most
    store = dist.TCPStore("127.0.0.1", port, world, is_master=not rank)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    source, destination = (
        _weights(slab, nbytes, rank + first)
        for nbytes, first in zip(sizes[rank], (1, 101), strict=True)
    )
    clock = Clock(Meeting(meeting, world, rank))
    copy, share = limit._peer_copy(Sides(source, destination), rank, between)
    clock.timed(copy)
    holds = b"" if destination is None else bytes(destination.arena.tolist())
    end.send((holds, share))
    dist.barrier()


def _weights(slab: Slab, nbytes: int, value: int) -> Weights | None:
    if not nbytes:
        return None
    start = slab.take(nbytes)
    arena: torch.Tensor = attach(slab, start + nbytes)[start:]
    arena.fill_(value)
    return Weights(arena, (), {})
