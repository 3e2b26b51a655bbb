"""Puts into NVSHMEM's symmetric heap.

The schedule is `refit.transport.symmetric`'s, which CPU ranks run over another heap. What has run
on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

from refit.job import Refit
from refit.transport.heap_nvshmem import NvshmemHeap
from refit.transport.symmetric import SymmetricTransport


class NvshmemTransport(SymmetricTransport):
    """See `SymmetricTransport`."""

    def __init__(self, refit: Refit) -> None:
        super().__init__(refit, NvshmemHeap)
