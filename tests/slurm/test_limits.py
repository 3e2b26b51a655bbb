"""What Slurm has no room for, what a killed controller leaves, what is edited while jobs wait."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper import cancel, status
from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import ROOT, ROW_4, Sweep

WAITS = "refit.method=tests.support.faults:GlooWaits"
NO_GPU = "cluster.slurm.gpus_per_node=null"


@pytest.fixture(autouse=True)
def _no_limit_stays(cluster: Cluster) -> Iterator[None]:
    yield
    limit(cluster, -1)


def limit(cluster: Cluster, jobs: int) -> None:
    """How many jobs the user may have with Slurm; -1: any."""
    words = ("sacctmgr", "--immediate", "modify", "user", getpass.getuser(), "set")
    cluster.run(*words, f"MaxSubmitJobs={jobs}")


def running(cluster: Cluster) -> int:
    return len(cluster.run("squeue", "-h", "--array", "--states=R,CG").splitlines())


@pytest.mark.kills
def test_what_there_is_no_room_for_waits_and_one_sweep_is_cancelled(
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    other = cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "--wrap", "exec sleep 300"
    ).strip()
    # two shapes, and one job of all of them at a time; Slurm takes two beside the other one
    asked = (ROW_4, WAITS, "seed=0,1", "cluster.slurm.mem=1G,2G", NO_GPU)
    sweep = Sweep(cluster, tmp_path / "results", (*asked, "cluster.slurm.array_parallelism=1"))
    limit(cluster, 3)
    controller = sweep.start()
    sweep.wait_for("running", "submitted", "pending", "pending")
    assert (
        "2 points wait to be submitted, as there is room: Slurm refuses the job: " in sweep.said()
    )
    assert "SubmitJobLimit" in sweep.said() and running(cluster) == 2  # the other's is one
    sweep.go_on.touch()
    cluster.wait(sweep.records, 120, "one has ended")
    sweep.go_on.unlink()
    sweep.wait_for("ok", "running", "submitted", "pending", limit_s=180)
    assert running(cluster) == 2
    controller.send_signal(signal.SIGINT)
    code, said = sweep.end(controller)
    assert code == 130 and "2 points are with Slurm, in jobs " in said and "Traceback" not in said
    assert f"python -m sweeper.cancel {sweep.folder} ends them" in said
    open_ones = [at for at in sweep.states().values() if at["state"] != "ok"]
    left = {at["slurm_id"].partition("_")[0] for at in open_ones} - {""}
    names = cluster.run("squeue", "-h", "--format=%A %j %k").splitlines()
    marked = [line.split() for line in names if not line.startswith(other)]
    assert len(marked) == 2 and all(a == b and a.startswith("refit-sweep:") for _, a, b in marked)

    assert cancel.main([str(sweep.folder)]) == 0
    printed = capsys.readouterr().out
    assert all(f"job {job}, 1 pending or running, 1 points: moe_8e-" in printed for job in left)
    assert "cancelled 2 jobs;" in printed
    cluster.wait(lambda: cluster.run("squeue", "-h", "--format=%A").split() == [other], 60)
    assert status.main([str(sweep.folder)]) == 0
    *lines, counts = capsys.readouterr().out.splitlines()
    assert set(counts.split(", ")) == {"2 gone", "1 ok", "1 pending"}, lines
    assert sum("Slurm says CANCELLED of it" in line for line in lines) == 2
    assert cancel.main([str(sweep.folder)]) == 0 and "nothing" in capsys.readouterr().out
    # it goes on from there, and a limit that leaves no room at all is said
    cluster.run("scancel", other)
    cluster.wait(lambda: not cluster.run("squeue", "-h"), 60, "no job left")
    limit(cluster, 0)
    code, said = sweep.run()
    assert code == 2 and "SubmitJobLimit" in said and "takes none of" in said, said
    assert not list((sweep.folder / ".submitit").glob("*" + "?" * 32 + ".pkl"))


def test_a_killed_submission_and_an_edit_change_nothing(cluster: Cluster, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("refit", "sweeper", "hydra_plugins", "conf", "tests/support"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", checkout)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(checkout)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    # sbatch takes the job, and whoever called it is killed before it hears so
    tools = tmp_path / "bin"
    tools.mkdir()
    sbatch = tools / "sbatch"
    sbatch.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" && kill -9 $PPID\n')
    sbatch.chmod(0o755)
    held = "cluster.slurm.additional_parameters={hold:true}"
    asked = (ROW_4, "refit=gloo", "seed=0,1", NO_GPU, held, "sweep.pack=2")
    sweep = Sweep(cluster, tmp_path / "results", asked, checkout)
    killed = sweep.start(PATH=f"{tools}:{os.environ['PATH']}")
    assert killed.wait(120) == -signal.SIGKILL, sweep.said()
    (orphan,) = cluster.run("squeue", "-h", "--format=%A").split()

    code, said = sweep.run("sweep.wait=false")
    assert code == 0 and f"jobs {orphan} are cancelled: whoever submitted them was killed" in said
    (job,) = {at["slurm_id"] for at in sweep.states().values()}
    assert cluster.run("squeue", "-h", "--format=%A").split() == [job]
    left = [p.name for p in (sweep.folder / ".submitit").iterdir() if not p.is_symlink()]
    assert left and all(name.startswith(job) for name in left)

    for path in (checkout / "refit/ranks/agent.py", checkout / "sweeper/pack.py"):
        path.write_text("raise SystemExit('edited')")
    cluster.run("scontrol", "release", job)
    sweep.wait_for("ok", "ok", limit_s=180)
    for record in sweep.records().values():
        around = record["environment"]
        assert (around["commit"], around["dirty"]) == (commit, False)
    assert len(list((sweep.folder / ".code").iterdir())) == 1
    assert set(map(tuple, sweep.attempts().values())) <= {("0", "1"), ("1",)}
