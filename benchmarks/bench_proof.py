"""What proving each refit costs: the stamps of one, as a share of a point's wall time.

Target: 15% or less over the ten rows. A point with 30 more timed iterations takes 30 times longer
for one refit and its stamps; what of that is no refit is proof, by `seconds.proof` of the record.
Run: python -m benchmarks.bench_proof
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.common import job
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.schema import CONF

FEW, MANY = 3, 33


def main() -> None:
    """Print a line per row, and the share of all."""
    rows = sorted(path.stem for path in (CONF / "parallel").glob("*collocated_*.yaml"))
    jobs = {
        (row, n): job(f"parallel={row}", "refit=ipc", f"bench.iterations={n}")
        for row in rows
        for n in (FEW, MANY)
    }
    stamps_s = walls_s = 0.0
    with tempfile.TemporaryDirectory() as folder, Agent(jobs.values()) as agent:
        for row in rows:
            proofs_s, wall_s = [], 0.0
            for n in (MANY, FEW):  # the first touches fresh memory
                started = time.perf_counter()
                record = agent.measure_point(Point.of(jobs[row, n], Path(folder)))
                wall_s = time.perf_counter() - started
                if record.seconds is None or record.seconds.proof is None:
                    raise SystemExit(f"{row}: {record.status}: {record.reason}")
                proofs_s.append(record.seconds.proof)
            each_s = max(0.0, (proofs_s[0] - proofs_s[1]) / (MANY - FEW))
            refits = FEW + jobs[row, FEW].bench.warmup
            print(
                f"{row}: wall {wall_s:.2f} s, proof {proofs_s[1]:.2f} s,"
                f" stamps {each_s * 1e3:.1f} ms a refit: {refits * each_s / wall_s:.1%} of the wall"
            )
            stamps_s, walls_s = stamps_s + refits * each_s, walls_s + wall_s
    print(f"all rows: {stamps_s / walls_s:.1%} (target <= 15%)")


if __name__ == "__main__":
    main()
