"""What a refit costs besides its bytes: Python, the library's calls, and the ranks' meetings.

Rows of the reference table with all their tensors and next to no bytes (hidden size 64), by each
method of the CPU, on as many ranks as the row has. Prints, of the rank that has most, into how many
copies, messages or reads its runs became, and milliseconds of a refit: the slowest rank's, median
of 30. With fewer cores than ranks they take turns, so one rank's own share is less.
Run: python -m benchmarks.bench_overhead
"""

from __future__ import annotations

import statistics

from benchmarks.common import job, run
from refit.record.record import Record

ROWS = ("collocated_1_tp4ep2_to_tp2ep4", "noncollocated_5_tp4ep1_to_tp4ep1")
METHODS = ("ipc", "gloo", "symmetric", "nixl")
NARROW = [
    "model=moe_16e_swiglu",
    "model.hidden_size=64",
    "model.ffn_hidden_size=128",
    "model.moe_shared_expert_intermediate_size=64",
    "model.vocab_size=1024",
    "build=shards",
    "bench.iterations=30",
]


def line(record: Record) -> str:
    """What a record says of its method."""
    assert record.seconds is not None and record.plan is not None
    said = ", ".join(f"{value} {name}" for name, value in (record.transport or {}).items())
    spread = sorted(s * 1e3 for s in record.seconds.warm)
    return (
        f"  {record.method:10} {statistics.median(spread):7.2f} ms"
        f" ({spread[0]:.2f} to {spread[-1]:.2f}); {said}"
    )


def main() -> None:
    for row in ROWS:
        records = run([job(*NARROW, f"parallel={row}", f"refit={method}") for method in METHODS])
        plan = records[0].plan
        assert plan is not None
        print(f"{row}: {plan.bytes / 1e6:.1f} MB")
        for record in records:
            print(line(record), flush=True)


if __name__ == "__main__":
    main()
