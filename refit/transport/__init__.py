"""Transports: what carries out a plan. One file per method, each with a class `Transport`.

What a method needs of the machine stands in `refit.rules.methods`, which does not import torch.
"""

from __future__ import annotations

from typing import Protocol

from refit.job import Refit
from refit.plan.plan import Plan
from refit.weights.weights import Weights


class Unsupported(Exception):
    """What was asked cannot be done by this transport here; its text says why and the way out.

    For what shows only on the ranks; `refit.rules.methods` says what is known before they start.
    """


class Transport(Protocol):
    """Moves one rank's part of a plan. All ranks, idle ones too, call each method in one order.

    A class with `plans_itself = True` carries out a plan of its own, made in `prepare`, and not the
    one that it is given; its cold refit is then timed without ours. Its `plan_s` is the seconds of
    `prepare` that went into planning, and its `moved`, if it has one, what this rank moved in one
    refit: that is the record's `plan` then, which is null without.

    One that has something to say of itself has a property `details`, a dictionary of numbers and
    texts, for the record's `transport`.
    """

    def __init__(self, refit: Refit) -> None: ...

    def prepare(
        self, plan: Plan, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        """Once: buffers, handles, registration.

        Raises:
            Unsupported: it cannot; on all ranks or on some, whose reason is then the point's.
        """

    def execute(self) -> dict[str, float]:
        """One refit. Returns seconds per phase; this rank's destination is usable on return."""

    @property
    def staging_bytes(self) -> int | None:
        """Memory held besides the weights themselves; None where it is not known."""

    def close(self) -> None:
        """Give everything back."""
