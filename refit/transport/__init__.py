"""Transports: what carries out a plan. One file per method, each with a class `Transport`.

What a method needs of the machine stands in `refit.methods`, which does not import torch.
"""

from __future__ import annotations

from typing import Protocol

from refit.job import Refit
from refit.plan import Plan
from refit.weights import Weights


class Transport(Protocol):
    """Moves one rank's part of a plan. All ranks, idle ones too, call each method in one order.

    One that has something to say of itself has a property `details`, a dictionary of numbers and
    texts, for the record's `transport`.
    """

    def __init__(self, refit: Refit) -> None: ...

    def prepare(
        self, plan: Plan, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        """Once: buffers, handles, registration."""

    def execute(self) -> dict[str, float]:
        """One refit. Returns seconds per phase; this rank's destination is usable on return."""

    @property
    def staging_bytes(self) -> int:
        """Memory held besides the weights themselves."""

    def close(self) -> None:
        """Give everything back."""
