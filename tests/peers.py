"""Megatron's refit of a second model in one process group: `refit.method=tests.peers:AfterAnother`.

A training loop that refits two models of the same degrees has both in one process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from refit.job import Degrees, Job, Refit
from refit.layout.layout import place
from refit.plan.plan import Plan
from refit.transport import megatron
from refit.weights import models
from refit.weights.weights import Weights
from tests.jobs import TINY, job

SIDES = (Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, ep=2, etp=1, gpus=2))
MOE = replace(TINY, name="moe", moe_router_enable_expert_bias=False)


def second(method: str) -> Job:
    """The job whose weights are refitted second, by one of the classes below."""
    return job(*SIDES, model=MOE, method=f"tests.peers:{method}", build="megatron",
               ranks_per_node=8)  # fmt: skip


def first() -> Job:
    """The other: as many experts, the same degrees, and layers as well as weights of its own."""
    return replace(second("AfterAnother"), model=replace(MOE, num_layers=1, moe_layer_freq=[1]))


class AfterAnother(megatron.Transport):
    """The peer, in processes in which it has refitted another model before."""

    def prepare(
        self, plan: Plan, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        before, placement = first(), place(first())
        built = [
            models.build(before, placement, side, rank, None) for side in ("source", "destination")
        ]
        other = megatron.Transport(Refit(name="megatron", method="megatron"))
        source_before, destination_before = (b.weights if b else None for b in built)
        other.prepare(plan, rank, source_before, destination_before)
        other.execute()
        self.end(other)
        super().prepare(plan, rank, source, destination)

    def end(self, other: Any) -> None:
        other.close()


class AfterAnotherUnclosed(AfterAnother):
    """What comes of it where nobody clears Megatron's caches."""

    def end(self, other: Any) -> None:
        pass
