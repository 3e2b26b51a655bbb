"""timing.json: what one point measured, and under which conditions. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import count as count_from
from pathlib import Path
from typing import Any, Literal

import numpy as np

from refit import told
from refit.layout.layout import Layout, Placement
from refit.layout.order import DEFAULT
from refit.model.convention import Build
from refit.model.parameters import Parameters, count
from refit.model.weight_bytes import per_rank_bytes
from refit.model_config import Model
from refit.plan.copies import Rows
from refit.plan.plan import Bounds, Plan
from refit.record import code, sound
from refit.record.imported import Imported
from refit.record.parts import (
    Forecast,
    Memory,
    Placed,
    PlanNumbers,
    Seconds,
    Side,
    Throughput,
    Verification,
)
from refit.record.point import Point, read_json, write_atomic
from refit.record.typed import typed

SCHEMA_VERSION = 2
SCHEMA = Path(__file__).with_name("timing.schema.json")

Status = Literal[
    "ok",  # every element verified; times are reported
    "invalid",  # an element was wrong, or the rate is impossible; no time is reported
    "failed",  # a rank raised
    "timeout",  # a rank outlived the deadline
    "oom",  # memory ran out, or would have
    "crashed",  # a rank was ended by a signal
    "unsupported",  # the method cannot run here
    "skipped",  # a rule says the job is impossible
    "interrupted",  # Ctrl-C, SIGTERM or SIGHUP came
    "imported",  # another program's times; nothing was checked
]


@dataclass(frozen=True)
class Ended:
    """How a point, or one node's part of it, ended."""

    status: Status
    reason: str = ""


CLOCK = {
    "warm": "per iteration: all ranks pass a barrier, then those of each node meet in shared"
    " memory; a node's clock starts when its first rank does; a rank's time ends when its own"
    " destination weights are written and synchronised; the slowest rank counts; across nodes each"
    " has a clock of its own, and the longest of their times counts: how far apart nodes began,"
    " which is how far apart the barrier lets them go, is not in it",
    "cold": "from the same barrier: plan, prepare (buffers, handles, mapping) and the first"
    " transfer; models are built before; a method that plans itself is timed with its plan alone",
    "limit": "memory copy: the destination ranks copy as many bytes as they hold from one half of"
    " their own memory to the other, as often as there are timed iterations (at most ten); peers:"
    " they copy what the plan gives them, in one piece from each rank that sends it, three times;"
    " of more than 1 GB in all the same share each; the median, same clock",
}


@dataclass(frozen=True)
class Record:
    """One timing.json, field by field; `timing.schema.json` is its published form.

    Attributes:
        id: the point's identity.
        name: of its folder.
        config: the resolved config.
        placement: collocated or non-collocated; of imported times also unknown.
        method, method_reason, model_build, layout, plan: null where the job was not planned.
        seconds, throughput: null unless every element was right, and for a prediction.
        parameters: of the whole model, however it is cut; null as above, and in older records.
        memory, transport, verification: null unless all ranks ended, and for a prediction.
        prediction: null for a measurement.
        imported: null but for kind imported, which has no other times.
    """

    status: Status
    reason: str
    id: str
    name: str
    overrides: list[str]
    config: dict[str, Any]
    placement: str
    method: str | None = None
    method_reason: str | None = None
    model_build: Build | None = None
    layout: Placed | None = None
    plan: PlanNumbers | None = None
    seconds: Seconds | None = None
    throughput: Throughput | None = None
    memory: Memory | None = None
    transport: dict[str, int | str] | None = None
    verification: Verification | None = None
    prediction: Forecast | None = None
    clock: dict[str, str] = field(default_factory=lambda: dict(CLOCK))
    environment: dict[str, Any] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    kind: Literal["measured", "predicted", "imported"] = "measured"
    parameters: Parameters | None = None
    imported: Imported | None = None
    schema_version: int = SCHEMA_VERSION

    @staticmethod
    def load(path: Path) -> Record:
        """A record from disk; one of an older schema is brought up to this one.

        Raises:
            NotARecord: there is no whole one; its text says why.
        """
        values = read_json(path)
        if values is None:
            raise NotARecord("not a whole JSON object, or it cannot be read")
        version = values.get("schema_version")
        if type(version) is not int or version not in (1, SCHEMA_VERSION):
            said = str(version)[:40]
            raise NotARecord(f"schema version {said}, and this reads 1 and {SCHEMA_VERSION}")
        if sound.too_deep(values):
            raise NotARecord("not a record: it is nested too deep")
        try:
            values = sound.from_version_1(values, SCHEMA_VERSION) if version == 1 else values
            record = typed(Record, values)
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise NotARecord(f"not a record: {error}") from None
        if reason := sound.fault(values):
            raise NotARecord(f"not a record: {reason}")
        return record

    @staticmethod
    def find(path: Path) -> Record | None:
        """As `load`; None where there is no whole one."""
        try:
            return Record.load(path)
        except NotARecord:
            return None

    @property
    def objective_s(self) -> float | None:
        """What a sweep minimizes: the median refit, for a prediction the estimate."""
        if self.kind == "predicted":
            return self.estimate_s
        if self.imported is not None:
            return self.imported.median
        return self.seconds.median if self.seconds else None

    @property
    def estimate_s(self) -> float | None:
        """Seconds of the prediction's estimate."""
        return self._predicted("estimate")

    @property
    def floor_s(self) -> float | None:
        """Seconds of the prediction's floor."""
        return self._predicted("floor")

    def _predicted(self, name: str) -> float | None:
        terms = getattr(self.prediction, name, None)
        return terms["seconds"] if terms else None


class NotARecord(Exception):
    """A file that holds no record; the text says why."""


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
        config=told.as_written(point.job.to_dict()),
        placement=point.job.placement_mode,
        clock={} if planned else dict(CLOCK),
        environment=code.used_by(environment, point),
        started_at=now(),
        kind="predicted" if planned else "measured",
    )


def placed(
    record: Record,
    model: Model,
    placement: Placement,
    plan: Plan,
    method: str,
    why: str,
    build: Build,
) -> Record:
    """With what is known once the job is placed and planned."""
    received = [_side(side, plan.catalogue.num_layers) for side in placement.destinations]
    return replace(
        record,
        method=method,
        method_reason=why,
        model_build=build,
        layout=Placed(
            world=placement.world,
            ranks_per_node=placement.ranks_per_node,
            source=_side(placement.source, plan.catalogue.num_layers),
            destination=received[0] if len(received) == 1 else None,
            destinations=received if len(received) > 1 else None,
            idle=placement.idle,
        ),
        plan=numbers(plan, plan.hops, plan.bounds),
        parameters=count(model),
    )


def numbers(rows: Rows, hops: Sequence[Rows], bounds: Bounds) -> PlanNumbers:
    """What a record says of the rows that are carried out, one hop after another."""
    first, *later = hops
    left_out = np.ones(rows.catalogue.num_tensors, dtype=bool)
    left_out[rows.tensor] = False
    held = sum(
        int(per_rank_bytes(rows.catalogue, side, left_out).sum())
        for side in rows.placement.destinations
    )
    return PlanNumbers(
        copies=len(rows),
        bytes=rows.total_bytes,
        local_bytes=rows.local_bytes,
        cross_node_bytes=rows.cross_node_bytes,
        max_send_bytes=int(first.send_bytes.max(initial=0)),
        max_forward_bytes=max((int(hop.send_bytes.max()) for hop in later), default=0),
        max_recv_bytes=int(rows.recv_bytes.max(initial=0)),
        max_peer_bytes=rows.busiest_bytes(rows.remote & ~rows.crosses_nodes),
        max_cross_node_bytes=rows.busiest_bytes(rows.crosses_nodes),
        lower_bounds=bounds,
        left_out_tensors=int(left_out.sum()),
        left_out_bytes=held,
    )


def ended(record: Record, status: Status, reason: str) -> Record:
    """The record of a point that reports no times."""
    return replace(record, status=status, reason=reason, finished_at=now())


def write(path: Path, record: Record) -> None:
    """Write by rename; what lies there and is no record is kept aside.

    Raises:
        OSError: as from the file system; an earlier file is untouched.
    """
    if path.exists() and Record.find(path) is None:
        path.rename(_aside(path))
    write_atomic(path, json.dumps(asdict(record), indent=2) + "\n")


def _aside(path: Path) -> Path:
    """A name beside a path that nothing has: timing.json.damaged-1."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count_from(1))
    return next(name for name in names if not name.exists())


def keep(record: Record, *paths: Path) -> Record:
    """Write how a point ended to each path in turn, as all do who end one.

    Returns:
        The record; where the disk refuses a path, as failed and without times, as a time that
        nobody can look up again is none. An earlier file there is untouched, and a sweep goes on.
    """
    for path in paths:
        try:
            write(path, record)
        except OSError as error:
            lost = f"cannot write {path}: {error.strerror or error}"
            reason = f"{lost}; {record.reason}" if record.reason else lost
            return ended(replace(record, seconds=None, throughput=None), "failed", reason)
    return record


def _side(layout: Layout, num_layers: int) -> Side:
    names = ("tp", "cp", "pp", "ep", "etp", "dp", "edp", "gpus")
    counted = layout.counts_embedding or layout.counts_loss
    listed = layout.listed_layers is not None or layout.virtual_stages > 1 or counted
    return Side(
        ranks=list(layout.ranks),
        **{name: getattr(layout, name) for name in names},
        first_stage_layers=layout.first_stage_layers,
        last_stage_layers=layout.last_stage_layers,
        kind=None if layout.kind == "megatron" else layout.kind,
        shard=layout.shard if layout.kind == "fsdp" else None,
        dtype=layout.dtype,
        vocab_rows=layout.vocab_rows,
        expert_slots=layout.expert_slots,
        padding=None if layout.padding_is_checked else "unchecked",
        order=None if layout.order == DEFAULT else layout.order,
        virtual_stages=layout.virtual_stages if layout.virtual_stages > 1 else None,
        layers_per_stage=layout.layers_per_stage(num_layers) if listed else None,
    )
