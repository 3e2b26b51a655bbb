"""Megatron's refit of a second model in one process group: `tests.support.peers:AfterAnother`.

A training loop that refits two models of the same degrees has both in one process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from refit.job import Degrees, Job, Refit
from refit.plan.copies import Copies
from refit.rules.setup import Setup
from refit.transport.megatron import MegatronTransport
from refit.weights import models
from refit.weights.weights import Weights
from tests.support.jobs import TINY, job

SIDES = (Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, ep=2, etp=1, gpus=2))
MOE = replace(TINY, name="moe", moe_router_enable_expert_bias=False)


def second(method: str) -> Job:
    """The job whose weights are refitted second, by one of the classes below."""
    return job(*SIDES, model=MOE, method=f"tests.support.peers:{method}", build="megatron",
               ranks_per_node=8)  # fmt: skip


def first() -> Job:
    """The other: as many experts, the same degrees, and layers as well as weights of its own."""
    return replace(second("AfterAnother"), model=replace(MOE, num_layers=1, moe_layer_freq=[1]))


class AfterAnother(MegatronTransport):
    """The peer, in processes in which it has refitted another model before."""

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        before = Setup.of(first())
        placement, tensors = before.placement, before.catalogue
        sides = ("source", "destination")
        source_before, destination_before = (
            models.build(before.job, placement, side, tensors, rank, None) for side in sides
        )
        other = MegatronTransport(Refit(name="megatron", method="megatron"))
        other.prepare(copies, rank, source_before, destination_before)
        other.execute()
        self._end(other)
        super().prepare(copies, rank, source, destination)

    def _end(self, other: Any) -> None:
        other.close()


class AfterAnotherUnclosed(AfterAnother):
    """What comes of it where nobody clears Megatron's caches."""

    def _end(self, other: Any) -> None:
        pass
