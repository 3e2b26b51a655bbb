"""How many jobs of each shape run at once: together as many as the sweep may have, or fewer."""

from __future__ import annotations

import inspect
import random

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from sweeper.lanes import DEFAULT, lanes


@pytest.mark.parametrize(
    ("jobs", "at_once", "expected"),
    [
        ([10], 4, [(4, (0,))]),
        ([2], 4, [(2, (0,))]),
        ([3, 1], 4, [(3, (0,)), (1, (1,))]),
        ([30, 10], 8, [(6, (0,)), (2, (1,))]),
        ([100, 1], 8, [(7, (0,)), (1, (1,))]),
        ([5, 5, 5], 2, [(1, (0, 2)), (1, (1,))]),
        ([5, 9, 1], 1, [(1, (0, 1, 2))]),
        ([4, 4, 4], 7, [(3, (0,)), (2, (1,)), (2, (2,))]),
        ([2, 30, 10], 8, [(1, (0,)), (5, (1,)), (2, (2,))]),  # remainders 0.13, 0.72 and 0.15
    ],
)
def test_lanes(jobs: list[int], at_once: int, expected: list[tuple[int, tuple[int, ...]]]) -> None:
    assert [(lane.at_once, lane.shapes) for lane in lanes(jobs, at_once)] == expected


def test_where_nothing_is_said_it_is_what_submitit_has() -> None:
    said = inspect.signature(_make_sbatch_string).parameters["array_parallelism"]
    assert DEFAULT == said.default == 256


def test_together_they_are_never_more() -> None:
    draw = random.Random(12)
    for _ in range(500):
        jobs = [draw.randint(1, 40) for _ in range(draw.randint(1, 9))]
        at_once = draw.randint(1, 60)
        found = lanes(jobs, at_once)
        assert sorted(n for lane in found for n in lane.shapes) == list(range(len(jobs)))
        assert all(lane.at_once >= 1 for lane in found)
        most = sum(lane.at_once for lane in found)
        assert most <= at_once
        if len(jobs) <= at_once:  # and as many as there may be
            assert most == min(at_once, sum(jobs))
