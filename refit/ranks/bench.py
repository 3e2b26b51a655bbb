"""One rank of one point: cold refit, warm-up, timed iterations, and the checks on the result."""

from __future__ import annotations

import importlib
import resource
import statistics
import time
from collections.abc import Callable

import numpy
import torch
import torch.distributed as dist

from refit.job import Job
from refit.layout.layout import place
from refit.model.architecture import catalogue
from refit.model.convention import convention
from refit.model.megatron_versions import VERSION
from refit.model.weight_bytes import weight_bytes
from refit.plan.build import build_plan
from refit.ranks import device as rank_device
from refit.record.record import RankReport, Span
from refit.rules import methods
from refit.transport import Transport
from refit.transport.staged import Staged
from refit.weights import memory, models
from refit.weights.logits import compare_logits
from refit.weights.pattern import Check, Pattern
from refit.weights.slab import Slab

PROGRESS_S = 0.1  # between two words on timed iterations: telling takes the time of other ranks

COPY_BYTES = 2e9  # of all destinations together: more than any cache holds
COPIES = 10  # the most that the memory copy is timed


def run(job: Job, rank: int, slab: Slab, progress: Callable[[str], None]) -> RankReport:
    """Measure one point on this rank.

    torch.distributed is up, and every rank of the world calls this.

    Args:
        job: possible (`refit.rules.impossible`) and supported (`refit.rules.methods`).
        rank: this rank.
        slab: memory for this rank's source and destination.
        progress: told what the rank is about to do.
    """
    placement = place(job)
    method, _ = methods.choose(job, placement)
    module, name = methods.locate(method)
    kind: Callable[..., Transport] = getattr(importlib.import_module(module), name)
    transport = kind(job.refit)
    if job.refit.fanout == "hierarchical":
        transport = Staged(lambda: kind(job.refit))
    device = rank_device.own(job, placement, rank)
    form, _ = convention(job)
    tensors = catalogue(job.model, placement.source.tp, form)
    sides = (placement.source, placement.destination)
    rank_device.require(
        sum(weight_bytes(tensors, side, rank) for side in sides),
        device,
        rank // placement.ranks_per_node,
    )
    progress("building models")
    # source first on every rank: process groups are made in one order
    built = (
        models.build(job, placement, "source", rank, slab, device),
        models.build(job, placement, "destination", rank, slab, device),
    )
    source, destination = (b.weights if b else None for b in built)

    progress("filling weights")
    old, new, finite = Pattern(job.seed, 0), Pattern(job.seed, 1), Pattern(job.seed, 2, finite=True)
    for weights, write in ((source, old.fill), (destination, old.poison)):
        if weights:
            weights.populate()
            write(weights)

    progress("cold refit")
    fanout = job.refit.fanout
    plans_itself = getattr(transport, "plans_itself", False)
    ready = build_plan(tensors, placement, fanout) if plans_itself else None
    host_peak = _host_peak()
    before = memory.forget_peak()

    def first() -> dict[str, float]:
        started = time.perf_counter()
        plan = build_plan(tensors, placement, fanout) if ready is None else ready
        planned = time.perf_counter()
        transport.prepare(plan, rank, source, destination)
        prepared = time.perf_counter()
        transport.execute()
        moved = time.perf_counter() - prepared
        own_s = getattr(transport, "plan_s", 0.0)
        return {
            "plan": planned - started + own_s,
            "prepare": prepared - planned - own_s,
            "transfer": moved,
        }

    cold, cold_phases = _timed(first)
    for i in range(job.bench.warmup):
        progress(f"warm-up {i + 1}/{job.bench.warmup}")
        _timed(transport.execute)
    warm, phases, told = [], [], -PROGRESS_S
    for i in range(job.bench.iterations):
        if time.monotonic() - told >= PROGRESS_S:
            progress(f"timed iteration {i + 1}/{job.bench.iterations}")
            told = time.monotonic()
        span, seconds = _timed(transport.execute)
        warm.append(span)
        phases.append(seconds)
    refit_peak = memory.peak_since(before)
    progress("verifying")
    found = old.check(destination) if destination else Check(0, 0)

    progress("refit of changed weights")
    if source:
        new.fill(source)
    _timed(transport.execute)
    progress("verifying changed weights")
    found += new.check(destination) if destination else Check(0, 0)
    kept = new.check(source) if source else Check(0, 0)

    logits = None
    if job.verify == "logits":
        progress("comparing logits")
        if source:
            finite.fill(source)
        _timed(transport.execute)
        logits = compare_logits(job, placement, rank, built[0], built[1])
    staging, details = transport.staging_bytes, getattr(transport, "details", {})
    moved = getattr(transport, "moved", None)
    transport.close()
    progress("measuring the memory copy rate")
    arena = destination.arena if destination else torch.empty(0, dtype=torch.uint8)
    nbytes = torch.tensor(arena.numel())
    dist.all_reduce(nbytes)
    share = min(1.0, COPY_BYTES / int(nbytes))
    limit = [_copy_time(arena, share) for _ in range(min(job.bench.iterations, COPIES))]
    return RankReport(
        rank=rank,
        node=rank // placement.ranks_per_node,
        active=source is not None or destination is not None,
        cold=cold,
        warm=warm,
        limit=limit,
        limit_share=share,
        cold_phases=cold_phases,
        phases={name: statistics.median(p[name] for p in phases) for name in phases[0]},
        elements=found.elements,
        mismatches=found.mismatches,
        first_mismatch=found.first,
        source_mismatches=kept.mismatches,
        logits=logits,
        host_peak_bytes=max(host_peak, _host_peak()),
        refit_peak_bytes=refit_peak,
        staging_bytes=staging,
        transport=details,
        plans_itself=plans_itself,
        moved=moved,
        versions={
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "megatron_core": VERSION,
        },
        device_peak_bytes=rank_device.peak_bytes(),
        device=rank_device.name(device),
    )


def _host_peak() -> int:
    """The most memory that was resident in this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _timed(work: Callable[[], dict[str, float]]) -> tuple[Span, dict[str, float]]:
    """Run something on all ranks at once; this rank's start and end, and what the work returned."""
    rank_device.synchronize()
    dist.barrier()
    start = time.perf_counter()
    phases = work()
    rank_device.synchronize()
    span = Span(start, time.perf_counter())
    # a source that nobody waits for must not change its weights while others still read
    dist.barrier()
    return span, phases


def _copy_time(arena: torch.Tensor, share: float) -> Span:
    """Copy a share of the arena's bytes from its one half to its other.

    That is what this machine's memory can do for this rank, on the very pages that a refit writes.
    The weights in them are gone then.
    """

    def copy() -> dict[str, float]:
        half = arena.numel() // 2
        todo = round(share * arena.numel())
        while todo:
            part = min(todo, half)
            arena[:part].copy_(arena[half : half + part])
            todo -= part
        return {}

    return _timed(copy)[0]
