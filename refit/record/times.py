"""Ranks' starts and ends -> seconds of refits, and the throughput against its limits. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import ceil

from refit.job import Hardware
from refit.record import limits
from refit.record.parts import Limit, PlanNumbers, Seconds, Throughput
from refit.record.report import Copied, RankReport, Span


def seconds_of(active: Sequence[RankReport]) -> Seconds:
    """Times of the refits, from the ranks that hold weights."""
    each = list(zip(*(r.warm for r in active), strict=True))
    warm = [_slowest(active, spans) for spans in each]
    return Seconds(
        cold=_slowest(active, [r.cold for r in active]),
        warm=warm,
        median=statistics.median(warm),
        p90=sorted(warm)[ceil(9 * len(warm) / 10) - 1],  # the nearest rank: no interpolation
        max=max(warm),
        drift=drift(warm),
        cold_phases=_largest([r.cold_phases for r in active]),
        phases=_largest([r.phases for r in active]),
        phases_per_rank={str(r.rank): {**r.cold_phases, **r.phases} for r in active},
        per_rank={str(r.rank): statistics.median(s.end - s.start for s in r.warm) for r in active},
        proof=max(r.proof_s for r in active),
        skew=[_skew(active, spans) for spans in each],
        device=_of_devices(active),
    )


def throughput_of(
    active: Sequence[RankReport], plan: PlanNumbers, hardware: Hardware, seconds: float
) -> Throughput:
    """The rate of a refit of so many seconds, against all that limits it."""
    rates = [*_measured(active, plan), *limits.links(plan, hardware, active[0].device)]
    tightest = min(rates, key=lambda limit: limit.gbps)
    gbps = plan.bytes / seconds / 1e9
    return Throughput(
        gbps=gbps,
        limit_gbps=tightest.gbps,
        limit=tightest.what,
        limit_source=tightest.source,
        fraction=gbps / tightest.gbps,
        limits=rates,
        missing=active[0].limits.no_peers or None,
    )


def _measured(active: Sequence[RankReport], plan: PlanNumbers) -> list[Limit]:
    """The limits that were timed in the same run."""
    device = active[0].device
    held_bytes = plan.bytes + (plan.left_out_bytes or 0)  # what was copied is all that there is
    copy_s = _copied(active, [r.limits.memory for r in active])
    found = [limits.memory_copy(held_bytes, copy_s, device)]
    peers = [r.limits.peers for r in active if r.limits.peers is not None]
    if len(peers) == len(active):
        found.append(limits.peer_copy(plan.bytes, _copied(active, peers), device))
    return found


def _copied(ranks: Sequence[RankReport], copied: Sequence[Copied]) -> list[float]:
    """Seconds of each copy of all bytes, by the clock of the refits."""
    each = zip(*(one.spans for one in copied), strict=True)
    return [_slowest(ranks, spans) / copied[0].share for spans in each]


def drift(values: Sequence[float]) -> float | None:
    """Median of the last tenth of some values over that of the first tenth: 1 where they stay.

    Returns:
        None for fewer than twenty, whose tenths are a single value each.
    """
    tenth = len(values) // 10
    if tenth < 2:
        return None
    return statistics.median(values[-tenth:]) / statistics.median(values[:tenth])


def _slowest(ranks: Sequence[RankReport], spans: Sequence[Span]) -> float:
    """Seconds of the slowest rank, each node's clock starting with its first rank.

    So it is the longest of the nodes' own times; how far apart nodes began is in none of them.
    """
    first: dict[int, float] = {}
    for rank, s in zip(ranks, spans, strict=True):
        first[rank.node] = min(first.get(rank.node, s.start), s.start)
    return max(s.end - first[rank.node] for rank, s in zip(ranks, spans, strict=True))


def _skew(ranks: Sequence[RankReport], spans: Sequence[Span]) -> float:
    """Seconds between the first and the last start on a node, of the node where that is most."""
    starts: dict[int, list[float]] = {}
    for rank, span in zip(ranks, spans, strict=True):
        starts.setdefault(rank.node, []).append(span.start)
    return max(max(of_node) - min(of_node) for of_node in starts.values())


def _of_devices(ranks: Sequence[RankReport]) -> list[float] | None:
    """Of each timed refit the longest that a rank's GPU says; None where no rank has one."""
    on_gpus = [[s.device for s in r.warm if s.device is not None] for r in ranks]
    return [max(each) for each in zip(*filter(None, on_gpus), strict=True)] or None


def _largest(phases: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each phase, the rank that spent longest in it."""
    return {
        name: max(p.get(name, 0.0) for p in phases)
        for name in dict.fromkeys(n for p in phases for n in p)
    }
