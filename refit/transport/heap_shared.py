"""A symmetric heap in shared memory, for CPU ranks of one node."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

import torch

from refit.transport import memcpy, share

_COUNTER_BYTES = 64  # a cache line each: a POSIX semaphore, which takes 32, and the value
_VALUE_AT = 56

_libc = ctypes.CDLL(None, use_errno=True)


class SharedHeap:
    """See `refit.transport.heap.SymmetricHeap`.

    A counter is a POSIX semaphore that processes share, beside its value: each value told is one
    count. That is the ordering it needs on any machine: POSIX has sem_post and sem_wait synchronise
    memory, so who takes a count sees what was written before it. And a wait sleeps in the kernel
    instead of burning a core that a peer needs. A count with another value than the one waited for
    means that both ends are not agreed on what comes when, and is an error.
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

    def put_signal(
        self, peer: int, start: int, source: torch.Tensor, counter: int, value: int
    ) -> None:
        skip = _COUNTER_BYTES * (self._bell + 1)
        there = self._peers[peer][skip + start : skip + start + source.numel()]
        memcpy.copier([there], [source])()
        self.signal(peer, counter, value)

    def signal(self, peer: int, counter: int, value: int) -> None:
        base = self._peers[peer].data_ptr()
        _value(base, counter).value = value
        for which in (counter, self._bell):
            _call(_libc.sem_post, base + _COUNTER_BYTES * which)

    def ready(self, counter: int) -> bool:
        value = ctypes.c_int()
        address = self._base + _COUNTER_BYTES * counter
        _call(_libc.sem_getvalue, address, ctypes.byref(value))
        return value.value > 0

    def wait(self, counter: int, value: int) -> None:
        _sleep_on(self._base + _COUNTER_BYTES * counter)
        told = _value(self._base, counter).value
        assert told == value, f"counter {counter} was told {told}, and {value} was waited for"

    def pause(self) -> None:
        _sleep_on(self._base + _COUNTER_BYTES * self._bell)

    def close(self) -> None:
        self._peers = {}
        self.local = self._whole = torch.empty(0, dtype=torch.uint8)


def _value(base: int, counter: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(base + _COUNTER_BYTES * counter + _VALUE_AT)


def _sleep_on(semaphore: int) -> None:
    while _libc.sem_wait(ctypes.c_void_p(semaphore)):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def _call(function: ctypes._NamedFuncPointer, semaphore: int, *args: object) -> None:
    if function(ctypes.c_void_p(semaphore), *args):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
