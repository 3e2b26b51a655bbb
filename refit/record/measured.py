"""How a measurement becomes a record: what the ranks report -> seconds, throughput, verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from refit.job import Hardware
from refit.model.convention import Build
from refit.record import moved
from refit.record.parts import (
    Checked,
    Memory,
    Placed,
    PlanNumbers,
    Verification,
)
from refit.record.record import Record, ended
from refit.record.remarks import impossible_rate
from refit.record.report import WHOLE_CHECKS, FirstWrong, RankReport
from refit.record.times import drift, seconds_of, throughput_of


def measured(
    begun: Record,
    reports: Sequence[RankReport],
    hardware: Hardware,
    elements: Sequence[int],
    forecast_s: float | None = None,
) -> Record:
    """The record of a point whose ranks all finished: times only if every element was right.

    None either where they are shorter than a link of a configured rate allows.

    Args:
        begun: from `refit.record.record.placed`.
        reports: one per rank of the world, in any order.
        hardware: of the cluster.
        elements: [world], what the plan writes on each rank, so what each must have looked at.
        forecast_s: what mode=plan estimates on that hardware; None where it does not.
    """
    assert begun.plan is not None and begun.layout is not None
    reports = sorted(reports, key=lambda report: report.rank)
    checked = _verification(reports, begun.layout)
    record = replace(
        begun,
        model_build=_built(begun, reports),
        plan=_plan(begun.plan, reports, begun.layout.ranks_per_node),
        verification=checked,
        memory=_memory(reports),
        transport=_transport(reports),
        environment={
            **begun.environment,
            "versions": reports[0].versions,
            "device": reports[0].device,
            "variables": reports[0].variables,
        },
    )
    if wrong := _wrong(checked, reports) or _uncovered(reports, elements):
        known = (record.transport or {}).get(moved.KNOWN_FAULT)
        return ended(record, "invalid", f"{wrong}; {known}" if known else wrong)
    # every element was right, so what was written is what any plan writes
    assert record.plan is not None
    plan = replace(record.plan, bytes=begun.plan.bytes)
    return _timed(record, reports, plan, hardware, forecast_s)


def _timed(
    record: Record,
    reports: Sequence[RankReport],
    plan: PlanNumbers,
    hardware: Hardware,
    forecast_s: float | None,
) -> Record:
    """With times, if they are possible."""
    active = [r for r in reports if r.active]
    seconds = seconds_of(active)
    throughput = throughput_of(active, plan, hardware, seconds.median)
    if impossible := impossible_rate(throughput):
        return ended(record, "invalid", impossible)
    of_such_devices = (hardware.device == "cpu") == (reports[0].device == "cpu")
    if forecast_s and of_such_devices:
        throughput = replace(throughput, forecast_gbps=plan.bytes / forecast_s / 1e9)
    done = replace(record, seconds=seconds, throughput=throughput)
    return ended(done, "ok", "")


def _plan(ours: PlanNumbers, reports: Sequence[RankReport], ranks_per_node: int) -> PlanNumbers:
    """Our plan where it was carried out; else what the transport moved, where it counts that."""
    if not reports[0].plans_itself:
        return ours
    counted = [r.moved for r in reports if r.moved is not None]
    if len(counted) < len(reports):
        return moved.unknown(ours)
    return moved.executed(ours, counted, ranks_per_node)


def _built(begun: Record, reports: Sequence[RankReport]) -> Build | None:
    """With the token dispatcher that ranks really have, and what was asked where that is another.

    alltoall runs on GPUs alone, and flex wants DeepEP or HybridEP.
    """
    build, built = begun.model_build, next((r.dispatcher for r in reports if r.dispatcher), None)
    if build is None or built is None:
        return build
    asked = begun.config["model"]["moe_token_dispatcher_type"]
    differs = list(build.differs)
    if asked != built:
        differs.append(
            f"the {asked} token dispatcher is built as {built}, as it cannot run here; it has no"
            " weights"
        )
    return replace(build, dispatcher=built, differs=differs)


def _transport(reports: Sequence[RankReport]) -> dict[str, int | str]:
    """What the transport says of itself: of each number the largest of all ranks."""
    details: dict[str, int | str] = {}
    for report in reports:
        for name, value in report.transport.items():
            before = details.get(name)
            if isinstance(value, int) and isinstance(before, int):
                value = max(value, before)
            details[name] = value
    return details


def _most(values: Iterable[int | None]) -> int | None:
    """The largest; None where none is known."""
    return max((value for value in values if value is not None), default=None)


def _memory(reports: Sequence[RankReport]) -> Memory:
    growth = {str(r.rank): drift(r.held_bytes) for r in reports if r.active and all(r.held_bytes)}
    known = {rank: times for rank, times in growth.items() if times is not None}
    return Memory(
        host_peak_bytes=max(r.host_peak_bytes for r in reports),
        device_peak_bytes=max(r.device_peak_bytes for r in reports),
        refit_peak_bytes=_most(r.refit_peak_bytes for r in reports),
        staging_bytes=_most(r.staging_bytes for r in reports),
        growth=max(known.values(), default=None),
        growth_per_rank=known,
    )


def _verification(reports: Sequence[RankReport], layout: Placed) -> Verification:
    first = _earliest(r.first for r in reports)
    return Verification(
        elements=sum(r.elements for r in reports),
        mismatches=sum(r.mismatches for r in reports),
        source_mismatches=sum(r.source_mismatches for r in reports),
        first_mismatch=first.tensor if first else None,
        stale_checked=True,
        logits=next((r.logits for r in reports if r.logits), None),
        per_destination=_per_destination(reports, layout),
        whole_checks=WHOLE_CHECKS,
        stamps=sum(r.stamps for r in reports),
        stamp_mismatches=sum(r.stamp_mismatches for r in reports),
        first_after=first.after if first else None,
    )


def _per_destination(reports: Sequence[RankReport], layout: Placed) -> list[Checked] | None:
    """Of several destinations what each one's ranks found; None where there is one.

    Args:
        reports: [world], by rank.
    """
    if layout.destinations is None:
        return None
    return [
        Checked(
            elements=sum(reports[rank].elements for rank in side.ranks),
            mismatches=sum(reports[rank].mismatches for rank in side.ranks),
        )
        for side in layout.destinations
    ]


def _wrong(checked: Verification, reports: Sequence[RankReport]) -> str:
    """What verification found wrong; empty if nothing."""
    where = f"first in {checked.first_mismatch} after {checked.first_after}"
    if checked.mismatches:
        return f"{checked.mismatches} of {checked.elements} elements are wrong, {where}"
    if checked.stamp_mismatches:
        return f"{checked.stamp_mismatches} of {checked.stamps} stamps are wrong, {where}"
    if checked.source_mismatches:
        first = _earliest(r.first_of_source for r in reports)
        assert first is not None
        return (
            f"the refits changed {checked.source_mismatches} elements of the source, first in"
            f" {first.tensor}, seen after {first.after}"
        )
    logits = checked.logits
    if logits and not logits.ok:
        relative = logits.max_abs_diff / max(logits.max_abs_logit, 1e-300)
        return f"logits differ by {relative:.3g} of the largest, tolerance {logits.tolerance:.3g}"
    return ""


def _earliest(found: Iterable[FirstWrong | None]) -> FirstWrong | None:
    """Of the earliest refit, the one of the lowest rank."""
    return min((one for one in found if one), key=lambda one: one.refit, default=None)


def _uncovered(reports: Sequence[RankReport], elements: Sequence[int]) -> str:
    """Which rank did not look at all that the plan writes there; empty if none.

    Args:
        reports, elements: [world], by rank.
    """
    for report, once in zip(reports, elements, strict=True):
        if report.elements != WHOLE_CHECKS * once:
            return (
                f"rank {report.rank} looked at {report.elements} elements, and the plan writes"
                f" {once} there, to be looked at {WHOLE_CHECKS} times"
            )
        if once and not report.stamps:
            return f"rank {report.rank} looked at no stamp"
    return ""
