"""One rank of one point: cold refit, warm-up, timed iterations, and the checks on the result."""

from __future__ import annotations

import importlib
import inspect
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from refit.model.megatron_versions import VERSION
from refit.model.weight_bytes import weight_bytes
from refit.ranks import device as rank_device
from refit.record import environment
from refit.record.parts import Logits
from refit.record.report import RankReport, Span
from refit.rules import methods
from refit.rules.setup import Setup
from refit.rules.values import OF_RANKS
from refit.transport import Transport, Unsupported
from refit.transport.hops import Hops
from refit.weights import memory, models
from refit.weights.logits import compare_logits
from refit.weights.pattern import Check, Pattern
from refit.weights.slab import Slab
from refit.weights.weights import Weights

PROGRESS_S = 0.1  # between two words on timed iterations: telling takes the time of other ranks

COPY_BYTES = 2e9  # of all destinations together: more than any cache holds
COPIES = 10  # the most that the memory copy is timed

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Sides:
    """What this rank holds of the source, and of the destination that it is of; None: nothing."""

    source: Weights | None
    destination: Weights | None


@dataclass(frozen=True)
class _Proof:
    """What was looked at once the times were taken.

    Attributes:
        destination: after the timed refits, and again after one of changed weights.
        source: whether those refits changed what they were to copy.
    """

    destination: Check
    source: Check
    logits: Logits | None


def measure(setup: Setup, rank: int, slab: Slab, progress: Progress) -> RankReport:
    """Measure one point on this rank.

    torch.distributed is up, and every rank of the world calls this.

    Args:
        setup: of a job that is possible (`refit.rules.impossible`) and supported
            (`refit.rules.methods`).
        rank: this rank.
        slab: memory for this rank's source and destination.
        progress: told what the rank is about to do.

    Raises:
        MemoryError: the weights do not fit this rank's device.
        Unsupported: the transport cannot do it here, or is none.
        UserError: megatron-core refuses a model.
    """
    job = setup.job
    if rank in setup.placement.idle:
        progress = _waiting(progress)
    transport = _transport(setup.method)
    hops = Hops(lambda: transport(job.refit))
    device = rank_device.make_current(job, setup.placement, rank)
    sides = _sides(setup, rank, slab, device, progress)
    progress("filling weights")
    trained = Pattern(job.seed, 0)
    _write(sides, trained)
    # asked before the peak is forgotten: that resets what the kernel says of the whole process too
    host_peak = _host_peak()
    before = memory.forget_peak()
    progress("cold refit")
    cold, cold_phases = _cold(setup, hops, rank, sides, plans_itself=transport.plans_itself)
    warm, phases, held_bytes = _warm(setup, hops, progress)
    refit_peak = memory.peak_since(before)
    proof = _proof(setup, hops, rank, sides, trained, progress)
    # asked before close, which empties them
    staging, details, moved = hops.staging_bytes, hops.details, hops.moved
    hops.close()
    progress("measuring the memory copy rate")
    # last of all: it destroys the destination's weights
    limit, share = _copy_rate(sides.destination, min(job.bench.iterations, COPIES))
    return RankReport(
        rank=rank,
        node=setup.placement.node_of(rank),
        active=sides.source is not None or sides.destination is not None,
        cold=cold,
        warm=warm,
        limit=limit,
        limit_share=share,
        cold_phases=cold_phases,
        phases=phases,
        elements=proof.destination.elements,
        mismatches=proof.destination.mismatches,
        first_mismatch=proof.destination.first,
        source_mismatches=proof.source.mismatches,
        logits=proof.logits,
        host_peak_bytes=max(host_peak, _host_peak()),
        refit_peak_bytes=refit_peak,
        staging_bytes=staging,
        transport=details,
        plans_itself=transport.plans_itself,
        moved=moved,
        versions=_versions(),
        held_bytes=held_bytes,
        device_peak_bytes=rank_device.peak_bytes(),
        device=rank_device.name(device),
        variables=environment.variables((*(job.cluster.env or ()), *OF_RANKS)),
        dispatcher=models.dispatcher_of(sides.source) or models.dispatcher_of(sides.destination),
    )


def _waiting(progress: Progress) -> Progress:
    """What an idle rank says: it holds no weights, and passes the others' barriers."""
    return lambda doing: progress(f"waiting, others in '{doing}'")


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "megatron_core": VERSION,
    }


def _transport(method: str) -> type[Transport]:
    """The class of a method.

    Raises:
        Unsupported: what a user named is no transport.
    """
    module, name = methods.locate(method)
    transport = getattr(importlib.import_module(module), name, None)
    if not (isinstance(transport, type) and issubclass(transport, Transport)):
        raise Unsupported(
            f"refit.method={method} is no transport; name a class that extends"
            " refit.transport.Transport"
        )
    if inspect.isabstract(transport):
        lacks = ", ".join(sorted(transport.__abstractmethods__))
        raise Unsupported(f"refit.method={method} lacks {lacks}; see refit.transport.Transport")
    return transport


def _sides(setup: Setup, rank: int, slab: Slab, device: torch.device, progress: Progress) -> _Sides:
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
    return _Sides(source, next((theirs for theirs in destinations if theirs is not None), None))


def _write(sides: _Sides, trained: Pattern) -> None:
    """The trained weights into the source; into the destination what no refit may leave there."""
    if sides.source:
        sides.source.populate()
        trained.fill(sides.source)
    if sides.destination:
        sides.destination.populate()
        trained.poison(sides.destination)


def _cold(
    setup: Setup, hops: Hops, rank: int, sides: _Sides, plans_itself: bool
) -> tuple[Span, dict[str, float]]:
    """The first refit: plan, prepare, transfer. One that plans itself is timed without our plan."""
    untimed = setup.plan() if plans_itself else None

    def first() -> dict[str, float]:
        started = time.perf_counter()
        plan = setup.plan() if untimed is None else untimed
        planned = time.perf_counter()
        hops.prepare(plan, rank, sides.source, sides.destination)
        prepared = time.perf_counter()
        hops.execute()
        moved = time.perf_counter() - prepared
        return {
            "plan": planned - started + hops.plan_s,
            "prepare": prepared - planned - hops.plan_s,
            "transfer": moved,
        }

    return _timed(first)


def _warm(
    setup: Setup, hops: Hops, progress: Progress
) -> tuple[list[Span], dict[str, float], list[int]]:
    """The timed refits, after the warm-up.

    Returns:
        Their spans, the median seconds of each of their phases, and what is held after each: bytes.
    """
    bench = setup.job.bench
    for i in range(bench.warmup):
        progress(f"warm-up {i + 1}/{bench.warmup}")
        _timed(hops.execute)
    warm, phases, held_bytes, told = [], [], [], -PROGRESS_S
    for i in range(bench.iterations):
        if time.monotonic() - told >= PROGRESS_S:
            progress(f"timed iteration {i + 1}/{bench.iterations}")
            told = time.monotonic()
        span, seconds = _timed(hops.execute)
        warm.append(span)
        phases.append(seconds)
        held_bytes.append(memory.held_bytes() + rank_device.held_bytes())
    medians = {name: statistics.median(p[name] for p in phases) for name in phases[0]}
    return warm, medians, held_bytes


def _proof(
    setup: Setup, hops: Hops, rank: int, sides: _Sides, trained: Pattern, progress: Progress
) -> _Proof:
    """Look at every element of what the timed refits left, and of one more of changed weights."""
    progress("verifying")
    destination = _check(trained, sides.destination, setup.travels)
    progress("refit of changed weights")
    changed = Pattern(setup.job.seed, 1)
    if sides.source:
        changed.fill(sides.source)
    _timed(hops.execute)
    progress("verifying changed weights")
    destination += _check(changed, sides.destination, setup.travels)
    if sides.destination and setup.travels is not None:
        destination += trained.check_left_out(sides.destination, setup.travels)
    source = _check(changed, sides.source)
    logits = None
    if setup.job.verify == "logits":
        progress("comparing logits")
        logits = _logits(setup, hops, rank, sides)
    return _Proof(destination, source, logits)


def _check(
    pattern: Pattern, weights: Weights | None, travels: NDArray[numpy.bool_] | None = None
) -> Check:
    """Of every element that the rank holds of a side, and that travels."""
    return pattern.check(weights, travels) if weights else Check(0, 0)


def _logits(setup: Setup, hops: Hops, rank: int, sides: _Sides) -> Logits:
    """The forward passes of both models, after a refit of weights that are all finite."""
    if sides.source:
        Pattern(setup.job.seed, 2, finite=True).fill(sides.source)
    _timed(hops.execute)
    job, placement = setup.job, setup.placement
    return Logits(**compare_logits(job, placement, rank, sides.source, sides.destination))


def _copy_rate(destination: Weights | None, times: int) -> tuple[list[Span], float]:
    """Copies within the destination's own memory; and which share of its bytes each copies."""
    arena = destination.arena if destination else torch.empty(0, dtype=torch.uint8)
    nbytes = torch.tensor(arena.numel())
    dist.all_reduce(nbytes)
    share = min(1.0, COPY_BYTES / int(nbytes))
    return [_copy_time(arena, share) for _ in range(times)], share


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
        remaining = round(share * arena.numel())
        while remaining:
            part = min(remaining, half)
            arena[:part].copy_(arena[half : half + part])
            remaining -= part
        return {}

    return _timed(copy)[0]
