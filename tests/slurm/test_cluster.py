"""The tests' Slurm cluster does what the tests of the sweeper rely on."""

import subprocess
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster


def submit(cluster: Cluster, script: str, *options: str) -> str:
    """Submit a shell script; its job id. Output goes nowhere unless `options` say where."""
    return cluster.run("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script)


def wait_for_state(cluster: Cluster, job_id: str, state: str, limit_s: float = 30) -> None:
    """Until slurmctld says `state` of the job."""
    what = f"job {job_id} {state}"
    cluster.wait(lambda: cluster.job(job_id)["JobState"] == state, limit_s, what)


def test_all_nodes_are_idle(cluster: Cluster) -> None:
    assert cluster.idle_nodes() == ["node1", "node2"]
    assert cluster.run("sinfo", "-h", "-p", "main", "-o", "%D %c %G") == "2 128 gpu:8"


def test_a_job_on_two_nodes_sees_all_gpus_of_both(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = submit(
        cluster,
        """srun sh -c 'echo $(hostname) $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'""",
        "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", f"--output={out}",
    )  # fmt: skip
    wait_for_state(cluster, job, "COMPLETED")
    lines = [line.split() for line in sorted(out.read_text().splitlines())]
    assert [line[1:] for line in lines] == [
        ["node1", "0,1,2,3,4,5,6,7"],
        ["node2", "0,1,2,3,4,5,6,7"],
    ]
    if cluster.own_names:
        assert [line[0] for line in lines] == ["node1", "node2"]
    # of a short job, slurmctld tells the batch script's node first and all nodes seconds later
    cluster.wait(lambda: cluster.sacct(job, "-X")[0]["NodeList"] == "node[1-2]")
    (record,) = cluster.sacct(job, "-X")
    assert record["State"] == "COMPLETED"
    assert record["ExitCode"] == "0:0"
    assert "gres/gpu=16" in record["AllocTRES"].split(",")


def test_two_jobs_on_one_node_have_different_gpus(cluster: Cluster, tmp_path: Path) -> None:
    script = f"echo $CUDA_VISIBLE_DEVICES >{tmp_path}/$SLURM_JOB_ID; exec sleep 100"
    for _ in range(2):
        submit(cluster, script, "--nodelist=node1", "--gpus-per-node=4")
    cluster.wait(lambda: [len(p.read_text()) for p in tmp_path.iterdir()] == [8, 8])
    texts = sorted(path.read_text() for path in tmp_path.iterdir())
    assert texts == ["0,1,2,3\n", "4,5,6,7\n"]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--partition=nowhere", "invalid partition specified"),
        ("--account=nobody", "Invalid account"),
        ("--gpus-per-node=9", "Requested node configuration is not available"),
    ],
)
def test_what_the_cluster_has_not_is_refused(cluster: Cluster, option: str, says: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        submit(cluster, "true", option)
    assert says in error.value.stderr
    assert cluster.run("squeue", "-h") == ""


def test_a_job_outlives_a_restart_of_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    job = submit(cluster, f"until [ -e {go_on} ]; do sleep 0.1; done; exit 3")
    wait_for_state(cluster, job, "RUNNING")
    cluster.restart_controller()
    wait_for_state(cluster, job, "RUNNING")
    go_on.touch()
    wait_for_state(cluster, job, "FAILED")
    assert cluster.job(job)["ExitCode"] == "3:0"
    assert cluster.job(job)["Restarts"] == "0"


def test_a_node_that_goes_down_has_its_job_requeued(cluster: Cluster) -> None:
    job = submit(cluster, "exec sleep 100")
    wait_for_state(cluster, job, "RUNNING")
    node = cluster.job(job)["NodeList"]
    cluster.set_node(node, "down")
    try:
        cluster.wait(lambda: cluster.job(job)["Restarts"] == "1")
        wait_for_state(cluster, job, "RUNNING")
        assert cluster.job(job)["NodeList"] != node
    finally:
        cluster.set_node(node, "resume")
    states = [record["State"] for record in cluster.sacct(job, "-X", "--duplicates")]
    assert states[0] == "NODE_FAIL"
    cluster.run("scancel", job)
    cluster.wait(lambda: cluster.idle_nodes() == cluster.nodes)


def test_a_job_of_low_makes_way_for_one_of_main(cluster: Cluster) -> None:
    low = submit(cluster, "exec sleep 100", "--partition=low", "--nodes=2", "--exclusive")
    wait_for_state(cluster, low, "RUNNING")
    main = submit(cluster, "exec sleep 100", "--nodes=2", "--exclusive")
    wait_for_state(cluster, main, "RUNNING")
    assert cluster.job(low)["JobState"] == "PENDING"
    assert cluster.job(low)["Restarts"] == "1"
    states = [record["State"] for record in cluster.sacct(low, "-X", "--duplicates")]
    assert states[0] == "PREEMPTED"


def test_another_cluster_at_once_and_nothing_of_it_stays(
    cluster: Cluster, short_root: Path, tmp_path: Path
) -> None:
    here = submit(cluster, "exec sleep 100")
    with Cluster(short_root / "b", nodes=1, gpus=1, max_array_size=10, accounting=False) as other:
        there = submit(
            other, f"echo $CUDA_VISIBLE_DEVICES >{tmp_path}/out; trap '' TERM; sleep 99", "--gpus=1"
        )
        wait_for_state(other, there, "RUNNING")
        with pytest.raises(subprocess.CalledProcessError) as error:
            submit(other, "true", "--array=0-10")
        assert "Invalid job array specification" in error.value.stderr
        out = tmp_path / "out"
        other.wait(lambda: out.exists() and out.read_text() == "0\n")
        assert other.processes()
    assert other.processes() == []
    assert cluster.job(here)["JobState"] == "RUNNING"
