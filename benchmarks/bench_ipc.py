"""ipc against the copy rate of the same processes within their own memory, collocated TP<->EP swap.

Target: 0.85 or more. Both are measured in one run by the same ranks, ten times each (the copy on a
share of the bytes, scaled up: docs/numbers.md); the median of the slowest rank's time counts.
Beside them, plain copies of as many bytes between the same ranks.
Run: python -m benchmarks.bench_ipc
"""

from __future__ import annotations

from benchmarks.common import job, run


def main() -> None:
    """Print one line per repetition, and the median."""
    swap = [
        "model=moe_16e_swiglu",
        "parallel=collocated_1_tp4ep2_to_tp2ep4",
        "refit=ipc",
        "bench.iterations=10",
    ]
    ratios = []
    print("ipc, collocated TP4 EP2 -> TP2 EP4, moe_16e_swiglu, 8 ranks")
    for record in run([job(*swap)] * 3):
        rate = record.throughput
        assert rate is not None
        copies = {limit.kind: limit.gbps for limit in rate.limits}
        ratios.append(rate.gbps / copies["memory"])
        print(
            f"  refit {rate.gbps:.2f} GB/s, own copy {copies['memory']:.2f} GB/s:"
            f" ratio {ratios[-1]:.2f}; between the ranks {copies['peers']:.2f} GB/s"
        )
    print(f"  median ratio {sorted(ratios)[1]:.2f} (target >= 0.85)")


if __name__ == "__main__":
    main()
