"""What is asked of sbatch, and where points stand on disk; nothing here needs Slurm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import UserError
from refit.record.point import Point
from refit.record.record import begin, ended, write
from sweeper import slurm, status
from tests.jobs import job


def asking(root: Path, slurm: Any) -> Point:
    """A point whose `cluster.slurm` is this."""
    made = job()
    return Point.of(replace(made, cluster=replace(made.cluster, slurm=slurm)), root)


def flags(point: Point) -> list[str]:
    """The lines of its sbatch file."""
    text = slurm.executor(point, point.directory)._make_submission_file_text("true", "test")
    return str(text).splitlines()


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
    assert "--kill-on-bad-exit=1 --mpi=none" in srun


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("abc", r"cluster\.slurm='abc' is not a mapping"),
        ({"foo": 1}, r"cluster\.slurm: Unavailable parameter\(s\): \['foo'\]"),
        ({"setup": "module load x"}, r"setup='module load x' is not a list of strings; write"),
        ({"srun_args": "--mpi=none"}, r"srun_args='--mpi=none' is not a list of strings"),
        ({"additional_parameters": "x"}, r"additional_parameters='x' is not a mapping"),
        ({"array_parallelism": 0}, r"array_parallelism=0: must be a whole number, 1 or more"),
        ({"nodes": 5}, r"cannot say nodes: a job has one task on each of the nodes"),
        ({"additional_parameters": {"ntasks-per-node": 2}}, "cannot say ntasks_per_node"),
    ],
)
def test_what_cannot_be_asked_for(asked: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        slurm.executor(asking(tmp_path, asked), tmp_path)


def test_status_of_every_kind_of_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queued, here, impossible, untouched = (
        Point.of(replace(job(), seed=seed), tmp_path) for seed in range(4)
    )
    for point in (queued, here, untouched):
        point.freeze()
    status.put(queued, "submitted", "0", "12_3")
    write(here.timing, ended(begin(here, {}), "ok", ""))
    impossible.directory.mkdir()
    write(impossible.timing, ended(begin(impossible, {}), "skipped", "too large"))
    assert status.main([str(tmp_path)]) == 0
    *lines, counts = capsys.readouterr().out.splitlines()
    assert {line.split()[2]: tuple(line.split()[:2]) for line in lines} == {
        queued.name: ("submitted", "12_3"),
        here.name: ("ok", "-"),
        impossible.name: ("skipped", "-"),
        untouched.name: ("pending", "-"),
    }
    assert counts == "1 " + ", 1 ".join(line.split()[0] for line in lines)
    with pytest.raises(UserError, match="no points in"):
        status.main([str(tmp_path / "none")])
