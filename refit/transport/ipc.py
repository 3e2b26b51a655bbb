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
from refit.plan.copies import Copies
from refit.plan.runs import NO_CAST, received
from refit.transport import Transport, blocks, flags, share
from refit.transport.carry import Carrier
from refit.weights.weights import Weights, device_of


class IpcTransport(Transport):
    """A rank's copies as runs of bytes between arenas; no staging.

    On the CPU each run is a memcpy, and a rank's threads share out its bytes. On CUDA a refit
    begins with a meeting (`flags.meeting`), and ends when this rank's stream is done. A source must
    stay as it is until its readers are done, of which its own rank learns nothing.
    """

    def __init__(self, refit: Refit) -> None:
        self._on_cuda = False
        self._lent: torch.Tensor | None = None  # CUDA IPC wants it kept while peers have it mapped
        self._carry: blocks.Start = blocks.nothing
        self._meet: flags.Meet = share.meet
        self._details: dict[str, int | str] = {}

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        self._on_cuda = share.any_cuda(device_of(source, destination))
        self._lent = None if source is None else source.arena
        table = received(copies, rank)
        here = share.on_same_gpu() if self._on_cuda else set()
        peers = np.unique(table.peer[table.peer != rank]).tolist()
        arenas = share.exchange(self._lent, rank, peers)
        if source is not None:
            arenas[rank] = source.arena
        if self._on_cuda:
            self._meet, self._details["meeting"] = flags.meeting(rank, peers, here)
        if destination is None:
            return
        plain = table.where(table.cast == NO_CAST)
        self._details |= {
            "runs": int(plain.flat.sum()),
            "strided blocks": int((~plain.flat).sum()),
            "bytes of runs": int(plain.nbytes.sum()),
        }
        if not self._on_cuda:
            _, self._carry = blocks.mover(table, destination.arena, arenas)
        elif len(table):
            carrier = Carrier(table, destination.arena, arenas, here)
            self._carry, self._details = carrier, self._details | carrier.details

    def execute(self) -> dict[str, float]:
        start = time.perf_counter()
        if not self._on_cuda:
            self._carry()
            return {"copy": time.perf_counter() - start}
        self._meet()
        met = time.perf_counter()
        self._carry()
        torch.cuda.current_stream().synchronize()
        return {"meet": met - start, "copy": time.perf_counter() - met}

    @property
    def staging_bytes(self) -> int:
        return 0

    @property
    def details(self) -> Mapping[str, int | str]:
        return self._details

    def close(self) -> None:
        self._carry, self._meet = blocks.nothing, share.meet
        if self._on_cuda:
            torch.cuda.synchronize()
            dist.barrier()  # every reader has let go
        self._lent = None
