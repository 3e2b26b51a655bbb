"""A fake of NVSHMEM's host library, for CPU ranks, below nvshmem4py's own Python layer.

Its symmetric heap is host memory that all ranks map, its streams are the threads of
`tests.support.streams`, its signals 64-bit words. Functions have the names and arguments of
`nvshmem.bindings`, nvshmem4py's bindings of the C library, and take their place.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist

from refit.transport import share
from tests.support.streams import Stream

HEAP_BYTES = 16 << 20  # of a rank; untouched pages take nothing
ALIGN = 512
UID_BYTES, UID_VERSION_BYTES = 128, 4


class Device:
    """`cuda.core.Device`: the host, whose tensors torch says are on device -1."""

    def __init__(self, number: int) -> None:
        self.device_id = -1

    def set_current(self) -> None: ...


class Library:
    """The library as one rank has it.

    Args:
        limit_s: a wait on a stream that takes longer is for ever.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._live: dict[int, int] = {}  # bytes by offset, of what is allocated
        self._end = 0
        self._pe: int | None = None

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let nvshmem4py, torch and the heap of `nvshmem` find it."""
        from nvshmem import bindings
        from nvshmem.core import nvshmem_types

        from refit.transport import heap_nvshmem

        for name in [name for name in vars(Library) if not name.startswith("_")]:
            for module in (bindings, nvshmem_types):  # the latter imports some by name
                if hasattr(module, name):
                    patch.setattr(module, name, getattr(self, name))
        # what the heap is made of goes to torch by DLPack, which says where it is
        resource = nvshmem_types.NvshmemResource
        patch.setattr(resource, "is_host_accessible", True)
        patch.setattr(resource, "is_device_accessible", False)
        patch.setattr(heap_nvshmem, "Device", Device)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "synchronize", lambda device=None: None)

    # -- start, end, memory: all ranks together

    def get_uniqueid(self, uid: int) -> None:
        internal = UID_BYTES - UID_VERSION_BYTES
        ctypes.memmove(uid + UID_VERSION_BYTES, os.urandom(internal), internal)

    def set_attr_uniqueid_args(self, rank: int, nranks: int, uid: int, attributes: int) -> None:
        self._pe, self._pes = rank, nranks
        self._uid = ctypes.string_at(uid, UID_BYTES)

    def hostlib_init_attr(self, flags: int, attributes: int) -> None:
        assert any(self._uid), "a uid that nobody made"
        self._all_say(self._uid, "uid")
        whole = share.allocate(HEAP_BYTES)
        assert self._pe is not None
        self._heaps = share.exchange(whole, self._pe, range(self._pes)) | {self._pe: whole}
        self._base = whole.data_ptr()

    def hostlib_finalize(self) -> None:
        assert not self._live, f"{len(self._live)} allocations were never freed"
        self._pe = None

    def malloc(self, nbytes: int) -> int:
        self._all_say(nbytes, "bytes")
        offset, self._end = self._end, self._end + -(-nbytes // ALIGN) * ALIGN
        assert self._end <= HEAP_BYTES
        self._live[offset] = nbytes
        return self._base + offset

    def free(self, address: int) -> None:
        self._all_say(address - self._base, "offset")
        del self._live[address - self._base]

    def _all_say(self, what: Any, name: str) -> None:
        said: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(said, what)
        assert set(said) == {what}, f"ranks are not agreed on the {name}: {said}"

    # -- on streams

    def putmem_signal_on_stream(
        self, into: int, out_of: int, nbytes: int, word: int, value: int, op: int, pe: int,
        stream: int,
    ) -> None:  # fmt: skip
        there, _ = self._at(pe, into, nbytes), self._at(self.my_pe(), out_of, nbytes)
        half = nbytes // 2
        for start, end in ((0, half), (half, nbytes)):  # bytes do not arrive all at once
            part = there + start, out_of + start, end - start
            self._give(stream, partial(ctypes.memmove, *part))
        self.signal_op_on_stream(word, value, op, pe, stream)

    def signal_op_on_stream(self, word: int, value: int, op: int, pe: int, stream: int) -> None:
        from nvshmem.bindings import Signal_op

        assert op == Signal_op.SIGNAL_SET, "another operation launches a kernel"
        there = ctypes.c_uint64.from_address(self._at(pe, word, 8))
        self._give(stream, lambda: setattr(there, "value", value))

    def signal_wait_until_on_stream(self, word: int, how: int, value: int, stream: int) -> None:
        from nvshmem.bindings import Cmp_type

        assert how == Cmp_type.CMP_GE
        here = ctypes.c_uint64.from_address(self._at(self.my_pe(), word, 8))

        def wait() -> None:
            last = time.monotonic() + self._limit_s
            while here.value < value:
                if Stream.errors or time.monotonic() > last:
                    raise TimeoutError(f"a signal of {value} that never comes: {here.value}")
                time.sleep(0.001)

        self._give(stream, wait)

    def my_pe(self) -> int:
        assert self._pe is not None, "not started, or ended"
        return self._pe

    def n_pes(self) -> int:
        return self._pes

    def _at(self, pe: int, address: int, nbytes: int) -> int:
        """What a rank maps of a peer's, of an address of its own; all of it is allocated."""
        offset = address - self._base
        parts: Iterable[tuple[int, int]] = self._live.items()
        assert any(at <= offset and offset + nbytes <= at + size for at, size in parts)
        return self._heaps[pe].data_ptr() + offset

    def _give(self, stream: int, work: Callable[[], object]) -> None:
        Stream.of[stream].give(work)
