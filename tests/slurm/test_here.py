"""Inside an allocation: the points run as steps on its nodes, and no job is submitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.slurm.cluster import Cluster

ROOT = Path(__file__).parents[2]


def test_points_run_on_the_nodes_of_an_allocation(cluster: Cluster, tmp_path: Path) -> None:
    pairs = "noncollocated_4_tp2ep1_to_tp1ep1,twonode_tp4ep4_to_tp8ep2"
    small = ["model.num_layers=1", "model.moe_ffn_hidden_size=64", "model.vocab_size=1000"]
    command = [
        sys.executable, "-m", "refit.run", "-m", "cluster=slurm", f"parallel={pairs}",
        "build=shards", *small, "sweep.here=true", f"hydra.sweep.dir={tmp_path}",
    ]  # fmt: skip
    environment = {**os.environ, **cluster.env}

    outside = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert outside.returncode == 2
    assert "this is none; start it below salloc" in outside.stderr

    def in_allocation(nodes: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["salloc", f"--nodes={nodes}", "--gpus-per-node=8", *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    one = in_allocation(1)
    assert one.returncode == 0, one.stdout + one.stderr
    assert "needs 2 nodes, this allocation has 1" in one.stdout
    two = in_allocation(2)
    assert two.returncode == 0, two.stdout + two.stderr
    records = [json.loads(p.read_text()) for p in tmp_path.glob("*/timing.json")]
    assert [r["status"] for r in records] == ["ok", "ok"]
    assert {r["layout"]["world"] for r in records} == {8, 16}
    jobs = {r["environment"]["slurm"]["SLURM_JOB_ID"] for r in records}
    assert len(jobs) == 2  # the row ran in the first allocation and was kept in the second
