"""One record as one flat row: the columns of the table, of CSV and of Parquet."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from refit.record.allocation import ran_on
from refit.record.record import Record


@dataclass(frozen=True)
class Row:
    """One point, flat. `None` where the record reports nothing; docs/numbers.md says the rest."""

    name: str
    id: str
    kind: str
    model: str
    parallel: str
    refit: str
    method: str | None
    placement: str
    cluster: str
    build: str
    seed: int
    repetition: int
    status: str
    reason: str
    ranks: int | None  # that hold weights
    world: int | None
    bytes: int | None
    cross_node_bytes: int | None
    cold_s: float | None
    median_s: float | None
    p90_s: float | None
    max_s: float | None
    drift: float | None
    floor_s: float | None
    estimate_s: float | None
    gbps: float | None
    limit_gbps: float | None
    limit_source: str | None
    memory_copy_gbps: float | None
    peer_copy_gbps: float | None
    fraction: float | None
    refit_peak_bytes: int | None
    growth: float | None
    elements: int | None
    mismatches: int | None
    host: str | None
    nodes: str | None  # that it ran on: node1,node2
    partition: str | None
    device: str | None
    commit: str | None
    dirty: bool | None
    started_at: str
    finished_at: str
    overrides: str

    @staticmethod
    def of(record: Record) -> Row:
        """The row of a record."""
        config, placed, plan = record.config, record.layout, record.plan
        seconds, throughput, imported = record.seconds, record.throughput, record.imported
        memory, checked = record.memory, record.verification
        nodes, partition = ran_on(record.environment)
        measured = {limit.kind: limit.gbps for limit in throughput.limits} if throughput else {}
        return Row(
            name=record.name,
            id=record.id,
            kind=record.kind,
            model=config["model"]["name"],
            parallel=config["parallel"]["name"],
            refit=config["refit"]["name"],
            method=record.method,
            placement=record.placement,
            cluster=config["cluster"]["name"],
            build=config["build"],
            seed=config["seed"],
            repetition=config["sweep"]["repetition"],
            status=record.status,
            reason=record.reason,
            ranks=placed.used if placed else None,
            world=placed.world if placed else None,
            bytes=plan.bytes if plan else imported.bytes if imported else None,
            cross_node_bytes=plan.cross_node_bytes if plan else None,
            cold_s=seconds.cold if seconds else imported.cold if imported else None,
            median_s=seconds.median if seconds else imported.median if imported else None,
            p90_s=seconds.p90 if seconds else None,
            max_s=seconds.max if seconds else max(imported.seconds) if imported else None,
            drift=seconds.drift if seconds else None,
            floor_s=record.floor_s,
            estimate_s=record.estimate_s,
            gbps=throughput.gbps if throughput else None,
            limit_gbps=throughput.limit_gbps if throughput else None,
            limit_source=throughput.limit_source if throughput else None,
            memory_copy_gbps=measured.get("memory"),
            peer_copy_gbps=measured.get("peers"),
            fraction=throughput.fraction if throughput else None,
            refit_peak_bytes=memory.refit_peak_bytes if memory else None,
            growth=memory.growth if memory else None,
            elements=checked.elements if checked else None,
            mismatches=checked.mismatches + (checked.stamp_mismatches or 0) if checked else None,
            host=record.environment.get("host"),
            nodes=",".join(nodes) or None,
            partition=partition,
            device=record.environment.get("device"),
            commit=record.environment.get("commit"),
            dirty=record.environment.get("dirty"),
            started_at=record.started_at,
            finished_at=record.finished_at,
            overrides=shlex.join(record.overrides),
        )
