"""mode=plan: one point's record without ranks: who sends what, does it fit, floor and estimate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from refit.forecast import cost
from refit.job import Job, UserError
from refit.layout.layout import IntArray, Layout, Placement
from refit.model.weight_bytes import per_rank_bytes
from refit.plan.plan import Plan
from refit.record import environment, record
from refit.record.parts import DeviceMemory, Forecast
from refit.record.point import Point
from refit.record.record import Record
from refit.rules import methods
from refit.rules.setup import Setup


@dataclass(frozen=True)
class Prediction:
    """What is known of a refit before it runs.

    Attributes:
        source_bytes, destination_bytes, staging_bytes: [world], what each rank holds.
        floor, estimate: None where the cluster does not state the rates.
        missing: the rates it does not state.
    """

    setup: Setup
    plan: Plan
    traffic: cost.Traffic
    source_bytes: IntArray
    destination_bytes: IntArray
    staging_bytes: IntArray
    floor: cost.Floor | None
    estimate: cost.Estimate | None
    missing: str | None

    @property
    def job(self) -> Job:
        """Of the setup."""
        return self.setup.job

    @property
    def placement(self) -> Placement:
        """Of the setup."""
        return self.setup.placement

    @property
    def held_bytes(self) -> IntArray:
        """[world]: weights of both sides and staging."""
        return self.source_bytes + self.destination_bytes + self.staging_bytes

    @property
    def shortage(self) -> str | None:
        """Why the fullest rank does not fit its device, or None."""
        limit, rank = self.job.cluster.hardware.memory_gb, int(self.held_bytes.argmax())
        if limit is None or self.held_bytes[rank] <= limit * 1e9:
            return None
        parts = [
            f"{name} {getattr(self, f'{name}_bytes')[rank] / 1e9:.2f}"
            for name in ("source", "destination", "staging")
        ]
        return (
            f"rank {rank} needs {self.held_bytes[rank] / 1e9:.2f} GB of device memory"
            f" ({' + '.join(parts)}), cluster '{self.job.cluster.name}' has {limit:g} GB; use more"
            " GPUs per layout, non-collocated mode, or a smaller refit.bucket_mb"
        )

    def forecast(self) -> Forecast:
        """The record's `prediction`."""
        hardware, traffic = self.job.cluster.hardware, self.traffic
        per_rank = {
            "send_bytes": traffic.sent_bytes,
            "recv_bytes": traffic.received_bytes,
            "cross_node_send_bytes": traffic.far_out_bytes,
            "cross_node_recv_bytes": traffic.far_in_bytes,
            "source_bytes": self.source_bytes,
            "destination_bytes": self.destination_bytes,
            "staging_bytes": self.staging_bytes,
        }
        limit = hardware.memory_gb
        return Forecast(
            per_rank={name: values.tolist() for name, values in per_rank.items()},
            memory=DeviceMemory(
                max_bytes=int(self.held_bytes.max()),
                device_bytes=None if limit is None else int(limit * 1e9),
                fits=None if limit is None else self.shortage is None,
            ),
            floor=_with_total(self.floor),
            estimate=_with_total(self.estimate),
            missing=self.missing,
        )


def unpredictable(setup: Setup) -> str | None:
    """Why nothing can be said of a method without ranks, or None."""
    method = methods.METHODS.get(setup.method)
    if method is None or not method.plans_itself:
        return None
    return (
        f"refit={setup.method} carries out a plan of its own, which is made from real models on"
        " real ranks; mode=plan cannot say what it would move; use mode=measure, whose record has"
        " it, or another method"
    )


def predict(setup: Setup, plan: Plan | None = None) -> Prediction:
    """Say what a refit costs; nothing is run, and nothing of this machine is asked.

    Args:
        plan: another than the setup's own.

    Raises:
        UserError: the method plans for itself.
    """
    if reason := unpredictable(setup):
        raise UserError(reason)
    job, method, plan = setup.job, setup.method, plan or setup.plan()
    traffic, hardware = cost.Traffic.of(plan), job.cluster.hardware
    hops = [cost.Traffic.of(copies) for copies in plan.hops]
    missing = cost.lacking(hardware, plan)
    floor = estimate = None
    if missing is None:
        floor = cost.floor(plan, traffic, hardware)
        features = cost.total([cost.features(t, hardware, method, job.refit) for t in hops])
        estimate = cost.estimate(features, cost.fit_of(hardware, method))
    staging = np.zeros(plan.placement.world, dtype=np.int64)
    return Prediction(
        setup=setup,
        plan=plan,
        traffic=traffic,
        source_bytes=_weight_bytes(plan, plan.placement.source),
        destination_bytes=_weight_bytes(plan, plan.placement.destination),
        staging_bytes=sum((t.staging_bytes(method, job.refit) for t in hops), staging),
        floor=floor,
        estimate=estimate,
        missing=missing,
    )


def _weight_bytes(plan: Plan, side: Layout) -> IntArray:
    """[world]: weights of one side on each rank, 0 outside of it."""
    held = np.zeros(plan.placement.world, dtype=np.int64)
    held[side.offset : side.offset + side.gpus] = per_rank_bytes(plan.catalogue, side)
    return held


def predict_point(point: Point) -> Record:
    """The agent's counterpart: predict a point and write its timing.json.

    A layout whose weights do not fit the device's memory ends as `oom`, with all its numbers; a
    method that plans for itself is `unsupported`. A record that the disk refuses is returned as
    failed.

    Raises:
        UserError: the job is impossible, or the point's folder cannot be made.
    """
    point.freeze()
    begun = record.begin(point, dict(_here()))
    setup = Setup.of(point.job)
    if reason := unpredictable(setup):
        final = record.ended(replace(begun, method=setup.method), "unsupported", reason)
    else:
        final = _record(begun, predict(setup))
    return record.keep(final, point.timing)


@cache
def _here() -> dict[str, Any]:
    """This machine and code, asked once per process and not once per point of a sweep."""
    return environment.describe()


def _record(begun: Record, prediction: Prediction) -> Record:
    setup, plan = prediction.setup, prediction.plan
    placed = record.placed(begun, setup.placement, plan, setup.method, setup.why, setup.build)
    placed = replace(placed, prediction=prediction.forecast())
    if reason := methods.not_there(setup.method):
        return record.ended(placed, "unsupported", reason)
    if reason := prediction.shortage:
        return record.ended(placed, "oom", reason)
    return record.ended(placed, "ok", "")


def _with_total(terms: cost.Floor | cost.Estimate | None) -> dict[str, float] | None:
    return None if terms is None else {"seconds": terms.seconds, **asdict(terms)}
