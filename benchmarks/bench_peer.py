"""Ours against megatron-core's own refit, on the same tensors in one run.

Targets: ipc at least 8 times as fast as megatron-core's gloo, our gloo at least 2.5 times. The
methods in turn on model=dense with 12 layers, collocated, 4 ranks. What the peer gets right is
benchmarks.bench_peer_table's. Run: python -m benchmarks.bench_peer
"""

from __future__ import annotations

import statistics

from benchmarks.common import job, run
from refit.model.megatron_versions import VERSION
from refit.record.record import Record

REPEATS = 5
METHODS = ("ipc", "gloo", "megatron")

TP4_TO_TP2 = [
    "model=dense",
    "model.num_layers=12",  # 1.0 GB written, some 3 GB of memory in all
    "parallel=collocated_1_tp4ep2_to_tp2ep4",
    "parallel.name=collocated_tp4_to_tp2",
    "parallel.source={tp: 4, ep: 1, gpus: 4}",
    "parallel.destination={tp: 2, ep: 1, gpus: 4}",
    "cluster.ranks_per_node=4",
    "bench.iterations=5",
]


def main() -> None:
    """Each method in turn, several times; print the ratios of the medians of one turn."""
    peer = f"megatron-core {VERSION}"
    jobs = [job(*TP4_TO_TP2, f"refit={method}") for method in METHODS]
    print(
        f"ours and {peer} (gloo), dense, collocated TP4 -> TP2, 4 ranks; slowest rank, median of 5"
    )
    turns = []
    records = run(jobs * REPEATS)
    assert records[0].plan is not None
    print(f"  {records[0].plan.bytes / 1e9:.2f} GB written per refit, all verified")
    for start in range(0, len(records), len(METHODS)):
        turn = dict(zip(METHODS, records[start : start + len(METHODS)], strict=True))
        turns.append({m: r.seconds.median for m, r in turn.items() if r.seconds})
        print("  " + ", ".join(f"{m} {_line(r)}" for m, r in turn.items()))
    rates = [limit.gbps for r in records if r.throughput for limit in r.throughput.limits]
    print(f"  plain copies meanwhile: {min(rates):.1f} to {max(rates):.1f} GB/s")
    for method, target in (("ipc", "8"), ("gloo", "2.5")):
        ratios = [t["megatron"] / t[method] for t in turns]
        print(
            f"  megatron / {method}: median ratio {statistics.median(ratios):.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f}; target >= {target})"
        )


def _line(record: Record) -> str:
    assert record.seconds is not None and record.memory is not None
    seconds, extra = record.seconds, record.memory.refit_peak_bytes
    took = f"{seconds.median:.3f} s (cold {seconds.cold:.3f})"
    return took if extra is None else f"{took} +{extra / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
