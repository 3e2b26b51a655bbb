"""Runs carried out on a GPU: large ones by its copy engines, the others by one kernel.

What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from refit.plan.runs import Runs
from refit.transport import blocks

ENGINE_BYTES = 1 << 20  # a copy that an engine makes costs 2.3 us on an H100
BATCHED_SINCE = 12080  # the driver's version, CUDA 12.8

Start = Callable[[], None]


class Carrier:
    """Copies of runs into this rank's arena, prepared once.

    Runs and rows of `ENGINE_BYTES` and more from other devices go by `cudaMemcpyBatchAsync`, on a
    stream for each peer; smaller ones and those on the same device by one kernel, on the current.
    Where cuda.bindings or the driver lacks the call, or Triton is not installed or cannot compile,
    torch copies view by view.

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
        large, rest = table.where(by_engine).by_rows(), table.where(~by_engine)
        self._streams: list[tuple[torch.cuda.Stream, Start]] = []
        self._rest: Start | None = None
        engines = kernel = "none"
        for peer in np.unique(large.peer).tolist():
            stream = torch.cuda.Stream()
            engines, start = _engine(large.where(large.peer == peer), into, out_of, stream)
            self._streams.append((stream, start))
        if len(rest):
            kernel, self._rest = _kernel(rest, into, out_of)
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
        if self._rest is not None:
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
    destinations, sources = blocks.run_pairs(table, into, out_of)

    def one_by_one() -> None:
        with torch.cuda.stream(stream):
            for there, here in zip(destinations, sources, strict=True):
                there.copy_(here, non_blocking=True)

    return "copy_", one_by_one


def _runtime() -> Any:
    """cuda.bindings.runtime, where it and the driver have the batched copy; else None."""
    if importlib.util.find_spec("cuda") is None:
        return None
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    if not hasattr(runtime, "cudaMemcpyBatchAsync"):
        return None
    return runtime if runtime.cudaDriverGetVersion()[1] >= BATCHED_SINCE else None


def _kernel(
    table: Runs, into: torch.Tensor, out_of: Mapping[int, torch.Tensor]
) -> tuple[str, Start]:
    """What copies on the current stream, and the call that starts it."""
    if importlib.util.find_spec("triton") is not None:
        from refit.transport.gather import Gather

        bases = np.zeros(1 + max(out_of), dtype=np.int64)
        for peer, arena in out_of.items():
            bases[peer] = arena.data_ptr()
        try:
            return "triton", Gather(table, bases, into.data_ptr(), into.device)
        except Exception:  # Triton has no base class for what can be wrong with a machine
            traceback.print_exc()
    destinations, sources = blocks.run_pairs(table, into, out_of)
    return "foreach_copy", lambda: blocks.copy(destinations, sources)
