"""One-sided reads: each destination rank copies straight out of its peers' source shards.

Arenas are shared by torch.multiprocessing's own reductions: shared memory for CPU tensors, CUDA IPC
for device tensors, by the same calls.
"""

from __future__ import annotations

import pickle
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing  # registers the reductions of tensors with ForkingPickler

from refit.job import Refit
from refit.plan import Plan
from refit.transport import blocks
from refit.weights import Weights


class Transport:
    """See `refit.transport.Transport`."""

    def __init__(self, refit: Refit) -> None:
        self._into: list[torch.Tensor] = []
        self._out_of: list[torch.Tensor] = []

    def prepare(
        self, plan: Plan, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        held = plan.catalogue.held_by
        shards = {
            peer: Weights.view(held(plan.placement.source, peer), arena).tensors
            for peer, arena in _attach(plan, rank, source).items()
        }
        if source is not None:
            shards[rank] = source.tensors
        if destination is not None:
            rows = plan.to_rank(rank).tolist()
            self._into, self._out_of = blocks.pairs(plan, rows, destination.tensors, shards)

    def execute(self) -> dict[str, float]:
        start = time.perf_counter()
        blocks.copy(self._into, self._out_of)
        return {"copy": time.perf_counter() - start}

    @property
    def staging_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self._into, self._out_of = [], []


def _attach(plan: Plan, rank: int, source: Weights | None) -> dict[int, torch.Tensor]:
    """Map the arena of every peer that this rank reads from."""
    offered: dict[int, bytes] = {}
    if source is not None:
        rows = plan.from_rank(rank)
        for reader in np.unique(plan.destination[rows[plan.remote[rows]]]).tolist():
            # A handle can be opened once, so each reader gets one of its own.
            offered[reader] = bytes(ForkingPickler.dumps(source.arena))
    gathered: list[dict[int, bytes]] = [{} for _ in range(plan.placement.world)]
    dist.all_gather_object(gathered, offered)
    arenas = {peer: pickle.loads(of[rank]) for peer, of in enumerate(gathered) if rank in of}
    dist.barrier()  # no rank lets go of its arena before its readers have it
    return arenas
