"""What a sweep on Slurm costs: from -m to the first point running; sixty points packed and not.

On a throw-away, real Slurm cluster of two pretended nodes (`bash tests/debian.sh`). Run:
python -m benchmarks.bench_slurm
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.slurm.cluster import Cluster, missing_packages

ROOT = Path(__file__).parents[1]
POINTS = 60
TINY = [
    "model=moe_8e",
    "model.num_layers=1",
    "model.vocab_size=500",
    "build=shards",
    "bench.iterations=1",
    "cluster=slurm",
    "cluster.ranks_per_node=4",
    "cluster.slurm.gpus_per_node=4",
]


def sweep(cluster: Cluster, folder: Path, *arguments: str) -> float:
    """Seconds that a sweep of tiny points takes; prints when the first of them ran.

    Raises:
        SystemExit: a point is not ok, so that the times would say nothing.
    """
    began, start = datetime.now(UTC), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "refit.run", "-m", f"seed=range(0,{POINTS})", *TINY, *arguments,
         f"hydra.sweep.dir={folder}"],
        cwd=ROOT,
        env={**os.environ, **cluster.env},
        capture_output=True,
        text=True,
    )  # fmt: skip
    took = time.monotonic() - start
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    records = [json.loads(path.read_text()) for path in folder.glob("*/timing.json")]
    first = min(datetime.fromisoformat(r["started_at"]) for r in records) - began
    print(f"from -m to the first point running: {first.total_seconds():.1f} s of {took:.0f} s")
    return took


def main() -> None:
    """Print the times of both sweeps and their ratio."""
    if missing := missing_packages():
        print(f"no {', '.join(missing)} here: install with `bash tests/debian.sh`")
        return
    # munge refuses a socket that others cannot reach, and unix sockets need a short path
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as root:
        Path(root).chmod(0o755)
        with Cluster(Path(root) / "a") as cluster:
            packed_s = sweep(cluster, Path(root) / "packed", "sweep.pack=15")
            single_s = sweep(cluster, Path(root) / "single")
    ratio = f"{single_s / packed_s:.1f}"
    print(
        f"{POINTS} points: {single_s:.0f} s one per job, {packed_s:.0f} s in packs of 15: {ratio} x"
    )


if __name__ == "__main__":
    main()
