"""One-sided reads: each destination rank copies straight out of its peers' source arenas.

Shared memory on the CPU, CUDA IPC on devices; several ranks may share a device. What has run on a
GPU is in docs/gpu.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist

from refit.job import Refit
from refit.layout.layout import IntArray
from refit.plan.copies import Copies
from refit.plan.runs import Runs, runs
from refit.transport import Transport, blocks, share
from refit.transport.carry import Carrier
from refit.weights.weights import Weights, device_of


class IpcTransport(Transport):
    """A rank's copies as runs of bytes between arenas; no staging.

    On the CPU each run is a copy of torch's, which divides it among the rank's threads. On CUDA a
    refit begins with `share.meet`, and ends when this rank's stream is done. Blocks that are cast
    are no runs, and are copied as views of the shards.
    """

    def __init__(self, refit: Refit) -> None:
        self._on_cuda = False
        self._lent: torch.Tensor | None = None  # CUDA IPC wants it kept while peers have it mapped
        self._into: list[torch.Tensor] = []
        self._out_of: list[torch.Tensor] = []
        self._carry: Carrier | None = None
        self._details: dict[str, int | str] = {}

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        self._on_cuda = share.any_cuda(device_of(source, destination))
        self._lent = None if source is None else source.arena
        rows = copies.to_rank(rank)
        peers = np.unique(copies.source[rows[copies.remote[rows]]]).tolist()
        here = share.on_same_gpu() if self._on_cuda else set()
        arenas = share.exchange(self._lent, rank, peers)
        if source is not None:
            arenas[rank] = source.arena
        if destination is None:
            return
        table, cast = runs(copies, rank)
        self._details = {
            "runs": int(table.flat.sum()),
            "strided blocks": int((~table.flat).sum()),
            "bytes of runs": int(table.nbytes.sum()),
        }
        self._cast_pairs(copies, cast, destination, arenas)
        if not self._on_cuda:
            into, out_of = blocks.run_pairs(table, destination.arena, arenas)
            self._into, self._out_of = into + self._into, out_of + self._out_of
        elif len(table):
            self._carry_on_gpu(table, destination.arena, arenas, here)

    def _cast_pairs(
        self,
        copies: Copies,
        cast: IntArray,
        destination: Weights,
        arenas: Mapping[int, torch.Tensor],
    ) -> None:
        givers = np.unique(copies.source[cast]).tolist()
        shards = {
            peer: Weights.view(copies.shards(peer, of_source=True), arenas[peer]).tensors
            for peer in givers
        }
        pairs = blocks.pairs(copies, cast.tolist(), destination.tensors, shards)
        self._into, self._out_of = pairs

    def _carry_on_gpu(
        self, table: Runs, into: torch.Tensor, arenas: Mapping[int, torch.Tensor], here: set[int]
    ) -> None:
        self._carry = Carrier(table, into, arenas, here)
        self._details |= self._carry.details

    def execute(self) -> dict[str, float]:
        start = time.perf_counter()
        if not self._on_cuda:
            blocks.copy(self._into, self._out_of)
            return {"copy": time.perf_counter() - start}
        share.meet()
        met = time.perf_counter()
        if self._carry is not None:
            self._carry()
        blocks.copy(self._into, self._out_of)
        torch.cuda.current_stream().synchronize()
        return {"meet": met - start, "copy": time.perf_counter() - met}

    @property
    def staging_bytes(self) -> int:
        return 0

    @property
    def details(self) -> Mapping[str, int | str]:
        return self._details

    def close(self) -> None:
        self._into, self._out_of, self._carry = [], [], None
        if self._on_cuda:
            torch.cuda.synchronize()
            dist.barrier()  # every reader has let go
        self._lent = None
