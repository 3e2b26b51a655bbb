"""All that is derived of a job before anything runs, once, for whoever plans or runs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refit.errors import UserError
from refit.job import Job
from refit.layout.layout import Placement, Side
from refit.layout.place import place
from refit.layout.tensors import Catalogue
from refit.model.architecture import tensors_of
from refit.model.convention import Build, build_of
from refit.plan.build import build_plan
from refit.plan.plan import Plan
from refit.plan.selection import selected
from refit.rules import methods


@dataclass(frozen=True)
class Setup:
    """A job, where its ranks are, what they hold and how it travels.

    What it says of the machine (libraries, devices) is of the one that made it: node 0's for a
    measurement, and for a prediction the hardware that the cluster states.

    Attributes:
        method, why: of `refit.rules.methods`.
    """

    job: Job
    placement: Placement
    catalogue: Catalogue
    build: Build
    method: str
    why: str

    @staticmethod
    def of(job: Job) -> Setup:
        """The setup of a possible job (`refit.rules.impossible`).

        Raises:
            UserError: the job is not possible.
        """
        placement, build = place(job), build_of(job)
        tensors = tensors_of(job, placement, build.convention)
        return Setup(job, placement, tensors, build, *methods.choose(job, placement))

    def chosen(self) -> dict[str, Any]:
        """What depends on the machine, as JSON, for `as_chosen` on another node."""
        return {"method": self.method, "why": self.why, "build": asdict(self.build)}

    def as_chosen(self, chosen: dict[str, Any]) -> Setup:
        """This job's setup as another node chose it.

        Raises:
            UserError: this node would build other weights, by another megatron-core say.
        """
        here, there = self.chosen()["build"], chosen["build"]
        if here != there:
            raise UserError(f"the nodes build differently: node 0 {there}, this one {here}")
        return replace(self, method=chosen["method"], why=chosen["why"])

    def plan(self) -> Plan:
        """The plan, which every rank computes alike, so that there is nothing to gather."""
        fanout = self.job.refit.fanout
        return build_plan(self.catalogue, self.placement, fanout, self.travels, self.cast_at)

    @property
    def cast_at(self) -> list[Side]:
        """By destination, the side that casts where dtypes differ; see `methods.cast_at`."""
        return methods.cast_at(self.method, self.job, self.placement)

    @cached_property
    def travels(self) -> NDArray[np.bool_] | None:
        """[tensors]: which are moved; None where all are."""
        return selected(self.catalogue, self.job.refit)
