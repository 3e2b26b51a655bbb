"""What a poll asks of Slurm, whose commands are scripts here, and what becomes of its answers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Degrees, Job
from refit.record.point import Point
from refit.record.record import Record, begin, ended, write
from refit.rules.methods import cannot_anywhere
from refit.show.display import Display
from sweeper import distant, status, watch
from sweeper.agreement import Settings
from sweeper.decisions import GONE_POLLS
from sweeper.points import Planned, SweepPlan
from sweeper.submission import How, submit
from tests.support.jobs import job

SETTINGS = Settings(
    mode="retry", dry_run=False, interleave=False, wait=True, here=False, pack=1, max_attempts=3,
    snapshot=True,
)  # fmt: skip
TOOLS = {
    "scontrol": "echo 'Slurmctld(primary) at here is UP'; echo 'MaxArraySize = 1001'",
    "squeue": "case $* in *all*) cat $(dirname $0)/ended;; *) cat $(dirname $0)/queue;; esac",
    "sacct": "",
    "srun": "",
    "scancel": "",
    "sbatch": "echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Slurm's commands: `queue` is what it has, `ended` also what it knows of."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in TOOLS.items():
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {folder}/asked\n{text}\n")
        (folder / name).chmod(0o755)
    for name in ("queue", "ended", "asked"):
        (folder / name).touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def submitted(root: Path, count: int, slurm: Any = None) -> list[Point]:
    cluster = replace(job().cluster, launcher="slurm", slurm=slurm or {})
    points = [Point.of(replace(job(), seed=seed, cluster=cluster), root) for seed in range(count)]
    for number, point in enumerate(points):
        point.freeze()
        status.put(point, "submitted", "0", f"12_{number}")
    return points


def test_jobs_that_end_together_are_asked_for_by_one_call(slurm: Path, tmp_path: Path) -> None:
    points = submitted(tmp_path / "results", 60)
    (slurm / "ended").write_text("".join(f"12_{n}|FAILED\n" for n in range(60)))
    how = How(tmp_path / "results", 1)
    watch._Watch(points, how, SETTINGS, print).follow(lambda _: None)
    assert (slurm / "asked").read_text().split() == ["squeue", "squeue"] * GONE_POLLS
    reasons = [found.reason for p in points if (found := Record.find(p.timing))]
    assert len(reasons) == 60 and all("Slurm says FAILED of job 12_" in r for r in reasons)
    assert all(f"do its nodes see {tmp_path}/results? results are" in r for r in reasons)


def test_a_record_that_is_seen_late_is_the_points(slurm: Path, tmp_path: Path) -> None:
    # as over NFS: the job has left the queue, and what it wrote comes into sight a poll later
    points = submitted(tmp_path / "results", 2)
    (slurm / "ended").write_text("12_0|FAILED\n12_1|COMPLETED\n")
    seen: list[list[str]] = []

    def show(standings: watch.Standings) -> None:
        seen.append([standing.state for standing in standings.values()])
        if len(seen) == 2:
            write(points[1].attempt("0").timing, ended(begin(points[1], {}), "ok", ""))

    watch._Watch(points, How(tmp_path / "results", 1), SETTINGS, print).follow(show)
    assert seen == [["submitted"] * 2, ["submitted"] * 2, ["crashed", "ok"]]
    assert Record.load(points[1].timing).status == "ok"
    assert not [path for path in tmp_path.rglob("tmp*") if path.is_file()]


def test_what_no_machine_can_do_is_not_submitted(slurm: Path, tmp_path: Path) -> None:
    two = Degrees(tp=8, ep=1, etp=1)
    wide = replace(job().parallel, source=two, destination=two, name="two")
    cluster = replace(job().cluster, launcher="slurm", nodes=4, ranks_per_node=4, slurm={})

    def of(method: str) -> Job:
        made = replace(job(), parallel=wide, cluster=cluster)
        return replace(made, refit=replace(made.refit, method=method))

    cannot = {
        name: cannot_anywhere(of(name)) for name in ("ipc", "symmetric", "gloo", "auto", "a:B")
    }
    assert [name for name, reason in cannot.items() if reason] == ["ipc", "symmetric"]
    points = [Point.of(of("ipc"), tmp_path / "results")]
    plan = SweepPlan(SETTINGS, tuple(map(Planned, points)))
    how = How(tmp_path / "results", 1)
    queued, made = distant.queue(points, how, plan, Display())
    assert queued == [] and "sbatch" not in (slurm / "asked").read_text()
    (record,) = made.values()
    assert record.status == "unsupported" and "ipc needs one node, and this point" in record.reason
    assert status.get(points[0]).state == "unsupported" and Record.find(points[0].timing)


def test_what_slurm_will_never_take_is_an_error_and_what_it_may_waits(
    slurm: Path, tmp_path: Path
) -> None:
    root, told = tmp_path / "results", list[str]()
    points = submitted(root, 5)
    before = ended(begin(points[0], {}), "failed", "earlier")
    write(points[0].timing, before)
    status.put(points[0], "failed", "0", "11")
    how = How(root, 2, say=told.append)
    with pytest.raises(
        UserError, match=r"AssocMaxSubmitJobLimit; with nothing else .* of 3 jobs; "
    ):
        submit(points, how)
    (slurm / "queue").write_text("7|RUNNING|None|other (null)\n")
    for _ in range(2):
        done = submit(points, how)
        assert done.waiting == points and done.queued == 1 and not done.refused
    assert len(told) == 1 and told[0].startswith("5 points wait to be submitted, as there is room")
    # of an earlier record no more is said; nothing is left of what was tried
    assert {status.get(point).state for point in points} == {"pending"}
    assert not list((root / ".submitit").glob("*"))
    assert all(len(list((p.directory / "attempts").iterdir())) <= 1 for p in points)
