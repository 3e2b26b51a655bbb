"""What is asked of sbatch, and where points stand on disk; nothing here needs Slurm."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.record.point import Point
from refit.record.record import begin, ended, write
from refit.rules.setup import Setup
from refit.weights import memory
from sweeper import clients, slurm, status, submitit_side
from tests.support.jobs import SMALL, job


def asking(root: Path, slurm: Any) -> Point:
    """A point whose `cluster.slurm` is this."""
    made = job()
    return Point.of(replace(made, cluster=replace(made.cluster, slurm=slurm)), root)


def flags(point: Point) -> list[str]:
    """The lines of its sbatch file."""
    return submitit_side.sbatch_text(slurm.executor(point, point.directory)).splitlines()


def test_what_is_null_is_not_asked_for(tmp_path: Path) -> None:
    for nothing in (None, {}, {"time": None, "setup": None, "array_parallelism": None}):
        said = flags(asking(tmp_path, nothing))
        assert not [line for line in said if "--time" in line or "--wckey" in line]


def test_what_is_said_reaches_sbatch(tmp_path: Path) -> None:
    asked = {
        "time": "02:00:00",
        "wckey": "mine",
        "job_name": "other",
        "setup": ["module load x"],
        "srun_args": ["--mpi=none"],
        "additional_parameters": {"container-image": "a/b:c"},
    }
    said = flags(asking(tmp_path, asked))
    for line in ("time=02:00:00", "wckey=mine", "job-name=other", "container-image=a/b:c"):
        assert f"#SBATCH --{line}" in said
    assert "module load x" in said
    (srun,) = (line for line in said if line.startswith("srun "))
    assert "--kill-on-bad-exit=1 --export=ALL --cpus-per-task=4 --mpi=none" in srun


def test_what_nobody_says_is_for_the_ranks_of_a_node(tmp_path: Path) -> None:
    def asked(slurm: Any, **cluster: Any) -> dict[str, str]:
        made = replace(job(), cluster=replace(job().cluster, slurm=slurm, **cluster))
        said = flags(Point.of(made, tmp_path))
        options = [line[len("#SBATCH --") :].partition("=") for line in said]
        return {name: value for name, _, value in options if name in ("cpus-per-task", "mem")}

    # four ranks: half a GB each, the agent's two and twice the weights; eight of GPUs, 4 GB each
    assert asked(None) == {"cpus-per-task": "4", "mem": "8G"}
    assert asked({"gpus_per_node": 8}, ranks_per_node=8, device="auto") == {
        "cpus-per-task": "8",
        "mem": "64G",
    }
    assert asked({"gres": "gpu:h100:8"}, ranks_per_node=8, device="cpu")["mem"] == "8G"
    for site in ({"mem": "site", "cpus_per_task": "site"}, {"mem_per_cpu": "1G", "mem": None}):
        assert "mem" not in asked(site)
    assert asked({"cpus_per_gpu": 6, "gpus_per_task": 1, "mem": "site"}) == {}
    assert asked({"mem": "0", "cpus_per_task": 6}) == {"cpus-per-task": "6", "mem": "0"}
    wide = replace(SMALL, hidden_size=1 << 14, ffn_hidden_size=1 << 16)
    large = Point.of(replace(job(model=wide), cluster=replace(job().cluster, slurm={})), tmp_path)
    (mem,) = (line for line in flags(large) if "--mem=" in line)
    setup = Setup.of(large.job)
    weights = sum(map(sum, memory.needed(setup.catalogue, setup.placement, range(4)))) / 1e9
    assert weights > 8 and 4 + 2 * weights <= int(mem.split("=")[1][:-1]) < 2 * (4 + 2 * weights)


def test_flags_mean_what_they_say(tmp_path: Path) -> None:
    def said(value: bool) -> list[str]:
        asked = {"exclusive": value, "additional_parameters": {"no-requeue": value}}
        return [
            line for line in flags(asking(tmp_path, asked)) if "exclu" in line or "requ" in line
        ]

    assert said(True) == ["#SBATCH --exclusive", "#SBATCH --no-requeue"] and not said(False)


def test_a_sweep_has_one_limit_for_its_jobs(tmp_path: Path) -> None:
    points = [asking(tmp_path, {"array_parallelism": n, "mem": f"{n}G"}) for n in (4, 4, 9)]
    assert slurm.at_once(points[:2]) == 4 and slurm.at_once([asking(tmp_path, None)]) == 256
    with pytest.raises(UserError, match=r"array_parallelism is of the whole sweep, .* 4 and 9;"):
        slurm.at_once(points)
    made = slurm.executor(points[0], tmp_path, Path("/code's"), 3, ["12", "14"])
    said = submitit_side.sbatch_text(made, jobs=7).splitlines()
    assert "#SBATCH --array=0-6%3" in said and "#SBATCH --dependency=afterany:12:14" in said
    path = """export PYTHONPATH='/code'"'"'s'"${PYTHONPATH:+:$PYTHONPATH}:$PWD\""""
    assert path in said and "export PYTHONSAFEPATH=1" in said


def test_a_step_has_what_its_job_has(tmp_path: Path) -> None:
    for asked in ({"cpus_per_task": 6}, {"additional_parameters": {"cpus-per-task": 6}}):
        said = flags(asking(tmp_path, {**asked, "python": "apptainer exec a.sif python"}))
        assert "#SBATCH --cpus-per-task=6" in said
        (srun,) = (line for line in said if line.startswith("srun "))
        assert "--export=ALL --cpus-per-task=6 " in srun
        assert " apptainer exec a.sif python -u -m submitit" in srun


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("abc", r"cluster\.slurm='abc' is not a mapping"),
        ({"foo": 1}, r"cluster\.slurm: Unavailable parameter\(s\): \['foo'\]"),
        ({"setup": "module load x"}, r"setup='module load x' is not a list of strings; write"),
        ({"srun_args": "--mpi=none"}, r"srun_args='--mpi=none' is not a list of strings"),
        ({"teardown": ["sync", 3]}, r"teardown=\['sync', 3\] is not a list of strings"),
        ({"additional_parameters": "x"}, r"additional_parameters='x' is not a mapping"),
        ({"array_parallelism": 0}, r"array_parallelism=0: must be a whole number, 1 or more"),
        ({"array_parallelism": "4"}, r"array_parallelism='4': must be a whole number, 1 or more"),
        ({"python": 3}, r"python=3 is not text; YAML may have made it so"),
        ({"nodes": 5}, r"cannot say nodes: a job has one task on each of the nodes"),
        ({"additional_parameters": {"ntasks-per-node": 2}}, "cannot say ntasks_per_node"),
    ],
)
def test_what_cannot_be_asked_for(asked: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        slurm.executor(asking(tmp_path, asked), tmp_path)


@pytest.mark.parametrize(
    "name", ["nodes", "ntasks", "ntasks_per_node", "use_srun", "map_count", "array", "output"]
)
def test_what_the_layouts_decide_cannot_be_asked_for(name: str, tmp_path: Path) -> None:
    for asked in ({name: 1}, {"additional_parameters": {name.replace("_", "-"): 1}}):
        with pytest.raises(UserError, match=f"cannot say {name}: a job has one task on each"):
            slurm.executor(asking(tmp_path, asked), tmp_path)


@pytest.mark.parametrize("letter", ["%", "\\", "\n"])
def test_a_folder_whose_name_means_something_to_sbatch(letter: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)cannot have Slurm write to .* choose another folder"):
        slurm.executor(asking(tmp_path, {}), tmp_path / f"a{letter}j")


def test_points_that_ask_for_the_same_are_one_array(tmp_path: Path) -> None:
    time, no_time, wider = {"time": "1:00:00"}, {"time": None}, {"time": "1:00:00", "mem": "9G"}
    points = [asking(tmp_path, asked) for asked in (time, no_time, None, time, wider)]
    assert [list(map(points.index, g)) for g in slurm.groups(points).values()] == [
        [0, 0],  # the fourth is the first
        [1, 2],
        [4],
    ]
    names = {
        "1 node(s), time=1:00:00, mem=8G": 2,
        "1 node(s), time=None, mem=8G": 2,
        "1 node(s), time=1:00:00, mem=9G": 1,
    }
    assert {name: len(g) for name, g in slurm.labelled(points).items()} == names
    assert list(slurm.labelled(points[:1])) == ["1 node(s)"]


def test_arrays_are_split_at_what_the_cluster_allows(tmp_path: Path) -> None:
    points = [Point.of(replace(job(), seed=seed), tmp_path) for seed in range(7)]

    def numbers(pack_size: int, largest: int) -> list[list[list[int]]]:
        arrays = slurm.split(points, pack_size, largest)
        return [[[p.job.seed for p in pack] for pack in array] for array in arrays]

    assert numbers(3, 2) == [[[0, 1, 2], [3, 4, 5]], [[6]]]
    assert numbers(1, 3) == [[[0], [1], [2]], [[3], [4], [5]], [[6]]]
    assert numbers(10, 1) == [[list(range(7))]]
    assert slurm.split([], 3, 2) == []


def test_what_is_missing_of_slurm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for missing in ("scontrol", "sbatch", "srun", "squeue", "scancel"):
        with pytest.raises(UserError, match=f"and {missing} is not on PATH; run on a login node"):
            clients.check()
        (tmp_path / missing).write_text("#!/bin/sh\necho 'Slurmctld(primary) at here is DOWN'\n")
        (tmp_path / missing).chmod(0o755)
    with pytest.raises(UserError, match=r"no Slurm controller answers: Slurmctld\(primary\) at he"):
        clients.check()
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Slurmctld(primary) at here is UP'\n")
    clients.check()


def test_a_status_is_of_the_point_and_of_its_attempt(tmp_path: Path) -> None:
    point = Point.of(job(), tmp_path)
    assert status.get(point) == status.Standing("pending", "", "", "")
    status.put(point, "running", "0", "12")
    first = status.get(point)
    assert (first.state, first.attempt, first.slurm_id) == ("running", "0", "12")
    assert datetime.fromisoformat(first.at).tzinfo is not None
    status.put(point, "ok", "1", "13")
    attempts = {
        folder.name: json.loads((folder / "status.json").read_text())
        for folder in (point.directory / "attempts").iterdir()
    }
    assert attempts["0"] == {"state": "running", "attempt": "0", "slurm_id": "12", "at": first.at}
    assert (attempts["1"]["state"], attempts["1"]["slurm_id"]) == ("ok", "13")
    assert json.loads((point.directory / "status.json").read_text()) == attempts["1"]
    assert not first.is_final and status.get(point).is_final


def test_status_of_every_kind_of_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queued, here, there, impossible, untouched = (
        Point.of(replace(job(), seed=seed), tmp_path) for seed in range(5)
    )
    for point in (queued, here, there, untouched):
        point.freeze()
    status.put(queued, "submitted", "0", "12_3")
    status.put(there, "ok", "0", "12_4")
    for point in (here, there):
        write(point.timing, ended(begin(point, {}), "ok", ""))
    impossible.directory.mkdir()
    write(impossible.timing, ended(begin(impossible, {}), "skipped", "too large"))
    assert status.main([str(tmp_path)]) == 0
    *lines, counts = capsys.readouterr().out.splitlines()
    assert {line.split()[2]: tuple(line.split()[:2]) for line in lines} == {
        queued.name: ("submitted", "12_3"),
        here.name: ("ok", "-"),
        there.name: ("ok", "12_4"),
        impossible.name: ("skipped", "-"),
        untouched.name: ("pending", "-"),
    }
    most, *others = counts.split(", ")
    assert most == "2 ok" and sorted(others) == ["1 pending", "1 skipped", "1 submitted"]
    with pytest.raises(UserError, match="no points in"):
        status.main([str(tmp_path / "none")])
    # what is damaged is not ok
    there.timing.write_text(there.timing.read_text()[:100])
    here.timing.write_text("")
    status.main([str(tmp_path)])
    found = dict(line.split()[2::-2] for line in capsys.readouterr().out.splitlines()[:-1])
    assert found[there.name] == found[here.name] == "damaged" and found[queued.name] == "submitted"
