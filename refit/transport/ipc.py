"""One-sided reads: each destination rank copies straight out of its peers' source shards.

Shared memory on the CPU, CUDA IPC on devices, by the same calls; several ranks may share a device.
What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.distributed as dist

from refit.job import Refit
from refit.plan.copies import Copies
from refit.transport import Transport, blocks, share
from refit.weights.weights import Weights, device_of


class IpcTransport(Transport):
    """All copies of a rank are one foreach copy; no staging.

    On CUDA a refit begins with `share.meet`, and ends when this rank's stream is done.
    """

    def __init__(self, refit: Refit) -> None:
        self._on_cuda = False
        self._lent: torch.Tensor | None = None  # CUDA IPC wants it kept while peers have it mapped
        self._into: list[torch.Tensor] = []
        self._out_of: list[torch.Tensor] = []

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        self._on_cuda = share.any_cuda(device_of(source, destination))
        self._lent = None if source is None else source.arena
        rows = copies.to_rank(rank)
        peers = np.unique(copies.source[rows[copies.remote[rows]]]).tolist()
        shards = {
            peer: Weights.view(copies.shards(peer, of_source=True), arena).tensors
            for peer, arena in share.exchange(self._lent, rank, peers).items()
        }
        if source is not None:
            shards[rank] = source.tensors
        if destination is not None:
            into = destination.tensors
            self._into, self._out_of = blocks.pairs(copies, rows.tolist(), into, shards)

    def execute(self) -> dict[str, float]:
        start = time.perf_counter()
        if not self._on_cuda:
            blocks.copy(self._into, self._out_of)
            return {"copy": time.perf_counter() - start}
        share.meet()
        met = time.perf_counter()
        blocks.copy(self._into, self._out_of)
        torch.cuda.current_stream().synchronize()
        return {"meet": met - start, "copy": time.perf_counter() - met}

    @property
    def staging_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self._into, self._out_of = [], []
        if self._on_cuda:
            torch.cuda.synchronize()
            dist.barrier()  # every reader has let go
        self._lent = None
