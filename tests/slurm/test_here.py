"""Inside an allocation: the points run as steps on its nodes, and no job is submitted."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.slurm.cluster import Cluster

ROOT = Path(__file__).parents[2]
SMALL = ["model.num_layers=1", "model.moe_ffn_hidden_size=64", "model.vocab_size=1000"]
DOCUMENTS = ["--nodes=1", "--ntasks-per-node=8", "--gpus-per-node=8"]  # what they ask salloc for


def in_allocation(
    cluster: Cluster, options: list[str], command: list[str]
) -> subprocess.CompletedProcess[str]:
    """A command below salloc."""
    return subprocess.run(
        ["salloc", *options, *command],
        cwd=ROOT,
        env={**os.environ, **cluster.env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_lacks_slurm_or_m_says_what_to_type_and_that_works(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The documents' allocation; a point on this machine becomes a step, in what is printed."""
    python = [sys.executable, "-m", "refit.run"]
    few = "cluster.ranks_per_node=4"
    typed = ["sweep.here=true", "build=shards", *SMALL, few, f"hydra.sweep.dir={tmp_path}"]
    for lacks in ([*typed, f"hydra.run.dir={tmp_path}"], ["-m", *typed]):
        refused = in_allocation(cluster, DOCUMENTS, [*python, *lacks])
        assert refused.returncode == 2 and not list(tmp_path.glob("*/timing.json"))
        found = re.search(r"type python (-m refit\.run [^,\n]*)", refused.stderr)
        assert found, refused.stderr
        more = shlex.split(found[1])
        done = in_allocation(cluster, DOCUMENTS, [sys.executable, *more])
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = tmp_path.glob("*/timing.json")
        record = json.loads(path.read_text())
        assert record["status"] == "ok" and "step of 1 node(s): " in done.stdout
        path.unlink()


def test_points_run_on_the_nodes_of_an_allocation(cluster: Cluster, tmp_path: Path) -> None:
    pairs = "noncollocated_4_tp2ep1_to_tp1ep1,twonode_tp4ep4_to_tp8ep2"
    command = [
        sys.executable, "-m", "refit.run", "-m", "cluster=slurm", f"parallel={pairs}",
        "build=shards", *SMALL, "sweep.here=true", f"hydra.sweep.dir={tmp_path}",
    ]  # fmt: skip
    environment = {**os.environ, **cluster.env}

    outside = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert outside.returncode == 2
    assert "this is none; start it below salloc" in outside.stderr

    one = in_allocation(cluster, ["--nodes=1", "--gpus-per-node=8"], command)
    assert one.returncode == 0, one.stdout + one.stderr
    assert "needs 2 nodes, this allocation has 1" in one.stdout
    # within a step, which has the GPUs of its node
    step = ["srun", "--nodes=1", "--ntasks=1", *command]
    two = in_allocation(cluster, ["--nodes=2", "--gpus-per-node=8"], step)
    assert two.returncode == 0, two.stdout + two.stderr
    records = [json.loads(p.read_text()) for p in tmp_path.glob("*/timing.json")]
    assert [r["status"] for r in records] == ["ok", "ok"]
    assert {r["layout"]["world"] for r in records} == {8, 16}
    # as a job there would be: see `sweeper.here.of_allocation`
    assert all("-partition_main-" in r["name"] for r in records)
    assert sorted(len(r["environment"]["nodes"]) for r in records) == [1, 2]
    asked = [*command, "cluster.slurm.partition=low"]
    other = in_allocation(cluster, ["--nodes=1", "--gpus-per-node=8"], asked)
    assert other.returncode == 2
    assert "this allocation is in partition main, and cluster.slurm.partition=low" in other.stderr
    jobs = {r["environment"]["slurm"]["SLURM_JOB_ID"] for r in records}
    assert len(jobs) == 2  # the row ran in the first allocation and was kept in the second
