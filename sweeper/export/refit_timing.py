"""ModelExpress's `MX_REFIT_TIMING` lines: ten named stages, each with its status.

As its `modelexpress.refit.timing` writes them: the prefix, a space, one object of JSON; a line for
each rank that receives and each refit. Ours are two: the cold refit, and the median of the timed.
`bytes` is the mean of the ranks that receive, as a record says no rank's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refit.record.parts import Side
from refit.record.record import Record

PREFIX = "MX_REFIT_TIMING"

STAGES = (
    "control_discovery",
    "source_preparation",
    "setup_registration",
    "transfer_planning",
    "wire_transfer",
    "receive_sync",
    "transformation",
    "installation",
    "post_install",
    "rollout_readiness",
)

COLD = {
    "plan": "transfer_planning",
    "prepare": "setup_registration",
    "transfer": "wire_transfer",
}
WARM = {"pack": "source_preparation", "unpack": "installation", "local": "installation"}
"""Our phases, those of later hops without their `forward `; all others are on the wire."""


def text(records: Sequence[Record]) -> str:
    """The lines of all records that have times."""
    payloads = (payload for record in records for payload in _payloads(record))
    return "".join(f"{PREFIX} {json.dumps(each, separators=(',', ':'))}\n" for each in payloads)


def _payloads(record: Record) -> Iterator[dict[str, Any]]:
    if record.seconds is None or record.layout is None:
        return
    for side in record.layout.receiving:
        for rank in side.ranks:
            phases = record.seconds.phases_per_rank[str(rank)]
            cold = {name: phases[name] for name in COLD}
            warm = {name: phases[name] for name in phases if name not in COLD}
            # of the cold refit a rank notes no time but those of its phases
            yield _payload(record, rank, side, "cold", cold, sum(cold.values()))
            yield _payload(record, rank, side, "warm", warm, record.seconds.per_rank[str(rank)])


def _payload(
    record: Record, rank: int, side: Side, which: str, phases: Mapping[str, float], whole_s: float
) -> dict[str, Any]:
    stages: dict[str, dict[str, Any]] = {
        name: {"status": "not_applicable", "duration_ms": 0.0, "count": 0} for name in STAGES
    }
    for phase, seconds in phases.items():
        own = COLD.get(phase) or WARM.get(phase.removeprefix("forward "), "wire_transfer")
        stage = stages[own]
        stage["status"] = "ok"
        stage["duration_ms"] = round(stage["duration_ms"] + 1e3 * seconds, 3)
        stage["count"] += 1
    if which == "cold":  # its transfer has them in it
        for name in ("source_preparation", "installation"):
            stages[name] |= {"status": "combined", "metadata": {"combined_with": "wire_transfer"}}
    attributed = sum(stage["duration_ms"] for stage in stages.values())
    assert record.plan is not None and record.layout is not None
    ranks = sum(len(each.ranks) for each in record.layout.receiving)
    return {
        "backend": f"refit-sweep {record.method}",
        "version": f"{record.name} {which}",
        "rank": rank,
        "tp_rank": None,
        "tp_size": side.tp,
        "ep_rank": None,
        "ep_size": side.ep,
        "bytes": record.plan.bytes // ranks,
        "cold_warm": which,
        "stages": stages,
        "e2e_ms": round(1e3 * whole_s, 3),
        "unattributed_ms": round(max(0.0, 1e3 * whole_s - attributed), 3),
    }
