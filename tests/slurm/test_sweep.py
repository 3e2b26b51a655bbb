"""Sweeps on a real slurmctld that end well: shapes, arrays, interruptions of the controller."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from sweeper import collect
from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import ROW_4, Sweep
from tests.support.table import ROWS

WAITS = "tests.support.faults:GlooWaits"
# jobs that ask for no GPU: more than one fits a node
NO_GPU = "cluster.slurm.gpus_per_node=null"


def occupy(cluster: Cluster) -> str:
    """A job that has all nodes to itself; its id, once it runs."""
    job = cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "--nodes=2", "--exclusive",
        "--wrap", "exec sleep 300",
    )  # fmt: skip
    cluster.wait(lambda: cluster.job(job)["JobState"] == "RUNNING", 60, "all nodes taken")
    return job


def test_the_ten_rows_and_two_nodes_in_one_sweep(cluster: Cluster, tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "results", ("parallel=glob(*)",))
    code, said = sweep.run("sweep.pack=5")
    assert code == 0, said
    records, states = sweep.records(), sweep.states()
    (pitfall,) = (name for name in records if "pitfall_12gpus" in name)
    skipped = records.pop(pitfall)  # one node's, on a cluster of two
    assert skipped["status"] == "skipped" and "parallel.nodes" in skipped["reason"]
    states.pop(pitfall, None)
    assert {r["status"] for r in records.values()} == {"ok"}
    assert all(r["verification"]["mismatches"] == 0 for r in records.values())
    assert {name: s["state"] for name, s in states.items()} == dict.fromkeys(records, "ok")
    worlds = {name: r["layout"]["world"] for name, r in records.items()}
    by_pair = {r["config"]["parallel"]["name"]: worlds[name] for name, r in records.items()}
    assert by_pair.keys() >= ROWS.keys() and len(by_pair) == len(records)
    assert {by_pair[pair] for pair in ROWS} == {8}
    assert by_pair["twonode_tp4ep4_to_tp8ep2"] == 16
    shapes: dict[str, set[int]] = {}
    for name, at in states.items():
        nodes = worlds[name] // 8
        line = sweep.accounting(at["slurm_id"])
        assert (line["State"], line["ExitCode"], line["NNodes"]) == ("COMPLETED", "0:0", str(nodes))
        shapes.setdefault(at["slurm_id"].split("_")[0], set()).add(nodes)
    assert sorted(map(sorted, shapes.values())) == [[1], [2]]  # two arrays, one for each
    attempts = sweep.attempts()
    assert attempts.pop(pitfall, []) == []
    assert set(map(tuple, attempts.values())) == {("0",)}


LEAKS = {
    "SBATCH_PARTITION": "low", "SBATCH_TIMELIMIT": "7", "SBATCH_MEM_PER_NODE": "7000",
    "SBATCH_EXPORT": "NONE", "SQUEUE_STATES": "RUNNING", "SQUEUE_PARTITION": "low",
    "SLURM_MEM_PER_CPU": "10", "SLURM_MEM_PER_NODE": "4096", "SACCT_FORMAT": "User",
}  # fmt: skip


def test_two_partitions_are_two_points(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the user's shell says. A third is refused, and ends so."""
    sweep = Sweep(cluster, tmp_path / "results", (ROW_4, "cluster.slurm.cpus_per_task=2"))
    partitions = "cluster.slurm.partition=main,low,nosuch"
    code, said = sweep.end(sweep.start(partitions, "cluster.slurm.time=0:30:00", **LEAKS))
    assert code == 1 and "3 points: 2 ok, 1 failed" in said, said
    records, standings = sweep.records(), sweep.states()
    of = {r["config"]["cluster"]["slurm"]["partition"]: r for r in records.values()}
    refused = of.pop("nosuch")
    assert refused["status"] == "failed" and "invalid partition specified" in refused["reason"]
    assert refused["environment"]["nodes"] == [] and refused["reason"] in said
    assert standings[refused["name"]]["state"] == "failed" and of.keys() == {"main", "low"}
    for partition, record in of.items():
        assert f"-partition_{partition}-" in record["name"]
        around = record["environment"]
        line = sweep.accounting(standings[record["name"]]["slurm_id"])
        assert around["partition"] == line["Partition"] == partition
        assert around["nodes"] == [line["NodeList"]]
        assert (around["device"], line["Timelimit"]) == ("cpu", "00:30:00")
        asked = {f"--partition={partition}", "--time=0:30:00", "--cpus-per-task=2", "--nodes=1"}
        assert asked <= set(around["sbatch"])
    assert set(map(tuple, sweep.attempts().values())) == {("0",)}  # none was submitted twice
    assert collect.main([str(sweep.folder), "--where", "partition=low"]) == 0
    assert "1 records, 0 left out" in capsys.readouterr().out
    # each is kept for itself alone; what is refused beside it fails again
    code, said = sweep.run("cluster.slurm.partition=low,nosuch", "cluster.slurm.time=0:20:00")
    assert code == 1 and said.count("kept from") == 1 and "2 points: 1 ok, 1 failed" in said, said
    assert len(sweep.records()) == 3


@pytest.mark.kills
def test_a_controller_that_is_killed_is_taken_over_from(cluster: Cluster, tmp_path: Path) -> None:
    sweep = Sweep(
        cluster,
        tmp_path / "results",
        (ROW_4, f"refit.method=gloo,{WAITS}", "seed=0,1,2", NO_GPU),
    )
    limited = "cluster.slurm.array_parallelism=2"
    first = sweep.start(limited)
    finished = ["ok"] * 3
    before = sweep.wait_for(*finished, "running", "running", "submitted")
    other = Sweep(cluster, sweep.folder, (ROW_4,))
    kept = sweep.records()
    code, said = other.run()
    assert code == 2 and f"process {first.pid} on " in said and "another controller" in said
    first.kill()
    first.wait()
    # as if it had been killed after sbatch, and before it wrote this job's id
    (queued,) = (name for name, at in sweep.states().items() if at["state"] == "submitted")
    (sweep.folder / queued / "status.json").unlink()
    again = sweep.start(limited)
    sweep.wait_for(*finished, "running", "running", "submitted")
    again.send_signal(signal.SIGINT)
    code, said = sweep.end(again)
    assert code == 130 and "Jobs in Slurm's queue go on: the same command" in said
    shutil.rmtree(sweep.folder / queued)  # runs all the same
    again = sweep.start(limited)
    sweep.wait_for(*finished, "running", "running", "submitted")
    sweep.go_on.touch()
    code, said = sweep.end(again)
    assert code == 0, said
    records = sweep.records()
    assert len(records) == 6 and {r["status"] for r in records.values()} == {"ok"}
    assert {name: records[name] for name in kept} == kept
    assert set(map(tuple, sweep.attempts().values())) == {("0",)}
    assert {s["slurm_id"] for s in sweep.states().values()} == {s["slurm_id"] for s in before}
    # and once more, as if a job had been killed between its attempt's record and the point's:
    # nothing is left to run
    state = sweep.folder / queued / "status.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "state": "running"}))
    (sweep.folder / queued / "timing.json").unlink()
    code, said = sweep.run(limited)
    assert code == 0 and "0 submitted" in said and sweep.records() == records, said


def test_yaml_edited_while_a_job_is_queued_changes_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    text = """name: mine
use_case: mine
mode: non-collocated
source: {tp: 2, ep: 1, etp: 1}
destination: {tp: 1, ep: 1, etp: 1}
"""
    mine = tmp_path / "conf" / "parallel" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(text)
    sweep = Sweep(
        cluster,
        tmp_path / "results",
        (f"hydra.searchpath=[file://{mine.parent.parent}]", "parallel=mine", "refit=gloo"),
    )
    others = occupy(cluster)
    code, said = sweep.run("sweep.wait=false")
    assert code == 0, said
    (submitted,) = sweep.wait_for("submitted")
    assert cluster.job(submitted["slurm_id"])["JobState"] == "PENDING"
    mine.write_text(text.replace("{tp: 2,", "{tp: 4,"))
    cluster.run("scancel", others)
    (ended,) = sweep.wait_for("ok")
    assert ended["slurm_id"] == submitted["slurm_id"]
    (record,) = sweep.records().values()
    assert record["layout"]["source"]["tp"] == record["config"]["parallel"]["source"]["tp"] == 2
    mine.write_text(text.replace("use_case: mine", "use_case: other words"))
    code, said = sweep.run()
    assert code == 0 and list(sweep.records().values()) == [record], said


@pytest.mark.kills
def test_a_job_that_is_preempted_and_loses_its_node_ends_ok(
    cluster: Cluster, tmp_path: Path
) -> None:
    sweep = Sweep(
        cluster,
        tmp_path / "results",
        (ROW_4, f"refit.method={WAITS}", NO_GPU, "cluster.slurm.partition=low"),
    )
    controller = sweep.start()

    def running(attempt: str) -> dict[str, str]:
        def there() -> dict[str, str] | None:
            (at,) = list(sweep.states().values()) or [{"attempt": "", "state": ""}]
            return at if (at["attempt"], at["state"]) == (attempt, "running") else None

        found = cluster.wait(there, 90, f"attempt {attempt} runs")
        assert found is not None
        return found

    job = running("0")["slurm_id"]
    urgent = occupy(cluster)
    cluster.run("scancel", urgent)
    running("0.1")
    node = cluster.job(job)["NodeList"]
    cluster.set_node(node, "down")
    try:
        running("0.2")
    finally:
        cluster.set_node(node, "resume")
    cluster.restart_controller()
    sweep.go_on.touch()
    code, said = sweep.end(controller)
    assert code == 0, said
    assert {name: at["state"] for name, at in sweep.states().items()} == {
        name: record["status"] for name, record in sweep.records().items()
    }
    assert list(sweep.attempts().values()) == [["0", "0.1", "0.2"]]
    assert sweep.accounting(job)["State"] == "COMPLETED"
    lives = [line["State"] for line in cluster.sacct(job, "-X", "--duplicates")]
    assert lives == ["PREEMPTED", "NODE_FAIL", "COMPLETED"]


@pytest.mark.kills
def test_what_slurm_does_not_requeue_is_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    no_requeue = "cluster.slurm.additional_parameters={no-requeue:true}"
    sweep = Sweep(
        cluster,
        tmp_path / "results",
        (ROW_4, f"refit.method={WAITS},gloo", "sweep.pack=2", NO_GPU, no_requeue),
    )
    controller = sweep.start()
    # the second is not got to
    job = sweep.wait_for("running", "submitted")[0]["slurm_id"]
    node = cluster.job(job)["NodeList"]
    cluster.set_node(node, "down")
    try:
        tried = [["0", "1"], ["0", "1"]]
        cluster.wait(lambda: list(sweep.attempts().values()) == tried, 90, "second attempts")
        sweep.go_on.touch()
        code, said = sweep.end(controller)
    finally:
        cluster.set_node(node, "resume")
    assert code == 0, said
    assert "is NODE_FAIL; try 2 of 3" in said and "NODE_FAIL and did not get to it" in said
    assert [r["status"] for r in sweep.records().values()] == ["ok", "ok"]
    assert list(sweep.attempts().values()) == tried
    assert sweep.accounting(job)["State"] == "NODE_FAIL"


def test_a_long_array_is_split_at_what_the_cluster_allows(short_root: Path, tmp_path: Path) -> None:
    root = short_root / "split"
    with Cluster(root, nodes=1, max_array_size=3, accounting=False) as small:
        small.set_node("node1", "drain")  # nothing is to start
        sweep = Sweep(small, tmp_path / "results", (ROW_4, "seed=range(5)", "sweep.wait=false"))
        code, said = sweep.run()
        assert code == 0, said
        ids = [at["slurm_id"] for at in sweep.states().values()]
        assert len(set(ids)) == 5
        assert sorted(Counter(i.split("_")[0] for i in ids).values()) == [1, 2, 2]
