"""What a transport needs of a symmetric heap: bytes and counters, alike on every rank."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch


class SymmetricHeap(Protocol):
    """As many bytes and as many counters on every rank, at the same offsets.

    A counter holds the value that was told last: `put_signal` and `signal` set a peer's, `wait`
    waits for one on this rank. Whoever uses the heap sees to it that a counter's values grow, each
    told once, and after the one before it was waited for: then it has one writer at a time,
    whoever that is. The bytes of a `put_signal` are there before its value is.

    All ranks make one together, and leave it together (`close`).
    """

    name: str  # for the record
    local: torch.Tensor  # [nbytes] of uint8: this rank's own

    def put_signal(
        self, peer: int, start: int, source: torch.Tensor, counter: int, value: int
    ) -> None:
        """Copy part of this rank's `local` to the peer's, from byte `start`; then `signal`.

        The source may be used again by what follows on the same lane.
        """

    def signal(self, peer: int, counter: int, value: int) -> None:
        """Set a counter at a peer, after all that this lane has done; a value is 1 or more."""

    def ready(self, counter: int) -> bool:
        """Whether `wait` would return at once: always, where waiting is done on a stream."""

    def wait(self, counter: int, value: int) -> None:
        """Until a counter of this rank's has the value; what follows sees what came before it."""

    def pause(self) -> None:
        """Sleep until some counter of this rank may have changed."""

    def close(self) -> None:
        """Give everything back; no peer may still be at work on this rank's part."""


class OpenHeap(Protocol):
    """Makes a heap of `nbytes` and `num_counters` on every rank, all of them together."""

    def __call__(
        self, rank: int, nbytes: int, num_counters: int, peers: Iterable[int], device: torch.device
    ) -> SymmetricHeap:
        """
        Args:
            peers: those that this rank puts to or signals.
        """
