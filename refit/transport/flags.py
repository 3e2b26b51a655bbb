"""Ranks meet on their devices: a rank's stream waits for what the streams of its peers tell it.

What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.distributed as dist

from refit.rules import devices
from refit.transport import share

PATIENCE_S = 5.0  # for what takes microseconds where it works

_WORD_BYTES = 4


def meeting(rank: int, peers: Collection[int], here: Collection[int]) -> tuple[Meet, str]:
    """What has a rank's stream wait until its peers' memory may be read, and how it does.

    All ranks call together, and then all use flags or none. Flags are tried first: one that does
    not come within `PATIENCE_S` leaves all ranks to `share.meet`.

    Args:
        peers: whose memory this rank reads.
        here: the ranks on this rank's GPU, itself too.
    """
    driver = _driver()
    reason = ""
    if driver is None:
        reason = "cuda.bindings is not installed"
    elif len(here) > 1 and not devices.mps():
        reason = "ranks share a GPU without MPS, where a wait may take a time slice"
    if not (reason := _first(reason)):
        flags = Flags(rank, peers, driver)
        if not (reason := _first(flags.tried())):
            return flags, "flags on the device"
    return share.meet, f"on the host: {reason}"


class Flags:
    """A word for each rank in every rank's memory, which that rank's stream sets.

    Each call tells its number to the ranks that read this one, behind all that the current stream
    was given, and then has that stream wait until the ranks that it reads have told the same. All
    telling goes before all waiting, so nobody waits for who waits. Words are set in their reader's
    memory, as NVSHMEM sets its signals: a stream waits for its own device's.

    It says nothing of the end. Who overwrites what was read must know by other means that its
    readers are done, as after `share.meet`.

    Args:
        driver: cuda.bindings.driver.
    """

    def __init__(self, rank: int, peers: Collection[int], driver: Any) -> None:
        world = dist.get_world_size()
        wanted: list[list[int]] = [[] for _ in range(world)]
        dist.all_gather_object(wanted, sorted(peers))
        readers = [reader for reader, reads in enumerate(wanted) if rank in reads]
        self._driver, self._number = driver, 0
        takes_part = bool(peers or readers)
        self._own = _words(world) if takes_part else None
        self._other = torch.cuda.Stream() if takes_part else None
        self._theirs = share.exchange(self._own, rank, readers)
        self._told = [t.data_ptr() + _WORD_BYTES * rank for t in self._theirs.values()]
        base = 0 if self._own is None else self._own.data_ptr()
        self._waited_for = [base + _WORD_BYTES * peer for peer in sorted(peers)]
        self._spare = [base + _WORD_BYTES * rank] if takes_part else []

    def __call__(self) -> None:
        self._number += 1
        self._tell(self._told)
        self._wait(self._waited_for)

    def tried(self) -> str:
        """Why flags are of no use here, or nothing; all ranks call together, before any refit.

        A stream waits before anybody tells it, as it may in a refit; and goes on whatever comes.
        """
        self._number += 1
        if reason := _first(self._refused(self._tell, self._spare)):
            return reason
        reason = self._refused(self._wait, self._waited_for)
        done = torch.cuda.Event() if self._waited_for else None
        if done is not None:
            done.record()
        dist.barrier()  # all wait, or know why not
        with torch.cuda.stream(self._other):
            reason = reason or self._refused(self._tell, self._told)
            last = time.monotonic() + PATIENCE_S
            while done is not None and not reason and not done.query():
                if time.monotonic() > last:
                    reason = f"a flag did not come within {PATIENCE_S:g} s"
                time.sleep(0.0005)
            if reason:
                self._tell(self._waited_for)
        return reason

    def _refused(self, call: Callable[[list[int]], None], addresses: list[int]) -> str:
        """What the driver says against a call, or nothing."""
        try:
            call(addresses)
        except RuntimeError as error:
            return str(error)
        return ""

    def _tell(self, addresses: list[int]) -> None:
        for address in addresses:
            self._call("cuStreamWriteValue32", address)

    def _wait(self, addresses: list[int]) -> None:
        for address in addresses:
            self._call("cuStreamWaitValue32", address)

    def _call(self, name: str, address: int) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        # 0: a write behind all that came before; a wait for this number or a later one
        (code,) = getattr(self._driver, name)(stream, address, self._number, 0)
        if int(code):
            raise RuntimeError(f"{name}: {code}")


Meet = Callable[[], None]


def _words(count: int) -> torch.Tensor:
    """[count] of zeros on this rank's device, there before anybody hears of them."""
    words = torch.zeros(count, dtype=torch.int32, device=torch.cuda.current_device())
    torch.cuda.current_stream().synchronize()
    return words


def _driver() -> Any:
    """cuda.bindings.driver, where it is installed; else None."""
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    return driver


def _first(reason: str) -> str:
    """The first reason of any rank; empty where none has one. All ranks call together."""
    reasons = [""] * dist.get_world_size()
    dist.all_gather_object(reasons, reason)
    return next(filter(None, reasons), "")
