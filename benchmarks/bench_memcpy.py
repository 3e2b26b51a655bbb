"""What copies on the CPU gain by the C library's memcpy, and by what it is told.

One process for each core copies within memory of its own that no cache holds, all at once: by
torch's copies, by memcpy as it is, and by memcpy as ranks have it (`refit.ranks.server.tune`), in
turns; in runs of several sizes. Prints the rate of all, as slow as the slowest, and the ratios.
Run: python -m benchmarks.bench_memcpy
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from refit.ranks import server
from refit.transport import blocks, memcpy

ARENA_BYTES = 1 << 28
RUN_BYTES = (1 << 14, 1 << 16, 1 << 20, 1 << 26)
REPEATS = 5
HOW = ("torch", "memcpy", "told")


def main() -> None:
    """Each way in turn, several times; the processes of each begin with its environment."""
    cores = len(os.sched_getaffinity(0))
    found: dict[str, dict[int, list[float]]] = {how: {n: [] for n in RUN_BYTES} for how in HOW}
    for _ in range(REPEATS):
        for how in HOW:
            for nbytes, gbps in _of(how, cores).items():
                found[how][nbytes].append(gbps)
    print(f"copies within memory, {cores} processes at once, GB/s of all: the best of {REPEATS}")
    print(f"  {'run':>8} {'torch':>7} {'memcpy':>7} {'told':>7}  told / torch, the median (range)")
    for nbytes in RUN_BYTES:
        best = [max(found[how][nbytes]) for how in HOW]
        pairs = zip(found["told"][nbytes], found["torch"][nbytes], strict=True)
        ratios = [told / torchs for told, torchs in pairs]
        print(
            f"  {nbytes >> 10:>5} KB {best[0]:7.1f} {best[1]:7.1f} {best[2]:7.1f}"
            f"  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _of(how: str, cores: int) -> dict[int, float]:
    """By size of a run, the rate of all processes together."""
    os.environ.pop(server.TUNABLES, None)
    if how == "told":
        server.tune()
    context: Any = multiprocessing.get_context("spawn")  # each reads its environment anew
    together, said = context.Barrier(cores), context.Queue()
    processes = [context.Process(target=_copy, args=(how, together, said)) for _ in range(cores)]
    for process in processes:
        process.start()
    seconds = [said.get() for _ in processes]
    for process in processes:
        process.join()
        if process.exitcode:
            sys.exit(f"a process ended with {process.exitcode}")
    return {n: cores * ARENA_BYTES / 2 / max(s[n] for s in seconds) / 1e9 for n in RUN_BYTES}


def _copy(how: str, together: Barrier, said: Any) -> None:
    torch.set_num_threads(1)
    arena = torch.ones(ARENA_BYTES, dtype=torch.uint8)
    took = {}
    for nbytes in RUN_BYTES:
        into, out_of = (list(half.split(nbytes)) for half in arena.chunk(2))
        by_memcpy, by_torch = memcpy.copier(into, out_of), partial(blocks.copy, into, out_of)
        move = by_torch if how == "torch" else by_memcpy
        together.wait()
        start = time.perf_counter()
        move()
        took[nbytes] = time.perf_counter() - start
    said.put(took)


if __name__ == "__main__":
    main()
