"""mode=plan: one point's record without ranks: who sends what, does it fit, floor and estimate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from refit.errors import UserError
from refit.forecast import cost
from refit.forecast.per_rank import Traffic
from refit.job import Job
from refit.layout.layout import IntArray, Placement
from refit.model import megatron_versions
from refit.plan.copies import Rows
from refit.plan.plan import Plan
from refit.record import environment, record
from refit.record.parts import DeviceMemory, Forecast
from refit.record.point import Point
from refit.record.record import Record
from refit.rules import methods, stated_memory
from refit.rules.setup import Setup


@dataclass(frozen=True)
class Prediction:
    """What is known of a refit before it runs.

    Attributes:
        plan: ours, whose bounds are of any plan.
        rows: what is carried out: the plan's, or those of a method that plans for itself.
        source_bytes, destination_bytes, staging_bytes: [world], what each rank holds; staging is
            None where it is not known.
        floor, estimate: None where the cluster does not state the rates; of a method that plans for
            itself there is no estimate.
        missing: the rates it does not state.
    """

    setup: Setup
    plan: Plan
    rows: Rows
    traffic: Traffic
    source_bytes: IntArray
    destination_bytes: IntArray
    staging_bytes: IntArray | None
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
        """[world]: weights of both sides, and staging where it is known."""
        held = self.source_bytes + self.destination_bytes
        return held if self.staging_bytes is None else held + self.staging_bytes

    @property
    def shortage(self) -> str | None:
        """Why the fullest rank does not fit its device, or None."""
        bytes_held = {"source": self.source_bytes, "destination": self.destination_bytes}
        if self.staging_bytes is not None:
            bytes_held["staging"] = self.staging_bytes
        return stated_memory.shortage(self.job, bytes_held)

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
        }
        if self.staging_bytes is not None:
            per_rank["staging_bytes"] = self.staging_bytes
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
    if reason := method.refuses(setup.job):
        return reason
    if method.planner:
        return megatron_versions.unusable()
    return (
        f"refit={setup.method} carries out a plan of its own, which megatron-core"
        f" {megatron_versions.VERSION} makes from real models on real ranks; mode=plan says what it"
        " moves with megatron-core 0.19, mode=measure with any"
    )


def predict(setup: Setup, plan: Plan | None = None) -> Prediction:
    """Say what a refit costs; nothing is run, and nothing of this machine is asked.

    Args:
        plan: another than the setup's own.

    Raises:
        UserError: the method plans for itself, and cannot do so without ranks or refuses the pair.
    """
    if reason := unpredictable(setup):
        raise UserError(reason)
    job, method, plan = setup.job, setup.method, plan or setup.plan()
    hardware, missing = job.cluster.hardware, cost.lacking(job.cluster.hardware, plan)
    plans_itself = methods.plans_itself(method)
    rows = methods.planned(setup) if plans_itself else plan
    hops = [] if plans_itself else [Traffic.of(copies) for copies in plan.hops]
    floor = estimate = staging_bytes = None
    if missing is None:
        floor = cost.floor(plan, Traffic.of(plan), hardware)
    if missing is None and hops:
        features = cost.total([cost.features(t, hardware, method, job.refit) for t in hops])
        estimate = cost.estimate(features, cost.fit_of(hardware, method))
    if hops:
        staging_bytes = np.sum([t.staging_bytes(method, job.refit) for t in hops], axis=0)
    weights = stated_memory.held(plan.catalogue, plan.placement)
    return Prediction(
        setup=setup,
        plan=plan,
        rows=rows,
        traffic=Traffic.of(rows),
        source_bytes=weights["source"],
        destination_bytes=weights["destination"],
        staging_bytes=staging_bytes,
        floor=floor,
        estimate=estimate,
        missing=missing,
    )


def estimate_s(setup: Setup, plan: Plan) -> float | None:
    """Seconds of the estimate, of a refit that is measured; None where `predict` has none.

    Args:
        plan: the setup's own.
    """
    if cost.lacking(setup.job.cluster.hardware, plan) or methods.plans_itself(setup.method):
        return None
    terms = predict(setup, plan).forecast().estimate
    return terms["seconds"] if terms else None


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
    try:
        final = _record(begun, predict(setup))
    except UserError as error:
        final = record.ended(replace(begun, method=setup.method), "unsupported", str(error))
    return record.keep(final, point.timing)


@cache
def _here() -> dict[str, Any]:
    """This machine and code, asked once per process and not once per point of a sweep."""
    return environment.of_controller()


def _record(begun: Record, prediction: Prediction) -> Record:
    setup, plan = prediction.setup, prediction.plan
    placed = record.placed(
        begun, setup.job.model, setup.placement, plan, setup.method, setup.why, setup.build
    )
    if prediction.rows is not plan:
        numbers = record.numbers(prediction.rows, [prediction.rows], plan.bounds)
        placed = replace(placed, plan=numbers)
    placed = replace(placed, prediction=prediction.forecast())
    if reason := methods.not_there(setup.method):
        return record.ended(placed, "unsupported", reason)
    if reason := prediction.shortage:
        return record.ended(placed, "oom", reason)
    return record.ended(placed, "ok", "")


def _with_total(terms: cost.Floor | cost.Estimate | None) -> dict[str, float] | None:
    return None if terms is None else {"seconds": terms.seconds, **asdict(terms)}
