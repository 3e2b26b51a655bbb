"""timing.json: what one point measured, and under which conditions. Torch-free."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from refit.layout.layout import Layout, Placement
from refit.plan.plan import Plan
from refit.record.point import Point, write_atomic

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).with_name("timing.schema.json")

Status = Literal[
    "ok",  # every element verified; times are reported
    "invalid",  # at least one element was wrong; no time is reported
    "failed",  # a rank raised
    "timeout",  # a rank outlived the deadline
    "oom",  # memory ran out, or would have
    "crashed",  # a rank was ended by a signal
    "unsupported",  # the method cannot run here
    "skipped",  # a rule says the job is impossible
]


@dataclass(frozen=True)
class Ended:
    """How a point, or one node's part of it, ended."""

    status: Status
    reason: str = ""


MEMORY = ("host_peak_bytes", "device_peak_bytes", "refit_peak_bytes", "staging_bytes")

CLOCK = {
    "warm": "per iteration: all ranks pass a barrier; a node's clock starts when its first rank"
    " leaves it; a rank's time ends when its own destination weights are written and synchronised;"
    " the slowest rank counts",
    "cold": "from the same barrier: plan, prepare (buffers, handles, mapping) and the first"
    " transfer; models are built before; a method that plans itself is timed with its plan alone",
    "limit": "the destination ranks copy as many bytes, or of more than 2 GB the same share each,"
    " from one half of their own destination memory to the other, as often as there are timed"
    " iterations (at most ten); the median, same clock",
}


@dataclass(frozen=True)
class Span:
    """Start and end on one node's monotonic clock, in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class RankReport:
    """What one rank measured. Idle ranks pass the same barriers; their spans are not counted."""

    rank: int
    node: int
    active: bool  # holds weights of either side
    cold: Span
    warm: list[Span]
    limit: list[Span]  # each a memory copy of this share of the destination's bytes
    limit_share: float = 1.0
    cold_phases: dict[str, float] = field(default_factory=dict)  # seconds
    phases: dict[str, float] = field(
        default_factory=dict
    )  # seconds, median of the timed iterations
    elements: int = 0
    mismatches: int = 0
    first_mismatch: str = ""
    source_mismatches: int = 0  # elements of the source that the refits changed
    logits: dict[str, Any] | None = None
    host_peak_bytes: int = 0
    device_peak_bytes: int = 0
    refit_peak_bytes: int | None = None
    staging_bytes: int | None = None
    transport: dict[str, int | str] = field(default_factory=dict)  # its own words: heap, messages
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""

    @staticmethod
    def of(values: dict[str, Any]) -> RankReport:
        """A report as JSON has it: `asdict` undone."""
        spans = {name: [Span(**s) for s in values[name]] for name in ("warm", "limit")}
        return RankReport(**{**values, **spans, "cold": Span(**values["cold"])})


@dataclass(frozen=True)
class Record:
    """One timing.json, field by field; `timing.schema.json` is its published form."""

    status: Status
    reason: str
    id: str
    name: str
    overrides: list[str]
    config: dict[str, Any]
    mode: str
    method: str | None = None
    method_reason: str | None = None
    model_build: dict[str, Any] | None = None
    layout: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    seconds: dict[str, Any] | None = None
    throughput: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    transport: dict[str, Any] | None = None
    verification: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    clock: dict[str, str] = field(default_factory=lambda: dict(CLOCK))
    environment: dict[str, Any] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    kind: Literal["measured", "predicted"] = "measured"
    schema_version: int = SCHEMA_VERSION


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def begin(point: Point, environment: dict[str, Any]) -> Record:
    """The record of a point before anything ran; of kind predicted where nothing will run."""
    planned = point.job.mode == "plan"
    return Record(
        status="failed",
        reason="did not end",
        id=point.id,
        name=point.name,
        overrides=list(point.overrides),
        config=point.job.to_dict(),
        mode=point.job.placement_mode,
        clock={} if planned else dict(CLOCK),
        environment=environment,
        started_at=now(),
        kind="predicted" if planned else "measured",
    )


def placed(
    record: Record, placement: Placement, plan: Plan, method: str, why: str, build: dict[str, Any]
) -> Record:
    """With what is known once the job is placed and planned."""
    return replace(
        record,
        method=method,
        method_reason=why,
        model_build=build,
        layout={
            "world": placement.world,
            "ranks_per_node": placement.ranks_per_node,
            "source": _layout(placement.source),
            "destination": _layout(placement.destination),
            "idle": list(placement.idle),
        },
        plan={
            "copies": len(plan),
            "bytes": plan.total_bytes,
            "local_bytes": plan.local_bytes,
            "cross_node_bytes": plan.cross_node_bytes,
            "max_send_bytes": int(plan.hops[0].send_bytes.max(initial=0)),
            "max_forward_bytes": max((int(s.send_bytes.max()) for s in plan.hops[1:]), default=0),
            "max_recv_bytes": int(plan.recv_bytes.max(initial=0)),
            "max_peer_bytes": plan.busiest_bytes(plan.remote & ~plan.crosses_nodes),
            "max_cross_node_bytes": plan.busiest_bytes(plan.crosses_nodes),
            "lower_bounds": asdict(plan.bounds),
        },
    )


def ended(record: Record, status: Status, reason: str) -> Record:
    """The record of a point that reports no times."""
    return replace(record, status=status, reason=reason, finished_at=now())


def write(path: Path, record: Record) -> None:
    """Write by rename.

    Raises:
        OSError: as from the file system; an earlier file is untouched.
    """
    write_atomic(path, json.dumps(asdict(record), indent=2) + "\n")


def _layout(layout: Layout) -> dict[str, Any]:
    degrees = {
        name: getattr(layout, name) for name in ("tp", "cp", "pp", "ep", "etp", "dp", "edp", "gpus")
    }
    stages = {
        "first_stage_layers": layout.first_stage_layers,
        "last_stage_layers": layout.last_stage_layers,
    }
    return {"ranks": list(layout.ranks), **degrees, **stages}
