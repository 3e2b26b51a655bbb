"""What a rank is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass

from refit.job import Job
from refit.record.point import Attempt
from refit.record.record import Record
from refit.weights.slab import Slab


@dataclass(frozen=True)
class Task:
    """All that a rank is told. Rank 0 gets the record begun by the agent, and finishes it."""

    job: Job
    attempt: Attempt
    rank: int
    world: int
    host: str
    port: int
    threads: int
    slab: Slab  # memory for its source and destination
    begun: Record | None
