"""A symmetric heap of NVSHMEM, by nvshmem4py's host calls on streams.

What has run on a GPU is in docs/gpu.md. Written against nvshmem4py 0.4.1. Processes that share one
GPU need CUDA MPS for NVSHMEM's full support (its 2.4.1 release notes); `benchmarks/gpu.sh` starts
it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import nvshmem.core as nvshmem
import torch
import torch.distributed as dist
from cuda.core import Buffer, Device

_COUNTER_BYTES = 8  # NVSHMEM's signals are 64-bit words

# Open heaps of this process: a plan of two hops has two, and the library starts once.
_heaps: set[int] = set()


class NvshmemHeap:
    """See `refit.transport.heap.SymmetricHeap`. The lane of a call is torch's current stream.

    Counters are told by NVSHMEM_SIGNAL_SET, which to a mapped peer is a stream memory write; an
    addition would launch a kernel.
    """

    def __init__(
        self, rank: int, nbytes: int, num_counters: int, peers: Iterable[int], device: torch.device
    ) -> None:
        # idle ranks, too, take part: every allocation is collective
        if not _heaps:
            _start(rank)
        _heaps.add(id(self))
        version = nvshmem.get_version()
        self.name = f"NVSHMEM {version.libnvshmem_version}"
        skip = -(-_COUNTER_BYTES * num_counters // 256) * 256
        self._whole = nvshmem.tensor((skip + nbytes,), dtype=torch.uint8)
        self._whole[:skip].zero_()
        self.local = self._whole[skip:]
        base = self._whole.data_ptr()
        self._skip = skip
        # put and signal take whole buffers: each counter's is one that does not own its memory
        self._counters = [
            Buffer.from_handle(base + _COUNTER_BYTES * c, _COUNTER_BYTES)
            for c in range(num_counters)
        ]
        torch.cuda.synchronize()
        dist.barrier()  # every counter is zero before anybody tells it more

    def put_signal(
        self, peer: int, start: int, source: torch.Tensor, counter: int, value: int
    ) -> None:
        nbytes = source.numel()
        nvshmem.put_signal(
            Buffer.from_handle(self._whole.data_ptr() + self._skip + start, nbytes),
            Buffer.from_handle(source.data_ptr(), nbytes),
            self._counters[counter],
            value,
            nvshmem.SignalOp.SIGNAL_SET,
            remote_pe=peer,
            stream=_stream(),
        )

    def signal(self, peer: int, counter: int, value: int) -> None:
        nvshmem.signal_op(
            self._counters[counter],
            value,
            nvshmem.SignalOp.SIGNAL_SET,
            remote_pe=peer,
            stream=_stream(),
        )

    def ready(self, counter: int) -> bool:
        return True

    def wait(self, counter: int, value: int) -> None:
        nvshmem.signal_wait(
            self._counters[counter],
            value,
            nvshmem.ComparisonType.CMP_GE,
            stream=_stream(),
        )

    def pause(self) -> None:
        raise AssertionError("waits are on the stream, so there is always something to post")

    def close(self) -> None:
        torch.cuda.synchronize()
        dist.barrier()
        self.local = self._whole[:0]
        nvshmem.free_tensor(self._whole)
        _heaps.discard(id(self))
        if not _heaps:
            nvshmem.finalize()


def _start(rank: int) -> None:
    """Start NVSHMEM on this rank's current device; all ranks together."""
    device = Device(torch.cuda.current_device())
    device.set_current()
    uid = nvshmem.get_unique_id(empty=rank != 0)
    of_rank_0 = [uid._data.tobytes()]
    dist.broadcast_object_list(of_rank_0, src=0)
    uid._data.view(np.uint8)[:] = np.frombuffer(of_rank_0[0], dtype=np.uint8)
    nvshmem.init(
        device=device, uid=uid, rank=rank, nranks=dist.get_world_size(), initializer_method="uid"
    )


def _stream() -> nvshmem.NvshmemStream:
    return nvshmem.NvshmemStream(torch.cuda.current_stream())
