"""One rank of one point: cold refit, warm-up, timed iterations, and the checks on the result."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch

from refit import told
from refit.model.megatron_versions import VERSION
from refit.model.weight_bytes import weight_bytes
from refit.plan.part import Part
from refit.ranks import device as rank_device
from refit.ranks import limit
from refit.ranks.clock import Clock
from refit.ranks.planned import Planned
from refit.ranks.proof import Proof, Sides
from refit.record import environment
from refit.record.moved import Moved
from refit.record.parts import Logits
from refit.record.report import Limits, RankReport, Span
from refit.rules.setup import Setup
from refit.rules.values import OF_RANKS
from refit.transport import find
from refit.transport.hops import Hops
from refit.weights import memory, models
from refit.weights.logits import compare_logits
from refit.weights.slab import Slab

PROGRESS_S = 0.1  # between two words on timed iterations: telling takes the time of other ranks

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Run:
    """What the refits of one rank share."""

    setup: Setup
    rank: int
    device: torch.device
    sides: Sides
    hops: Hops
    plans_itself: bool
    proof: Proof
    clock: Clock
    planned: Planned
    progress: Progress


@dataclass(frozen=True)
class _Refits:
    """What they were, and the copies beside them, by the fields of a `RankReport`."""

    cold: Span
    cold_phases: dict[str, float]
    warm: list[Span]
    warm_phases: dict[str, list[float]]
    held_bytes: list[int]
    host_peak_bytes: int
    refit_peak_bytes: int | None
    device_peak_bytes: int
    logits: Logits | None
    staging_bytes: int | None
    details: dict[str, int | str]
    moved: Moved | None
    limits: Limits


def measure(
    setup: Setup, rank: int, slab: Slab, clock: Clock, planned: Planned, progress: Progress
) -> RankReport:
    """Measure one point on this rank.

    torch.distributed is up, and every rank of the world calls this.

    Args:
        setup: of a job that is possible (`refit.rules.impossible`) and supported
            (`refit.rules.methods`).
        rank: this rank.
        slab: memory for this rank's source and destination.
        clock: that all ranks share.
        planned: where this rank's part of the plan comes from.
        progress: told what the rank is about to do.

    Raises:
        MemoryError: the weights do not fit this rank's device.
        Unsupported: the transport cannot do it here, or is none.
        UserError: megatron-core refuses a model.
    """
    if rank in setup.placement.idle:
        progress = _waiting(progress)
    transport = find.transport(setup.method)
    hops = Hops(lambda: transport(setup.job.refit))
    device = rank_device.make_current(setup.job, setup.placement, rank)
    sides = _sides(setup, rank, slab, device, progress)
    proof = Proof(setup, sides)
    progress("filling weights")
    proof.begin()
    plans_itself = transport.plans_itself
    run = _Run(setup, rank, device, sides, hops, plans_itself, proof, clock, planned, progress)
    return _report(run, _refits(run))


def _refits(run: _Run) -> _Refits:
    """All of them, in order, each of them proven; what they took; and the transport's end.

    Plain copies stand on both sides of the timed ones: where the machine's speed changes, one of
    them has the refits' own.
    """
    # asked before the peak is forgotten: that resets what the kernel says of the whole process too
    host_peak = _host_peak()
    peak = memory.Peak()
    rank_device.forget_peak()
    cold, cold_phases, part = _cold(run)
    host_peak = max(host_peak, _host_peak())
    with peak.aside(), run.proof.beside("the cold refit"):
        run.progress("measuring plain copies")
        copies = limit.Copies(run.setup, run.clock, run.sides, run.rank, part)
        copies.make(limit.BEFORE)
    warm, warm_phases, held_bytes = _warm(run)
    refit_peak, device_peak = peak.bytes, rank_device.peak_bytes()
    logits = _changed(run)
    # asked before close, which empties them
    staging, details, moved = run.hops.staging_bytes, run.hops.details, run.hops.moved
    run.hops.close()
    run.progress("measuring plain copies again")
    copies.make(limit.BEHIND)  # last of all: they destroy the destination's weights
    return _Refits(
        cold=cold,
        cold_phases=cold_phases,
        warm=warm,
        warm_phases=warm_phases,
        held_bytes=held_bytes,
        host_peak_bytes=max(host_peak, _host_peak()),
        refit_peak_bytes=refit_peak,
        device_peak_bytes=device_peak,
        logits=logits,
        staging_bytes=staging,
        details=details,
        moved=moved,
        limits=copies.found(),
    )


def _report(run: _Run, refits: _Refits) -> RankReport:
    setup, sides, proof = run.setup, run.sides, run.proof
    return RankReport(
        rank=run.rank,
        node=setup.placement.node_of(run.rank),
        active=sides.source is not None or sides.destination is not None,
        cold=refits.cold,
        warm=refits.warm,
        limits=refits.limits,
        cold_phases=refits.cold_phases,
        phases={name: statistics.median(each) for name, each in refits.warm_phases.items()},
        warm_phases=refits.warm_phases,
        elements=proof.destination.elements,
        mismatches=proof.destination.mismatches,
        stamps=proof.stamps.elements,
        stamp_mismatches=proof.stamps.mismatches,
        first=proof.first,
        source_mismatches=proof.source.mismatches,
        first_of_source=proof.first_of_source,
        proof_s=proof.seconds,
        logits=refits.logits,
        host_peak_bytes=refits.host_peak_bytes,
        refit_peak_bytes=refits.refit_peak_bytes,
        staging_bytes=refits.staging_bytes,
        transport=refits.details,
        plans_itself=run.plans_itself,
        moved=refits.moved,
        versions=_versions(),
        held_bytes=refits.held_bytes,
        device_peak_bytes=refits.device_peak_bytes,
        device=rank_device.name(run.device),
        variables=_variables(setup, run.device),
        dispatcher=models.dispatcher_of(sides.source) or models.dispatcher_of(sides.destination),
    )


def _variables(setup: Setup, device: torch.device) -> dict[str, str]:
    env = setup.job.cluster.env or {}
    names = (*env, *OF_RANKS, *(rank_device.VARIABLES if device.type == "cuda" else ()))
    return told.variables_as_written(environment.variables(names), env)


def _waiting(progress: Progress) -> Progress:
    """What an idle rank says: it holds no weights, and passes the others' barriers."""
    return lambda doing: progress(f"waiting, others in '{doing}'")


def _versions() -> dict[str, str]:
    return {
        "torch": str(torch.__version__),  # its own class would have the agent import torch
        "numpy": numpy.__version__,
        "megatron_core": VERSION,
    }


def _sides(setup: Setup, rank: int, slab: Slab, device: torch.device, progress: Progress) -> Sides:
    """Make this rank's models or shards."""
    job, placement, catalogue = setup.job, setup.placement, setup.catalogue
    nbytes = sum(weight_bytes(catalogue, side, rank) for side in placement.sides.values())
    rank_device.require(nbytes, device, placement.node_of(rank))
    progress("building models")
    # in one order on every rank, as process groups are made
    source, *destinations = [
        models.build(job, placement, name, catalogue, rank, slab, device)
        for name in placement.sides
    ]
    return Sides(source, next((theirs for theirs in destinations if theirs is not None), None))


def _cold(run: _Run) -> tuple[Span, dict[str, float], Part]:
    """The first refit: plan, prepare, transfer. One that plans itself is timed without our plan.

    Returns:
        Its span, its phases, and this rank's part of our plan.
    """
    setup, hops, sides = run.setup, run.hops, run.sides
    part = run.planned.part(setup) if run.plans_itself else None
    run.progress("cold refit")

    def first() -> dict[str, float]:
        nonlocal part
        started = time.perf_counter()
        part = part or run.planned.part(setup)
        planned = time.perf_counter()
        hops.prepare(part.hops, run.rank, sides.source, sides.destination)
        prepared = time.perf_counter()
        hops.execute()
        moved = time.perf_counter() - prepared
        return {
            "plan": planned - started + hops.plan_s,
            "prepare": prepared - planned - hops.plan_s,
            "transfer": moved,
        }

    span, phases = run.clock.timed(first, lambda: run.proof.whole("the cold refit"))
    assert part is not None
    return span, phases, part


def _warm(run: _Run) -> tuple[list[Span], dict[str, list[float]], list[int]]:
    """The timed refits, after the warm-up; each of them with stamps of its own.

    Returns:
        Their spans, of each phase its seconds in each, and what is held after each: bytes.
    """
    bench, proof, progress = run.setup.job.bench, run.proof, run.progress

    def refit(doing: str) -> tuple[Span, dict[str, float]]:
        proof.stamp()
        return run.clock.timed(run.hops.execute, lambda: proof.look(doing))

    for i in range(bench.warmup):
        progress(f"warm-up {i + 1}/{bench.warmup}")
        refit(f"warm-up {i + 1}")
    warm, phases, held_bytes, told = [], [], [], -PROGRESS_S
    for i in range(bench.iterations):
        if time.monotonic() - told >= PROGRESS_S:
            progress(f"timed iteration {i + 1}/{bench.iterations}")
            told = time.monotonic()
        span, seconds = refit(f"timed iteration {i + 1}")
        proof.whole_if_chosen(i, f"timed iteration {i + 1}")
        warm.append(span)
        phases.append(seconds)
        held_bytes.append(memory.held_bytes() + rank_device.held_bytes())
    return warm, {name: [p[name] for p in phases] for name in phases[0]}, held_bytes


def _changed(run: _Run) -> Logits | None:
    """A refit of changed weights, every element looked at; for verify=logits one more."""
    proof, execute = run.proof, run.hops.execute
    run.progress("refit of changed weights")
    proof.renew(1)
    run.clock.timed(execute, lambda: proof.whole("the refit of changed weights"))
    logits = None
    if run.setup.job.verify == "logits":
        run.progress("comparing logits")
        proof.renew(2, finite=True)  # so that a forward pass can run on them
        run.clock.timed(execute)
        of, sides = run.setup, run.sides
        compared = compare_logits(of.job, of.placement, run.rank, sides.source, sides.destination)
        logits = Logits(**compared)
    run.progress("verifying the source")
    proof.end()
    return logits


def _host_peak() -> int:
    """The most memory that was resident in this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
