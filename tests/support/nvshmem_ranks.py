"""`nvshmem` on CPU ranks: all its own code and nvshmem4py's, a fake library; and with one fault.

Named as `refit.method=tests.support.nvshmem_ranks:Faked` and the like.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from nvshmem import core as nvshmem

from refit.job import Refit
from refit.plan.copies import Copies
from refit.transport import symmetric
from refit.transport.heap_nvshmem import NvshmemHeap
from refit.transport.lanes import CudaLanes, Mark
from refit.transport.symmetric import SymmetricTransport
from refit.weights.weights import Weights
from tests.support import streams
from tests.support.nvshmem_library import Library
from tests.support.streams import LIMIT_S, Stream


class Faked(SymmetricTransport):
    """All as `nvshmem` does it: its heap, nvshmem4py, streams. Below them is the fake."""

    _heap_class: type[NvshmemHeap] = NvshmemHeap
    _limit_s = LIMIT_S

    def __init__(self, refit: Refit) -> None:
        super().__init__(refit, self._heap_class)

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        if not _open:
            streams.patch(_patches, seed=rank)
            _patches.setattr(symmetric, "lanes", self._lanes_of)
            _kept.append(Library(self._limit_s))
            _kept[0].install(_patches)
        _open.append(self)
        _kept.extend((source, destination))
        super().prepare(copies, rank, source, destination)

    def _lanes_of(self, device: torch.device, number: int) -> CudaLanes:
        return CudaLanes(device, number)

    def execute(self) -> dict[str, float]:
        seconds = super().execute()
        if Stream.errors:
            raise Stream.errors[0]
        return seconds

    def close(self) -> None:
        super().close()
        _open.remove(self)
        if not _open:
            _patches.undo()


_patches = pytest.MonkeyPatch()
_kept: list[Any] = []  # what streams may still write when a refit with a fault has ended
_open: list[Faked] = []  # a plan of two hops has two, over one library


# -- faults of the heap


class _NoArrival(NvshmemHeap):
    def wait(self, counter: int, value: int) -> None:
        if counter >= 2:  # of two slots, the grants
            super().wait(counter, value)


class _SlowReceiver(NvshmemHeap):
    """Unpacks late, so that a sender that does not wait for it is too early."""

    def wait(self, counter: int, value: int) -> None:
        super().wait(counter, value)
        if counter < 2:
            streams.current_stream().give(lambda: time.sleep(0.02))


class _NoGrant(_SlowReceiver):
    def wait(self, counter: int, value: int) -> None:
        if counter < 2:
            super().wait(counter, value)


class _Early(NvshmemHeap):
    def wait(self, counter: int, value: int) -> None:
        super().wait(counter, value - 1)


class _Dropped(NvshmemHeap):
    def signal(self, peer: int, counter: int, value: int) -> None:
        if value != 5:
            super().signal(peer, counter, value)


class _OtherCounter(NvshmemHeap):
    def put_signal(
        self, peer: int, start: int, source: torch.Tensor, counter: int, value: int
    ) -> None:
        super().put_signal(peer, start, source, counter ^ 1, value)


class _OtherSlot(NvshmemHeap):
    def put_signal(
        self, peer: int, start: int, source: torch.Tensor, counter: int, value: int
    ) -> None:
        half = self.local.numel() // 2
        super().put_signal(peer, (start + half // 2) % half, source, counter, value)


class _SignalFirst(NvshmemHeap):
    """A put and its signal on two streams: nothing orders them."""

    def put_signal(
        self, peer: int, start: int, source: torch.Tensor, counter: int, value: int
    ) -> None:
        super().signal(peer, counter, value)
        super().put_signal(peer, start, source, counter, value)


class _OnOtherStream(_SlowReceiver):
    """What is told is told on a stream that does not wait for what came before."""

    def signal(self, peer: int, counter: int, value: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            super().signal(peer, counter, value)


class _Adds(NvshmemHeap):
    def signal(self, peer: int, counter: int, value: int) -> None:
        op = nvshmem.SignalOp.SIGNAL_ADD
        stream = nvshmem.NvshmemStream(torch.cuda.current_stream())
        nvshmem.signal_op(self._counters[counter], 1, op, remote_pe=peer, stream=stream)


class DoesNotWaitForArrivals(Faked):
    _heap_class = _NoArrival


class DoesNotWaitForGrants(Faked):
    _heap_class, _limit_s = _NoGrant, 4.0


class WaitsForTheValueBefore(Faked):
    _heap_class = _Early


class DropsOneSignal(Faked):
    _heap_class, _limit_s = _Dropped, 4.0


class TellsAnotherCounter(Faked):
    _heap_class, _limit_s = _OtherCounter, 4.0


class PutsIntoAnotherSlot(Faked):
    _heap_class = _OtherSlot


class SignalsBeforeItPuts(Faked):
    _heap_class = _SignalFirst


class GrantsOnAnotherStream(Faked):
    _heap_class, _limit_s = _OnOtherStream, 4.0


class Adds(Faked):
    _heap_class = _Adds


# -- faults of the schedule and its lanes


class ForgetsRefits(Faked):
    """Values begin anew with every refit, so that those of the one before are taken for its own."""

    def execute(self) -> dict[str, float]:
        self._refits = 0
        return super().execute()


class DropsEvents(Faked):
    """The wire does not wait for packing, nor packing for the wire."""

    def _lanes_of(self, device: torch.device, number: int) -> CudaLanes:
        return _WithoutMarks(device, number)


class ReturnsEarly(Faked):
    """A refit returns when all is asked for, and not when it is done."""

    def _lanes_of(self, device: torch.device, number: int) -> CudaLanes:
        return _WithoutEnd(device, number)


class _WithoutMarks(CudaLanes):
    def on(self, phase: str, number: int = 0, after: Sequence[Mark] = ()) -> Any:
        return super().on(phase, number)


class _WithoutEnd(CudaLanes):
    def finish(self) -> dict[str, float]:
        return {}
