"""Sweeps on a real slurmctld that go wrong: state, exit code and message of each failure."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sweeper import status
from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import PAIR, ROW_4, Sweep

WAITS = "tests.support.faults:GlooWaits"
# jobs that ask for no GPU: more than one fits a node
NO_GPU = "cluster.slurm.gpus_per_node=null"


def of_method(points: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The record whose point ran this method."""
    (found,) = (r for r in points.values() if r["config"]["refit"]["method"].endswith(name))
    return found


def seconds(record: dict[str, Any]) -> float:
    """From a record's start to its end."""
    start, end = (datetime.fromisoformat(record[f"{w}_at"]) for w in ("started", "finished"))
    return (end - start).total_seconds()


def test_a_rank_killed_on_the_second_node_fails_its_point_only(
    cluster: Cluster, tmp_path: Path
) -> None:
    sweep = Sweep(
        cluster,
        tmp_path / "results",
        (*PAIR, f"refit.method=gloo,tests.support.faults:GlooKilled,{WAITS}", "sweep.pack=3"),
    )
    sweep.go_on.touch()
    code, said = sweep.run()
    assert code == 1, said
    records = sweep.records()
    killed = of_method(records, ":GlooKilled")
    assert [of_method(records, m)["status"] for m in ("gloo", ":GlooWaits")] == ["ok", "ok"]
    assert killed["status"] == "crashed" and killed["seconds"] is None
    assert "rank 3: ended by SIGKILL" in killed["reason"]
    assert f"crashed: {killed['name']}" in said and "rank 3: ended by SIGKILL" in said
    log = re.search(r"log: (\S+/rank3\.log)", said)
    assert log and Path(log[1]).is_file()
    assert seconds(killed) < 120  # nobody waited for the deadline of ten minutes
    states = {name: at["state"] for name, at in sweep.states().items()}
    assert states == {name: r["status"] for name, r in records.items()}
    (job,) = {at["slurm_id"] for at in sweep.states().values()}
    line = sweep.accounting(job)
    assert (line["State"], line["NNodes"]) == ("FAILED", "2")
    assert set(map(tuple, sweep.attempts().values())) == {("0",)}


@pytest.mark.kills
def test_what_slurm_ends_is_called_by_its_name(cluster: Cluster, tmp_path: Path) -> None:
    sweep = Sweep(
        cluster,
        tmp_path / "results",
        (ROW_4, f"refit.method={WAITS}", "seed=0,1,2,3", NO_GPU, "sweep.max_attempts=1"),
    )
    hanging = Sweep(
        cluster,
        tmp_path / "hanging",
        # in one pack: the second starts quickly, after the first, and so keeps the deadline
        (
            ROW_4,
            "refit.method=tests.support.faults:Hangs,gloo",
            "sweep.pack=2",
            "bench.deadline_s=20",
        ),
    )
    controllers = [hanging.start(), sweep.start("cluster.slurm.array_parallelism=3")]
    sweep.wait_for("running", "running", "running", "submitted")
    states = sweep.states()
    of_seed = {job["seed"]: states[name]["slurm_id"] for name, job in sweep.frozen().items()}
    cluster.run("scancel", of_seed[3])  # the pending one, before another's end lets it start
    cluster.run("scancel", of_seed[0])
    cluster.expire(of_seed[1])
    sweep.wait_for("failed", "failed", "timeout", "running", limit_s=120)
    sweep.go_on.touch()
    code, said = sweep.end(controllers[1])
    assert code == 1, said
    ended = {r["config"]["seed"]: r for r in sweep.records().values()}
    assert [ended[seed]["status"] for seed in range(4)] == ["failed", "timeout", "ok", "failed"]
    assert f"Slurm says CANCELLED of job {of_seed[0]}" in ended[0]["reason"]
    assert f"Slurm says TIMEOUT of job {of_seed[1]}" in ended[1]["reason"]
    assert f"job {of_seed[3]}" in ended[3]["reason"]
    for seed in (0, 1):
        log = re.search(r"log: (\S+)", ended[seed]["reason"])
        assert log and Path(log[1]).is_file() and log[0] in said
    assert set(map(tuple, sweep.attempts().values())) == {("0",)}
    words = [sweep.accounting(of_seed[seed])["State"].split()[0] for seed in range(3)]
    assert words == ["CANCELLED", "TIMEOUT", "COMPLETED"]

    code, said = hanging.end(controllers[0])
    assert code == 1, said
    records = hanging.records()
    hung = of_method(records, ":Hangs")
    assert hung["status"] == "timeout" and "not done after 20 s" in hung["reason"]
    assert of_method(records, "gloo")["status"] == "ok"
    at = hanging.states()[hung["name"]]
    assert at["state"] == "timeout" and hanging.accounting(at["slurm_id"])["State"] == "FAILED"


def test_a_rank_that_the_kernel_kills_for_memory_is_oom(cluster: Cluster, tmp_path: Path) -> None:
    if not os.access("/sys/fs/cgroup", os.W_OK) or os.getuid():
        pytest.skip("no limit on memory can be set here; run as root to test an OOM kill")
    sweep = Sweep(
        cluster,
        tmp_path / "results",
        (ROW_4, "refit.method=tests.support.faults:GlooOutOfMemory,gloo", "sweep.pack=2"),
    )
    code, said = sweep.run()
    assert code == 1, said
    records = sweep.records()
    killed = of_method(records, ":GlooOutOfMemory")
    assert killed["status"] == "oom" and killed["seconds"] is None, killed["reason"]
    assert "rank 2: was killed by the kernel for memory" in killed["reason"]
    assert of_method(records, "gloo")["status"] == "ok"
    at = sweep.states()[killed["name"]]
    assert at["state"] == "oom" and sweep.accounting(at["slurm_id"])["State"] == "FAILED"
    assert set(map(tuple, sweep.attempts().values())) == {("0",)}  # it would end so again


def test_a_disk_that_fills_up_loses_nothing(cluster: Cluster, small_disk: Path | None) -> None:
    if small_disk is None:
        pytest.skip("no small file system can be mounted here; run as root to test a full disk")
    sweep = Sweep(cluster, small_disk, (ROW_4, f"refit.method=gloo,{WAITS}", NO_GPU))
    controller = sweep.start()
    sweep.wait_for("ok", "running")
    (kept,) = sweep.records().values()
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    sweep.go_on.touch()
    code, said = sweep.end(controller)
    assert code == 2 and "No space left on device" in said and "Traceback" not in said, said
    assert list(sweep.records().values()) == [kept]
    filler.unlink()
    code, said = sweep.run()
    assert code == 0, said
    records = sweep.records()
    assert records[kept["name"]] == kept and {r["status"] for r in records.values()} == {"ok"}


@pytest.mark.kills  # the last job, which nobody waits for
def test_a_method_that_one_node_lacks_ends_its_point_at_once(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "path" / "somewhere"
    package.mkdir(parents=True)
    raises = "import os\nif os.environ.get('SLURM_NODEID') == '1': raise ImportError('not here')\n"
    (package / "__init__.py").write_text(raises)
    (package / "mine.py").write_text(
        "from refit.transport.gloo import GlooTransport as Transport\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{os.environ.get('PYTHONPATH', '')}")
    method = "refit.method='somewhere.mine:Transport',gloo"
    sweep = Sweep(cluster, tmp_path / "results", (*PAIR, method, "sweep.pack=2"))
    code, said = sweep.run()
    assert code == 1, said
    records = sweep.records()
    lacking = of_method(records, ":Transport")
    assert lacking["status"] == "unsupported" and seconds(lacking) < 60
    assert "no refit method 'somewhere.mine:Transport'" in lacking["reason"]
    assert of_method(records, "gloo")["status"] == "ok"
    # not waited for, what stands in its folder is no news of it
    code, said = sweep.run("sweep.wait=false")
    assert code == 0 and "2 points: 1 submitted, 1 ok" in said, said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cluster.slurm.partition=nowhere",), "invalid partition specified"),
        (("cluster.slurm.account=nobody",), "Invalid account"),
        (("cluster.slurm.partition=nowhere,nosuch",), "invalid partition specified"),
    ],
)
def test_what_slurm_refuses_leaves_nothing_behind(
    cluster: Cluster, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    sweep = Sweep(cluster, tmp_path / "results", (ROW_4, *arguments))
    code, said = sweep.run()
    assert code == 2, said
    assert "Slurm refuses the job: " in said and says in said and "Traceback" not in said
    cluster.wait(lambda: not cluster.run("squeue", "-h"), 30, "no job left")
    assert not sweep.records()
    assert {at["state"] for at in sweep.states().values()} <= {"pending"}


def test_why_a_job_waits_is_said(
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold = "cluster.slurm.additional_parameters={hold:true}"
    sweep = Sweep(cluster, tmp_path / "results", (ROW_4, hold))
    controller = sweep.start()
    (held,) = sweep.wait_for("submitted")
    words = f"WARNING: job {held['slurm_id']} cannot start as asked for: JobHeldUser"
    cluster.wait(lambda: words in sweep.said(), 30, "it is said")
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    assert status.main([str(sweep.folder)]) == 0
    line, _, warning = capsys.readouterr().out.splitlines()
    assert line.endswith("  JobHeldUser") and warning.startswith(words)
    cluster.run("scancel", held["slurm_id"])
    code, said = sweep.end(controller)
    assert code == 1 and said.count(words) == 1, said


def test_an_unreachable_controller_is_said(cluster: Cluster, tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "results", (ROW_4,))
    cluster.stop_controller()
    try:
        code, said = sweep.run()
    finally:
        cluster.start_controller()
    assert code == 2 and "no Slurm controller answers" in said and "Traceback" not in said, said
    assert cluster.run("squeue", "-h") == ""
