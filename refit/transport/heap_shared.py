"""A symmetric heap in shared memory, for CPU ranks of one node."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

import torch

from refit.transport import share

_COUNTER_BYTES = 64  # a cache line each; a POSIX semaphore takes 32

_libc = ctypes.CDLL(None, use_errno=True)


class SharedHeap:
    """See `refit.transport.heap.SymmetricHeap`.

    Counters are POSIX semaphores that processes share. That is the ordering it needs on any
    machine: POSIX has sem_post and sem_wait synchronise memory, so who takes a count sees what was
    written before it. And a wait sleeps in the kernel instead of burning a core that a peer needs.
    """

    name = "shared memory"

    def __init__(
        self, rank: int, nbytes: int, num_counters: int, peers: Iterable[int], device: torch.device
    ) -> None:
        assert device.type == "cpu", "refit.rules.methods refuses it on CUDA"
        # after the counters comes one more, which counts any change of them: what pause waits for
        counters = _COUNTER_BYTES * (num_counters + 1)
        self._bell = num_counters
        self._whole = share.allocate(counters + nbytes)
        self._base = self._whole.data_ptr()
        self.local = self._whole[counters:]
        for counter in range(num_counters + 1):
            _call(_libc.sem_init, self._base + _COUNTER_BYTES * counter, 1, 0)
        self._peers = share.exchange(self._whole, rank, peers)

    def put_signal(self, peer: int, start: int, source: torch.Tensor, counter: int) -> None:
        skip = _COUNTER_BYTES * (self._bell + 1)
        self._peers[peer][skip + start : skip + start + source.numel()].copy_(source)
        self.signal(peer, counter)

    def signal(self, peer: int, counter: int) -> None:
        base = self._peers[peer].data_ptr()
        for which in (counter, self._bell):
            _call(_libc.sem_post, base + _COUNTER_BYTES * which)

    def ready(self, counter: int) -> bool:
        value = ctypes.c_int()
        address = self._base + _COUNTER_BYTES * counter
        _call(_libc.sem_getvalue, address, ctypes.byref(value))
        return value.value > 0

    def wait(self, counter: int) -> None:
        _sleep_on(self._base + _COUNTER_BYTES * counter)

    def pause(self) -> None:
        _sleep_on(self._base + _COUNTER_BYTES * self._bell)

    def close(self) -> None:
        self._peers = {}
        self.local = self._whole = torch.empty(0, dtype=torch.uint8)


def _sleep_on(semaphore: int) -> None:
    while _libc.sem_wait(ctypes.c_void_p(semaphore)):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def _call(function: ctypes._NamedFuncPointer, semaphore: int, *args: object) -> None:
    if function(ctypes.c_void_p(semaphore), *args):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
