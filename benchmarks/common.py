"""What the benchmarks share: a job as the command line composes it, run through a real agent."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from refit import compose
from refit.job import Job
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.record.record import Record


def job(*overrides: str) -> Job:
    """The job of some command-line overrides."""
    with compose.configs():
        return compose.job(overrides)


def run(jobs: Sequence[Job]) -> list[Record]:
    """Run jobs one after another through one agent; every record must be ok."""
    with tempfile.TemporaryDirectory() as folder, Agent(jobs) as agent:
        records = [agent.measure_point(Point.of(j, Path(folder))) for j in jobs]
    for record in records:
        if record.status != "ok":
            raise SystemExit(f"{record.name}: {record.status}: {record.reason}")
    return records
