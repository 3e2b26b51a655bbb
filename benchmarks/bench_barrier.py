"""How far apart ranks begin: behind a barrier of gloo, and behind a meeting in shared memory.

Prints the median skew (last start less first) and the median cost (first arrival to last start) of
each, and the ratio of the skews, for 2 and 8 ranks. Run: python -m benchmarks.bench_barrier
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from refit.ranks.meeting import Meeting
from refit.weights.slab import Slab, anonymous

ROUNDS = 1000


def rank_process(rank: int, ranks: int, memory: Slab, folder: str) -> None:
    """One rank: each barrier so many times, its arrivals and starts written to a file."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks
    )
    meeting = Meeting(memory, ranks, rank)

    def both() -> None:
        dist.barrier()
        meeting.wait()

    kinds: dict[str, Callable[[], object]] = {"gloo": dist.barrier, "gloo, then meeting": both}
    times: dict[str, list[tuple[float, float]]] = {}
    for name, barrier in kinds.items():
        for _ in range(10):
            barrier()
        times[name] = []
        for _ in range(ROUNDS):
            arrived = time.perf_counter()
            barrier()
            times[name].append((arrived, time.perf_counter()))
    Path(folder, f"{rank}.json").write_text(json.dumps(times))
    dist.barrier()


def measured(ranks: int) -> dict[str, tuple[float, float]]:
    """By kind of barrier the median skew and cost, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        memory = Meeting.room(anonymous(), ranks)
        context = mp.get_context("fork")
        started = [
            context.Process(target=rank_process, args=(rank, ranks, memory, folder))
            for rank in range(ranks)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    medians = {}
    for name in found[0]:
        rounds = list(zip(*(of_rank[name] for of_rank in found), strict=True))
        skews = [max(s for _, s in each) - min(s for _, s in each) for each in rounds]
        costs = [max(s for _, s in each) - max(a for a, _ in each) for each in rounds]
        medians[name] = (statistics.median(skews), statistics.median(costs))
    return medians


def main() -> None:
    """Print one line per number of ranks and kind."""
    print(f"{os.cpu_count()} cores, medians of {ROUNDS}")
    for ranks in (2, 8):
        found = measured(ranks)
        for name, (skew, cost) in found.items():
            ratio = f"{found['gloo'][0] / skew:.1f} x less than gloo's"
            print(f"{ranks} ranks  {name:<18}  skew {skew * 1e6:8.1f} us = {ratio}"
                  f"  cost {cost * 1e6:8.1f} us")  # fmt: skip


if __name__ == "__main__":
    main()
