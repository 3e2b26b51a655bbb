"""Sixty tiny points, one per job and packed: each exactly once, and what packing is worth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.slurm.cluster import Cluster

ROOT = Path(__file__).parents[2]
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


def sweep(cluster: Cluster, folder: Path, *arguments: str) -> tuple[float, list[dict[str, object]]]:
    """Wall time and status.json of every point of a sweep over sixty seeds."""
    began, start = datetime.now(UTC), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "refit.run", "-m", "seed=range(0,60)", *TINY, *arguments,
         f"hydra.sweep.dir={folder}"],
        cwd=ROOT,
        env={**os.environ, **cluster.env},
        capture_output=True,
        text=True,
        timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    took = time.monotonic() - start
    records = [json.loads(p.read_text()) for p in folder.glob("*/timing.json")]
    assert sorted(r["config"]["seed"] for r in records) == list(range(60))
    first = min(datetime.fromisoformat(r["started_at"]) for r in records) - began
    print(f"\nfrom -m to the first point running: {first.total_seconds():.1f} s of {took:.0f} s")
    assert len(list(folder.glob("*/attempts/*"))) == 60
    said = [json.loads(p.read_text()) for p in folder.glob("*/status.json")]
    assert {s["state"] for s in said} == {"ok"}
    return took, said


def test_sixty_points_packed_and_not(cluster: Cluster, tmp_path: Path) -> None:
    packed_s, packed = sweep(cluster, tmp_path / "packed", "sweep.pack=15")
    assert len({s["slurm_id"] for s in packed}) == 4
    single_s, single = sweep(cluster, tmp_path / "single")
    assert len({s["slurm_id"] for s in single}) == 60
    ratio = f"{single_s / packed_s:.1f}"
    print(f"\n60 points: {single_s:.0f} s one per job, {packed_s:.0f} s in packs of 15: {ratio} x")
