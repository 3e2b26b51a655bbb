"""How plan time grows with ranks: Kimi K2, 256 to 4096 of them. `python -m benchmarks.bench_plan`.

Prints, for each size: seconds of `build_plan` (the best of three, catalogue not counted), block
copies, microseconds per copy, that time per copy relative to the first row (linear growth stays
near 1 or below), the same seconds and ratio with refit.fanout=hierarchical, and the peak of memory
that `build_plan` allocates, by tracemalloc, in untimed runs; the larger of both.

Degrees stay the same, so that only replicas grow: source TP8 PP8 EP16 ETP1 with 5 layers in the
last stage, destination TP8 EP16 ETP1, side by side on nodes of 8 ranks.
"""

from __future__ import annotations

import gc
import time
import tracemalloc

from benchmarks.common import job
from refit.layout.layout import Layout, Placement
from refit.layout.tensors import Catalogue
from refit.model.architecture import catalogue
from refit.plan.build import build_plan
from refit.plan.plan import Plan

SIZES = (128, 256, 512, 1024, 2048)
REPEATS = 3


def side_by_side(gpus: int) -> Placement:
    """`gpus` source ranks, then as many destination ranks."""
    source = Layout(tp=8, pp=8, ep=16, etp=1, gpus=gpus, last_stage_layers=5)
    destination = Layout(tp=8, ep=16, etp=1, gpus=gpus, offset=gpus)
    return Placement(source, (destination,), ranks_per_node=8, world=2 * gpus)


def best_seconds(tensors: Catalogue, placement: Placement, fanout: str) -> tuple[float, Plan]:
    """The fastest of `REPEATS` runs, garbage collection off, and its plan."""
    best = float("inf")
    for _ in range(REPEATS):
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        plan = build_plan(tensors, placement, fanout)
        best = min(best, time.perf_counter() - start)
        gc.enable()
    return best, plan


def peak_bytes(tensors: Catalogue, placement: Placement, fanout: str) -> int:
    """The most memory allocated at one time during `build_plan`, its result included."""
    tracemalloc.start()
    build_plan(tensors, placement, fanout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    tensors = catalogue(job("model=kimi_k2").model, source_tp=8)
    print("Kimi K2, source TP8 PP8 EP16 -> destination TP8 EP16, best of", REPEATS)
    print(
        f"{'ranks':>11} {'plan s':>8} {'copies':>10} {'us/copy':>8} {'ratio':>6}"
        f" {'hierarchical s':>14} {'ratio':>6} {'peak MB':>8}"
    )
    first: dict[str, float] = {}
    for gpus in SIZES:
        placement = side_by_side(gpus)
        line, peak = f"{f'{gpus}+{gpus}':>11}", 0
        for fanout in ("direct", "hierarchical"):
            seconds, plan = best_seconds(tensors, placement, fanout)
            copies = len(plan)
            del plan
            each = seconds / copies
            ratio = each / first.setdefault(fanout, each)
            peak = max(peak, peak_bytes(tensors, placement, fanout))
            if fanout == "direct":
                line += f" {seconds:8.3f} {copies:10d} {each * 1e6:8.3f} {ratio:6.2f}"
            else:
                line += f" {seconds:14.3f} {ratio:6.2f}"
        print(f"{line} {peak / 1e6:8.0f}")


if __name__ == "__main__":
    main()
