"""Points in packs: each is run exactly once, and each pack is one job."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import ROW_4, Sweep


def test_each_point_of_two_packs_is_run_once(cluster: Cluster, tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "results", (ROW_4, "seed=range(0,6)"))
    code, said = sweep.run("sweep.pack=3")
    assert code == 0, said
    records, standings = sweep.records(), sweep.states()
    assert sorted(r["config"]["seed"] for r in records.values()) == list(range(6))
    assert {s["state"] for s in standings.values()} == {"ok"}
    jobs = Counter(s["slurm_id"] for s in standings.values())
    assert sorted(jobs.values()) == [3, 3]
    assert len({job.split("_")[0] for job in jobs}) == 1  # one array
    assert list(sweep.attempts().values()) == [["0"]] * 6
    # one after another, so that none disturbs the others' times
    for job in jobs:
        spans = sorted(
            (r["started_at"], r["finished_at"])
            for name, r in records.items()
            if standings[name]["slurm_id"] == job
        )
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_repetitions_of_two_methods_run_in_turn(cluster: Cluster, tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "results", (ROW_4, "refit=ipc,gloo"))
    code, said = sweep.run("sweep.repeat=2", "sweep.interleave=true", "sweep.pack=4")
    assert code == 0, said
    records = sorted(sweep.records().values(), key=lambda record: record["started_at"])
    assert [record["method"] for record in records] == ["ipc", "gloo", "ipc", "gloo"]
    assert len({s["slurm_id"] for s in sweep.states().values()}) == 1  # one job of the four
