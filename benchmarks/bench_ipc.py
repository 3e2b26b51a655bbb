"""ipc against the copy rate of the same processes within their own memory, collocated TP<->EP swap.

Target: 0.95 or more of it in the median of five runs, and 0.85 in the worst. Both are measured in
one run by the same ranks (the copy on a share of the bytes, scaled up: docs/numbers.md). Like is
held against like: of the slowest rank's times the fastest of the refits, of which there are ten,
against the fastest of the copies. Beside them the median refit, and plain copies of as many bytes
between the same ranks.
Run: python -m benchmarks.bench_ipc
"""

from __future__ import annotations

import statistics

from benchmarks.common import job, run

REPEATS = 5


def main() -> None:
    """Print one line per repetition, and the median and the worst."""
    swap = [
        "model=moe_16e_swiglu",
        "parallel=collocated_1_tp4ep2_to_tp2ep4",
        "refit=ipc",
        "bench.iterations=10",
    ]
    ratios = []
    print("ipc, collocated TP4 EP2 -> TP2 EP4, moe_16e_swiglu, 8 ranks")
    for record in run([job(*swap)] * REPEATS):
        rate, seconds, plan = record.throughput, record.seconds, record.plan
        assert rate is not None and seconds is not None and plan is not None
        copies = {limit.kind: limit.gbps for limit in rate.limits}
        fastest = plan.bytes / min(seconds.warm) / 1e9
        ratios.append(fastest / copies["memory"])
        print(
            f"  refit {fastest:.2f} GB/s (median {rate.gbps:.2f}), own copy"
            f" {copies['memory']:.2f}: ratio {ratios[-1]:.2f}; between the ranks"
            f" {copies['peers']:.2f}"
        )
    print(
        f"  median ratio {statistics.median(ratios):.2f} (target >= 0.95),"
        f" worst {min(ratios):.2f} (target >= 0.85)"
    )


if __name__ == "__main__":
    main()
