"""How a measurement becomes a record: what the ranks report -> seconds, throughput, verdict."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from refit.job import Hardware
from refit.record import limits
from refit.record.record import MEMORY, RankReport, Record, Span, ended


def measured(begun: Record, reports: Sequence[RankReport], hardware: Hardware) -> Record:
    """The record of a point whose ranks all finished: times only if every element was right.

    Args:
        begun: from `placed`.
        reports: one per rank of the world, in any order.
        hardware: of the cluster.
    """
    reports = sorted(reports, key=lambda report: report.rank)
    record = replace(
        begun,
        verification=_verification(reports),
        memory={
            name: max((b for r in reports if (b := getattr(r, name)) is not None), default=None)
            for name in MEMORY
        },
        transport=_transport(reports),
        environment={
            **begun.environment,
            "versions": reports[0].versions,
            "device": reports[0].device,
        },
    )
    wrong = _wrong(reports)
    if wrong:
        return ended(record, "invalid", wrong)
    assert begun.plan is not None
    active = [r for r in reports if r.active]
    seconds, throughput = _times(active, begun.plan, asdict(hardware))
    done = replace(record, seconds=seconds, throughput=throughput)
    return ended(done, "ok", "")


def _transport(reports: Sequence[RankReport]) -> dict[str, int | str]:
    """What the transport says of itself: of each number the largest of all ranks."""
    found: dict[str, int | str] = {}
    for name, value in (item for r in reports for item in r.transport.items()):
        before = found.get(name)
        if isinstance(value, int) and isinstance(before, int):
            value = max(value, before)
        found[name] = value
    return found


def _verification(reports: Sequence[RankReport]) -> dict[str, Any]:
    return {
        "elements": sum(r.elements for r in reports),
        "mismatches": sum(r.mismatches for r in reports),
        "source_mismatches": sum(r.source_mismatches for r in reports),
        "first_mismatch": next((r.first_mismatch for r in reports if r.first_mismatch), None),
        "stale_checked": True,
        "logits": next((r.logits for r in reports if r.logits), None),
    }


def _wrong(reports: Sequence[RankReport]) -> str:
    """What verification found wrong; empty if nothing."""
    found = _verification(reports)
    if found["mismatches"]:
        where = found["first_mismatch"]
        return f"{found['mismatches']} of {found['elements']} elements are wrong, first in {where}"
    if found["source_mismatches"]:
        return f"the refits changed {found['source_mismatches']} elements of the source"
    logits = found["logits"]
    if logits and not logits["ok"]:
        relative = logits["max_abs_diff"] / max(logits["max_abs_logit"], 1e-300)
        return (
            f"logits differ by {relative:.3g} of the largest, tolerance {logits['tolerance']:.3g}"
        )
    return ""


def _times(
    active: Sequence[RankReport], plan: dict[str, Any], hardware: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`seconds` and `throughput` from the ranks that hold weights."""
    cold = _slowest(active, [r.cold for r in active])
    warm = [_slowest(active, spans) for spans in zip(*(r.warm for r in active), strict=True)]
    median = statistics.median(warm)
    copies = [_slowest(active, spans) for spans in zip(*(r.limit for r in active), strict=True)]
    copy = statistics.median(copies) / active[0].limit_share
    gbps, device = plan["bytes"] / median / 1e9, active[0].device
    known = [limits.memory_copy(plan["bytes"], copy, device), *limits.links(plan, hardware, device)]
    limit = limits.tightest(known)
    seconds = {
        "cold": cold,
        "warm": warm,
        "median": median,
        "p90": sorted(warm)[-(-9 * len(warm) // 10) - 1],
        "max": max(warm),
        "drift": drift(warm),
        "cold_phases": _largest([r.cold_phases for r in active]),
        "phases": _largest([r.phases for r in active]),
        "phases_per_rank": {str(r.rank): {**r.cold_phases, **r.phases} for r in active},
        "per_rank": {
            str(r.rank): statistics.median(s.end - s.start for s in r.warm) for r in active
        },
    }
    throughput = {
        "gbps": gbps,
        "limit_gbps": limit.gbps,
        "limit": limit.what,
        "limit_source": limit.source,
        "fraction": gbps / limit.gbps,
        "limits": [asdict(one) for one in known],
    }
    return seconds, throughput


def drift(warm: Sequence[float]) -> float | None:
    """Median of the last tenth of some times over that of the first tenth: 1 where they stay.

    Returns:
        None for fewer than twenty, whose tenths are a single time each.
    """
    tenth = len(warm) // 10
    if tenth < 2:
        return None
    return statistics.median(warm[-tenth:]) / statistics.median(warm[:tenth])


def _slowest(ranks: Sequence[RankReport], spans: Sequence[Span]) -> float:
    """Seconds of the slowest rank, each node's clock starting with its first rank."""
    first: dict[int, float] = {}
    for rank, s in zip(ranks, spans, strict=True):
        first[rank.node] = min(first.get(rank.node, s.start), s.start)
    return max(s.end - first[rank.node] for rank, s in zip(ranks, spans, strict=True))


def _largest(phases: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each phase, the rank that spent longest in it."""
    return {
        name: max(p.get(name, 0.0) for p in phases)
        for name in dict.fromkeys(n for p in phases for n in p)
    }
