"""What a rank is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass

from refit.record.point import Attempt
from refit.rules.setup import Setup
from refit.weights.slab import Slab


@dataclass(frozen=True)
class Task:
    """All that a rank is told."""

    setup: Setup
    attempt: Attempt
    rank: int
    host: str
    port: int
    threads: int
    slab: Slab  # memory for its source and destination
    meeting: Slab  # memory of its node's ranks to meet in
    neighbours: range  # global ranks of its node
    plan: Slab  # memory of its agent's ranks, for the plan that one of them makes
    of_agent: range  # global ranks of its agent: of its node, or of all that this machine pretends
