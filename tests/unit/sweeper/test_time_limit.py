"""Slurm's time limit against bench.deadline_s of the points of a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.record.point import Point
from refit.record.record import begin, ended, write
from sweeper.time_limit import remarks, seconds
from tests.support.jobs import job


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("60", 3600), (5, 300), ("1:30", 90), ("1:30:00", 5400), ("2-12", 216_000),
        ("1-0:30", 88_200), ("1-2:30", 95_400), ("1-2:03:10", 93_790),
        ("1-00:00:10", 86_410), ("UNLIMITED", None), (None, None), ("0", None),
    ],
)  # fmt: skip
def test_times_of_slurms(time: Any, expected: int | None) -> None:
    assert seconds(time) == expected


def point(root: Path, time: Any, deadline_s: float, seed: int = 0) -> Point:
    made = job(seed=seed)
    cluster = replace(made.cluster, launcher="slurm", slurm={"time": time})
    bench = replace(made.bench, deadline_s=deadline_s)
    return Point.of(replace(made, cluster=cluster, bench=bench), root)


def test_what_may_take_longer_is_said_once(tmp_path: Path) -> None:
    points = [point(tmp_path, "60", 600.0, seed) for seed in range(8)]
    assert remarks(points, 6) == [] and remarks(points[:2], 100) == []
    (said,) = remarks(points, 8)
    assert said.startswith("8 points: 8 in a job, 600 s each (bench.deadline_s), may take 4800 s")
    assert "cluster.slurm.time=60 ends the job after 3600 s" in said and "time=80 is enough" in said
    (said,) = remarks([point(tmp_path, "10:00", 601.0)], 1)
    assert said.startswith("1 points: 601 s each (bench.deadline_s), may take 601 s")
    assert remarks([point(tmp_path, None, 1e9)], 1) == []


def test_what_met_it_is_not_tried_again_without_a_word(tmp_path: Path) -> None:
    ran, again = point(tmp_path, "5", 60.0), point(tmp_path, "5", 60.0)
    longer = point(tmp_path, "6", 60.0)
    ran.directory.mkdir()
    for status, reason, words in (
        ("timeout", "Slurm says TIMEOUT of job 12, which left no record", 1),
        ("timeout", "not done after 60 s", 0),
        ("ok", "", 0),
    ):
        write(ran.timing, ended(begin(ran, {}), status, reason))  # type: ignore[arg-type]
        said = remarks([again], 1)
        assert len(said) == words, said
        assert all(f"{again.name} met the time limit of 5, and is tried again" in s for s in said)
        assert not remarks([longer], 1)
