"""Measured refits -> the terms of the estimate that fit them, and how wrong those are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from refit.errors import UserError
from refit.forecast import cost
from refit.forecast.per_rank import Traffic
from refit.job import Hardware, Job
from refit.layout.place import place
from refit.model.architecture import tensors_of
from refit.plan.build import build_plan
from refit.plan.plan import Plan
from refit.plan.selection import selected
from refit.record.parts import Throughput
from refit.record.record import Record
from refit.rules import methods
from refit.rules.values import VALUES


@dataclass(frozen=True)
class Row:
    """A measured point: what it moves, how, and its seconds.

    Attributes:
        hops: of its plan, as it was carried out.
        seconds: the record's median.
        rate_gbps: the best rate seen in its run: of the refit, or of plain copies beside it.
        group: rows that differ in nothing but chance; they are left out together.
    """

    name: str
    method: str
    job: Job
    plan: Plan
    hops: tuple[Traffic, ...]
    seconds: float
    rate_gbps: float
    group: str

    def features(self, hardware: Hardware) -> cost.Features:
        """What its estimate is linear in, on these links."""
        refit = self.job.refit
        return cost.total([cost.features(t, hardware, self.method, refit) for t in self.hops])


@dataclass(frozen=True)
class HeldOut:
    """A row and what is predicted for it from the others.

    Attributes:
        before, after: seconds, by the links alone and with the terms fitted to the others.
    """

    row: Row
    before: float
    after: float

    @property
    def errors(self) -> tuple[float, float]:
        """Relative error before and after: 0.1 is ten percent too long."""
        return self.before / self.row.seconds - 1, self.after / self.row.seconds - 1


def row_of(record: Record, path: Path) -> Row:
    """The row of a record that is measured and ok.

    Raises:
        UserError: it is not whole; or its bytes are not those of the plan that this code makes of
            its config.
    """
    build, seconds, throughput = record.model_build, record.seconds, record.throughput
    if not (build and seconds and throughput and record.plan and record.method):
        raise UserError(f"{path} is ok, and does not say all that a measurement does")
    job = Job.from_dict(record.config)
    if reason := next((said for rule in VALUES if (said := rule(job))), None):
        raise UserError(f"{path}: {reason}")
    placement = place(job)
    tensors = tensors_of(job, placement, build.convention)
    travels = selected(tensors, job.refit)
    cast_at = methods.cast_at(record.method, job, placement)
    plan = build_plan(tensors, placement, job.refit.fanout, travels, cast_at)
    if plan.total_bytes != record.plan.bytes:
        raise UserError(
            f"{path} says {record.plan.bytes} bytes, its config plans {plan.total_bytes};"
            " calibrate with the code that wrote it, or measure again"
        )
    alike = (job.model, job.parallel, job.refit, job.cluster.ranks_per_node, record.method)
    return Row(
        record.name,
        record.method,
        job,
        plan,
        tuple(Traffic.of(copies) for copies in plan.hops),
        seconds.median,
        _best_gbps(throughput),
        repr(alike),
    )


def _best_gbps(throughput: Throughput) -> float:
    """What was seen; older records do not list the copies."""
    seen = [limit.gbps for limit in throughput.limits if limit.source == "measured"]
    return max(throughput.gbps, throughput.limit_gbps, *seen)


def base(rows: Sequence[Row]) -> Hardware:
    """The links, before anything is fitted: what the records' cluster states, or what they show.

    A CPU's ranks share one memory. Its rate is the best seen in any run, which is what makes the
    floor one; what a rank alone can reach is not measured, and taken to be no less.

    Raises:
        UserError: the records are of clusters that state different rates, or not those they need.
    """
    stated = {repr(row.job.cluster.hardware): row.job.cluster.hardware for row in rows}
    if len(stated) > 1:
        names = sorted({row.job.cluster.name for row in rows})
        raise UserError(
            f"the records are of clusters with different hardware ({', '.join(names)});"
            " calibrate each from a folder of its own"
        )
    (hardware,) = stated.values()
    if hardware.peer_gbps is None:
        best = max(row.rate_gbps for row in rows)
        hardware = replace(
            hardware, device="cpu", node_gbps=best, peer_gbps=best, memory_gbps=2 * best
        )
    for row in rows:
        if missing := cost.lacking(hardware, row.plan):
            raise UserError(f"{row.name} needs {missing}, which its cluster does not state")
    return replace(hardware, fitted=None)


def fit(rows: Sequence[Row], hardware: Hardware) -> dict[str, cost.Fit]:
    """Each method's terms: least squares of the relative error, with no term below its minimum."""
    fits = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        features = [row.features(hardware) for row in mine]
        wire = np.array([f.wire_s + f.imbalance_s for f in features])
        operations = [f.operations * 1e-6 for f in features]
        staging = [f.staging_s for f in features]
        columns = np.array([wire, operations, staging, [1e-6] * len(mine)])  # [terms, rows]
        seconds = np.array([row.seconds for row in mine])
        # wire is 1 or more: what is fitted is what comes on top of the links' own time
        extra = _not_negative((columns / seconds).T, 1 - wire / seconds)
        fits[method] = cost.Fit(1 + extra[0], extra[1], extra[2], extra[3])
    return fits


def leave_one_out(rows: Sequence[Row]) -> list[HeldOut]:
    """Predict each row by the links and the terms that all rows of other groups show.

    The result lacks a row whose method no other group has: nothing can be fitted for it.

    Raises:
        UserError: from `base`.
    """
    predicted = []
    for row in rows:
        others = [other for other in rows if other.group != row.group]
        if row.method not in {other.method for other in others}:
            continue
        hardware = base(others)
        fits = fit(others, hardware)
        features = row.features(hardware)
        plain = cost.Fit(latency_us=hardware.latency_us)
        before, after = (cost.estimate(features, f).seconds for f in (plain, fits[row.method]))
        predicted.append(HeldOut(row, before, after))
    return predicted


def _not_negative(a: cost.FloatArray, b: cost.FloatArray) -> list[float]:
    """argmin |a x - b| with x >= 0, [columns]; exact, by trying every set of columns."""
    best, solution = float(b @ b), np.zeros(a.shape[1])
    for size in range(1, a.shape[1] + 1):
        for chosen in combinations(range(a.shape[1]), size):
            part = a[:, chosen]
            scale = np.linalg.norm(part, axis=0)
            if not scale.all():
                continue
            x = np.linalg.lstsq(part / scale, b, rcond=None)[0] / scale
            residual = float(((part @ x - b) ** 2).sum())
            # a larger set must be better by more than rounding
            if (x >= 0).all() and residual < best * (1 - 1e-9) - 1e-24:
                best, solution = residual, np.zeros(a.shape[1])
                solution[list(chosen)] = x
    return [float(v) for v in solution]
