"""mode=plan: one point's record without ranks: who sends what, does it fit, floor and estimate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from refit.forecast import cost
from refit.job import Job, UserError
from refit.layout.layout import IntArray, Placement, place
from refit.model.architecture import catalogue
from refit.model.convention import convention
from refit.model.weight_bytes import per_rank_bytes
from refit.plan.build import build_plan
from refit.plan.plan import Plan
from refit.record import environment, record
from refit.record.point import Point, write_atomic
from refit.record.record import Record
from refit.rules import methods


@dataclass(frozen=True)
class Prediction:
    """What is known of a refit before it runs.

    Attributes:
        method: what it would run with.
        why: why that one.
        source_bytes, destination_bytes, staging_bytes: [world], what each rank holds.
        floor, estimate: None where the cluster does not state the rates.
        missing: the rates it does not state.
    """

    job: Job
    plan: Plan
    traffic: cost.Traffic
    method: str
    why: str
    source_bytes: IntArray
    destination_bytes: IntArray
    staging_bytes: IntArray
    floor: cost.Floor | None
    estimate: cost.Estimate | None
    missing: str | None

    @property
    def placement(self) -> Placement:
        return self.plan.placement

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

    def to_dict(self) -> dict[str, Any]:
        """The record's `prediction`."""
        hardware, traffic = self.job.cluster.hardware, self.traffic
        per_rank = {
            "send_bytes": traffic.sent,
            "recv_bytes": traffic.received,
            "cross_node_send_bytes": traffic.far_out,
            "cross_node_recv_bytes": traffic.far_in,
            "source_bytes": self.source_bytes,
            "destination_bytes": self.destination_bytes,
            "staging_bytes": self.staging_bytes,
        }
        limit = hardware.memory_gb
        return {
            "per_rank": {name: values.tolist() for name, values in per_rank.items()},
            "memory": {
                "max_bytes": int(self.held_bytes.max()),
                "device_bytes": None if limit is None else int(limit * 1e9),
                "fits": None if limit is None else self.shortage is None,
            },
            "floor": _with_total(self.floor),
            "estimate": _with_total(self.estimate),
            "missing": self.missing,
        }


def unpredictable(job: Job) -> str | None:
    """Why nothing can be said of a job's method without ranks, or None."""
    method = job.refit.method
    if method not in methods.PLANS_ITSELF:
        return None
    return (
        f"refit={method} carries out a plan of its own, which is made from real models on real"
        " ranks; mode=plan cannot say what it would move; use mode=measure, whose record has it, or"
        " another method"
    )


def predict(job: Job, plan: Plan | None = None) -> Prediction:
    """Plan a job and say what it costs; nothing is run, and nothing of this machine is asked.

    Args:
        job: possible (`refit.rules.layout`).
        plan: the job's, where there is one already.

    Raises:
        UserError: its method plans for itself.
    """
    if reason := unpredictable(job):
        raise UserError(reason)
    if plan is None:
        placement = place(job)
        plan = build_plan(
            catalogue(job.model, placement.source.tp, convention(job)[0]),
            placement,
            job.refit.fanout,
        )
    method, why = _method(job, plan.placement)
    traffic, hardware = cost.Traffic.of(plan), job.cluster.hardware
    stages = [cost.Traffic.of(stage) for stage in plan.stages]
    missing = cost.lacking(hardware, plan)
    floor = estimate = None
    if missing is None:
        floor = cost.floor(traffic, hardware)
        found = cost.total([cost.features(t, hardware, method, job.refit) for t in stages])
        estimate = cost.estimate(found, cost.fit_of(hardware, method))
    sides = []
    for side in (plan.placement.source, plan.placement.destination):
        held = np.zeros(plan.placement.world, dtype=np.int64)
        held[side.offset : side.offset + side.gpus] = per_rank_bytes(plan.catalogue, side)
        sides.append(held)
    return Prediction(
        job,
        plan,
        traffic,
        method,
        why,
        sides[0],
        sides[1],
        sum((t.staging_bytes(method, job.refit) for t in stages), np.zeros_like(sides[0])),
        floor,
        estimate,
        missing,
    )


def run(point: Point) -> dict[str, Any]:
    """The agent's counterpart: predict a point and write its timing.json.

    A layout whose weights do not fit the device's memory ends as `oom`, with all its numbers; a
    method that plans for itself is `unsupported`.

    Raises:
        UserError: the point's folder cannot be written.
    """
    point.freeze()
    begun = record.begin(point, dict(_here()))
    reason = unpredictable(point.job)
    final = (
        record.ended(replace(begun, method=point.job.refit.method), "unsupported", reason)
        if reason
        else _record(begun, predict(point.job))
    )
    text = json.dumps(asdict(final)) + "\n"
    try:
        write_atomic(point.timing, text)
    except OSError as error:
        raise UserError(f"cannot write {point.timing}: {error.strerror}") from None
    return dict(json.loads(text))


def lines(found: dict[str, Any]) -> Sequence[str]:
    """What is printed of a predicted record, below the header."""
    plan, said = found["plan"], found["prediction"]
    bounds, per_rank, memory = plan["lower_bounds"], said["per_rank"], said["memory"]

    def against(name: str, value: int, bound: int) -> str:
        above = f"{value / bound - 1:+.1%}" if bound else "nothing to move"
        return f"{name}: {value / 1e9:.3f} GB, lower bound {bound / 1e9:.3f} GB ({above})"

    device = memory["device_bytes"]
    sides = ", ".join(
        f"{name} {max(per_rank[f'{name}_bytes']) / 1e9:.2f}"
        for name in ("source", "destination", "staging")
    )
    shown = [
        f"Bytes: {plan['bytes'] / 1e9:.3f} GB in {plan['copies']} blocks,"
        f" {plan['local_bytes'] / 1e9:.3f} GB of them local",
        against("Busiest sender", plan["max_send_bytes"], bounds["send"]),
        *(
            [f"Busiest forwarder, within its node: {forwarded / 1e9:.3f} GB"]
            if (forwarded := plan["max_forward_bytes"])
            else []
        ),
        against("Busiest receiver", plan["max_recv_bytes"], bounds["recv"]),
        against("Across nodes", plan["cross_node_bytes"], bounds["cross_node"]),
        f"Memory: {memory['max_bytes'] / 1e9:.2f} GB on the fullest rank"
        + (f" of {device / 1e9:g} GB" if device else ", the device's is not stated")
        + f" (largest: {sides})",
    ]
    if said["missing"]:
        return [*shown, f"Floor, estimate: unknown, as {said['missing']} is not set; use"
                " cluster=h100 or another cluster that states its rates"]  # fmt: skip
    for name, word in (("floor", "largest of"), ("estimate", "sum of")):
        terms = {k: v for k, v in said[name].items() if k != "seconds"}
        parts = ", ".join(f"{k.removesuffix('_s')} {v:.4f}" for k, v in terms.items())
        shown.append(f"{name.capitalize()}: {said[name]['seconds']:.4f} s ({word} {parts})")
    return shown


@cache
def _here() -> dict[str, Any]:
    """This machine and code, asked once per process and not once per point of a sweep."""
    return environment.describe()


def _record(begun: Record, found: Prediction) -> Record:
    build = convention(found.job)[1]
    placed = record.placed(begun, found.placement, found.plan, found.method, found.why, build)
    placed = replace(placed, prediction=found.to_dict())
    if reason := found.shortage:
        return record.ended(placed, "oom", reason)
    return record.ended(placed, "ok", "")


def _method(job: Job, placement: Placement) -> tuple[str, str]:
    """As `methods.choose`; but auto goes by the cluster's device and not by this machine's."""
    if job.refit.method != "auto":
        return methods.choose(job, placement)
    if placement.nodes == 1:
        return "ipc", "auto: all ranks are on one node"
    word = "gloo" if job.cluster.hardware.device == "cpu" else "nccl"
    return word, f"auto: the ranks are on {placement.nodes} nodes"


def _with_total(terms: cost.Floor | cost.Estimate | None) -> dict[str, float] | None:
    return None if terms is None else {"seconds": terms.seconds, **asdict(terms)}
