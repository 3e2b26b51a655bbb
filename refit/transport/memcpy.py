"""Copies within the CPU's memory by the C library's memcpy, which numpy calls.

torch's copies go through registers into the caches, for which each line that is written is read
first: of three passes over the memory one is for nothing. A memcpy of many bytes stores past the
caches (`refit.ranks.server.TUNABLE` says from how many), and a small one costs less to call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

THREADED = 1 << 22
"""Bytes from which more than one thread is worth waking."""

PARTS = 4
"""Of each thread's share, so that one that is late leaves others something to take."""

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def copier(
    destinations: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]
) -> Callable[[], None]:
    """The call that copies each source into its destination, by as many threads as torch may use.

    Args:
        destinations, sources: pairs of one shape, [bytes] or [rows, bytes], of uint8 on the CPU.
            No two destinations share a byte.
    """
    both = zip(destinations, sources, strict=True)
    pairs = [(into.numpy(), out_of.numpy()) for into, out_of in both if into.numel()]
    total, threads = sum(into.size for into, _ in pairs), torch.get_num_threads()
    if threads == 1 or total < THREADED:
        return partial(_copy, pairs)
    shares = _shares(pairs, -(-total // (threads * PARTS)))

    def copy() -> None:
        for _ in _pool(threads).map(_copy, shares):
            pass  # what one raised is raised here

    return copy


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)  # of this process, which has one of a number


def _copy(pairs: Sequence[Pair]) -> None:
    for into, out_of in pairs:
        np.copyto(into, out_of)


def _shares(pairs: Sequence[Pair], largest: int) -> list[list[Pair]]:
    """The same bytes in lists of about `largest`, or of one row where that is more."""
    shares: list[list[Pair]] = [[]]
    room = largest
    for into, out_of in pairs:
        row, at = into[0].size, 0
        while at < len(into):
            if room < row and shares[-1]:
                shares.append([])
                room = largest
            now = slice(at, at + max(1, room // row))
            shares[-1].append((into[now], out_of[now]))
            at, room = now.stop, room - into[now].size
    return shares
