"""Runs carried out on a GPU: large ones by its copy engines, the others by one kernel.

What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from refit.plan.runs import NO_CAST, Runs
from refit.transport import blocks
from refit.transport.blocks import Start

ENGINE_BYTES = 1 << 20  # a copy that an engine makes costs 2.3 us on an H100
BATCHED_SINCE = 12080  # the driver's version, CUDA 12.8


class Carrier:
    """Copies of runs into this rank's arena, prepared once.

    Runs and rows of `ENGINE_BYTES` and more from other devices go by `cudaMemcpyBatchAsync`, on a
    stream for each peer; smaller ones, those on the same device and what is cast by
    `blocks.mover`, on the current. Where cuda.bindings or the driver lacks the call, torch copies
    view by view.

    Args:
        into: this rank's arena.
        out_of: arenas by the rank whose they are, all as tensors of this rank's device.
        here: the ranks whose arenas are on this rank's GPU, its own too.
    """

    def __init__(
        self, table: Runs, into: torch.Tensor, out_of: Mapping[int, torch.Tensor],
        here: Collection[int],
    ) -> None:  # fmt: skip
        self._held = (into, out_of)  # what the addresses below are in
        by_engine = (table.width >= ENGINE_BYTES) & ~np.isin(table.peer, list(here))
        by_engine &= table.cast == NO_CAST
        large, rest = table.where(by_engine).by_rows(), table.where(~by_engine)
        self._streams: list[tuple[torch.cuda.Stream, Start]] = []
        engines = "none"
        for peer in np.unique(large.peer).tolist():
            stream = torch.cuda.Stream()
            engines, start = _engine(large.where(large.peer == peer), into, out_of, stream)
            self._streams.append((stream, start))
        kernel, self._rest = blocks.mover(rest, into, out_of)
        self.details: dict[str, int | str] = {
            "engine runs": len(large), "engine": engines,
            "kernel blocks": len(rest), "kernel": kernel,
        }  # fmt: skip

    def __call__(self) -> None:
        """Start all copies; the current stream waits for them."""
        current = torch.cuda.current_stream()
        for stream, start in self._streams:
            stream.wait_stream(current)
            start()
        self._rest()
        for stream, _ in self._streams:
            current.wait_stream(stream)


def _engine(
    table: Runs, into: torch.Tensor, out_of: Mapping[int, torch.Tensor], stream: torch.cuda.Stream
) -> tuple[str, Start]:
    """What makes the copies of one peer's runs on its stream, and the call that starts them."""
    runtime = _runtime()
    if runtime is not None:
        bases = np.array([out_of[peer].data_ptr() for peer in table.peer.tolist()])
        source, destination = bases + table.source, into.data_ptr() + table.destination
        attributes = runtime.cudaMemcpyAttributes()
        attributes.srcAccessOrder = runtime.cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderStream
        arguments = (
            destination.tolist(), source.tolist(), table.width.tolist(), len(table),
            [attributes], [0], 1, stream.cuda_stream,
        )  # fmt: skip

        def batched() -> None:
            code = runtime.cudaMemcpyBatchAsync(*arguments)[0]
            if int(code):
                raise RuntimeError(f"cudaMemcpyBatchAsync of {len(table)} copies: {code}")

        return "cudaMemcpyBatchAsync", batched
    destinations, sources = blocks.views(table, into, out_of)

    def one_by_one() -> None:
        with torch.cuda.stream(stream):
            for there, here in zip(destinations, sources, strict=True):
                there.copy_(here, non_blocking=True)

    return "copy_", one_by_one


def _runtime() -> Any:
    """cuda.bindings.runtime, where it and the driver have the batched copy; else None."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    if not hasattr(runtime, "cudaMemcpyBatchAsync"):
        return None
    return runtime if runtime.cudaDriverGetVersion()[1] >= BATCHED_SINCE else None
