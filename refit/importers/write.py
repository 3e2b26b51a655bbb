"""A job -> the flags of Megatron-LM's examples/rl/benchmark_refit.py that are the same job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import lcm
from typing import Any

from refit.errors import UserError
from refit.importers import flags, write_model
from refit.importers.read import STAGES
from refit.job import Degrees, Job, Refit
from refit.rules import methods

SCRIPT = "examples/rl/benchmark_refit.py"


@dataclass
class Written:
    """A command.

    Attributes:
        words: of the flags.
        world: ranks to start it on.
        notes: what flags do not say, or what the benchmark does otherwise.
    """

    words: list[str]
    world: int
    notes: list[str]

    def command(self, ranks_per_node: int) -> list[str]:
        """The whole line; Megatron demands the variable for TP and CP."""
        per_node = max(n for n in range(1, ranks_per_node + 1) if self.world % n == 0)
        nodes = self.world // per_node
        many = [f"--nnodes={nodes}"] if nodes > 1 else []
        launcher = ["torchrun", f"--nproc-per-node={per_node}", *many]
        return ["CUDA_DEVICE_MAX_CONNECTIONS=1", *launcher, SCRIPT, *self.words]


def write(job: Job, defaults: Job) -> Written:
    """The command of a job.

    Args:
        defaults: a job of the same `refit` option, where nothing else is said.

    Raises:
        UserError: flags cannot say the job; every reason is named.
    """
    if reasons := [
        *_unsaid_of_sides(job),
        *_unsaid_of_refit(job.refit),
        *write_model.unsaid(job.model),
    ]:
        raise UserError("Megatron's flags cannot say " + "; nor ".join(reasons))
    notes: list[str] = []
    world = _world(job, notes)
    words = [
        *_degrees(job),
        *write_model.words(job.model),
        *({"float16": ["--fp16"], "float32": []}.get(_dtype(job), ["--bf16"])),
        "--micro-batch-size",
        "1",
        *_options({"refit-mode": job.placement_mode, "refit-method": _method(job, notes)}),
        *_options({
            "num-benchmark-iterations": job.bench.iterations,
            "num-benchmark-warmup": job.bench.warmup + 1,  # the cold one is one of them
        }),
    ]  # fmt: skip
    notes += _remarks(job)
    notes += _of_ours_alone(job, defaults)
    return Written(words, world, notes)


def _options(values: dict[str, Any]) -> Iterator[str]:
    """Flags with a value each; those without one are left out."""
    for name, value in values.items():
        if value is not None:
            yield f"--{name}"
            yield str(value)


# -- sides


def _degrees(job: Job) -> list[str]:
    """Both sides; of the destination its stages are the source's, or dealt out evenly."""
    source, destination = job.parallel.source, job.parallel.destination
    words = [*_side(source, flags.SOURCE), *_side(destination, flags.DESTINATION)]
    return [*words, *(["--use-tp-pp-dp-mapping"] if _swapped(source) else [])]


def _side(side: Degrees, names: Any) -> Iterator[str]:
    for name, one in names.items():
        value = getattr(side, one.field)
        if one.form == "on":
            if value:
                yield f"--{name}"
        elif not (name == "context-parallel-size" and value == 1):
            yield from _options({name: value})


def _swapped(side: Degrees) -> bool:
    return (side.order or "").lower() == "tp-cp-ep-pp-dp"


def _size(side: Degrees) -> int:
    return side.tp * side.cp * side.pp * side.ep


def _dtype(job: Job) -> str:
    return job.parallel.source.dtype or "bfloat16"


def _unsaid_of_sides(job: Job) -> Iterator[str]:
    """Why the benchmark's two sides cannot be these."""
    pair = job.parallel
    if pair.destinations is not None:
        yield "parallel.destinations, several of them"
        return
    for name, side in pair.sides.items():
        for key in (
            "kind", "gate_up_interleaved", "shard", "expert_slots", "offset", "node_aligned",
            "share_embeddings_and_output_weights", "make_vocab_size_divisible_by", "padding",
        ):  # fmt: skip
            value = getattr(side, key)
            if value is not None and (key, value) != ("kind", "megatron"):
                yield f"parallel.{name}.{key}={value}"
        if side.order is not None and not _swapped(side) and side.order.lower() != "tp-cp-ep-dp-pp":
            yield f"parallel.{name}.order={side.order}"
    source, destination = pair.source, pair.destination
    if _swapped(source) != _swapped(destination):
        yield "an order of ranks that is one side's alone"
    if (source.dtype or "bfloat16") != (destination.dtype or "bfloat16"):
        yield f"parallel.destination.dtype={destination.dtype}, another than the source's"
    if source.cp != destination.cp:
        yield f"parallel.destination.cp={destination.cp}, which it takes from the source"
    layers = [[getattr(side, key) or None for key in STAGES] for side in (source, destination)]
    if layers[1] != (layers[0] if source.pp == destination.pp else [None] * len(STAGES)):
        yield "layers of the destination's stages, which it takes from the source"
    if isinstance(source.pipeline_model_parallel_layout, list):
        yield "parallel.source.pipeline_model_parallel_layout as a list; write 'Et*3|tL'"
    if job.placement_mode == "non-collocated":
        for name, side in pair.sides.items():
            if side.gpus not in (None, _size(side)) or side.cp > 1:
                yield (
                    f"parallel.{name}.gpus={side.gpus or _size(side)}: non-collocated, a side is"
                    f" one replica of tp*pp*ep = {_size(side) // side.cp} ranks"
                )


def _world(job: Job, notes: list[str]) -> int:
    """Ranks to start the benchmark on: collocated, each side lies on all of them."""
    source = job.parallel.source
    sizes = {name: side.gpus or _size(side) for name, side in job.parallel.sides.items()}
    if job.placement_mode == "collocated":
        world = max(sizes.values())
        for name, size in sizes.items():
            if size < world:
                notes.append(
                    f"parallel.{name}.gpus={size}: the benchmark lays each side out on all {world}"
                )
        return world
    etp = job.parallel.etp_of(source) if job.model.is_moe else 1
    least = source.pp * lcm(source.tp * source.cp, etp * source.ep)
    needed = sizes["source"] + sizes["destination"]
    world = -(-needed // least) * least
    if world > needed:
        notes.append(
            f"{world - needed} of {world} ranks are idle: {needed} are needed, and Megatron demands"
            f" a multiple of the source's {least}"
        )
    if source.pp > 1:
        notes.append(
            "non-collocated with a source of several stages, the benchmark's groups of the source"
            " span the whole world, and parts of the model are missing"
        )
    return world


def _remarks(job: Job) -> Iterator[str]:
    """What is known to be wrong in the benchmark, as far as it concerns the job."""
    source, destination = job.parallel.source, job.parallel.destination
    if source.pp != destination.pp:
        yield (
            "the benchmark never sets the destination's pipeline size in its config, and builds"
            " another number of layers than the model has"
        )
        if any(getattr(source, key) for key in STAGES):
            yield "the benchmark gives the destination the source's layers per stage"
    if job.model.is_moe and job.parallel.etp_of(source) != job.parallel.etp_of(destination):
        yield "Megatron's refit mis-orders the rows of gated experts where ETP changes"
    if _dtype(job) == "float32":
        yield "float32 is said by neither --bf16 nor --fp16, which is read back as bfloat16"


# -- how


def _method(job: Job, notes: list[str]) -> str:
    """The copy service; of `auto` what it is on GPUs, of `megatron` its backend."""
    method = job.refit.method
    if method == "auto":
        chosen = methods.ON_GPUS[job.placement_mode][0]
        notes.append(f"refit=auto: {chosen}, which it is on GPUs")
        return chosen
    if method == "megatron":
        backend = "nccl" if job.refit.backend == "auto" else job.refit.backend
        notes.append(
            f"refit=megatron: its own refit is what the benchmark runs; read back it is"
            f" refit={backend}"
        )
        return backend
    return method


def _unsaid_of_refit(refit: Refit) -> Iterator[str]:
    """Ways of travel that Megatron does not have."""
    if refit.method not in ("auto", "megatron", "gloo", "nccl", "nvshmem"):
        yield f"refit={refit.method}: --refit-method is gloo, nccl or nvshmem"
    if refit.backend == "nixl":
        yield "refit.backend=nixl: --refit-method is gloo, nccl or nvshmem"
    if refit.fanout != "direct":
        yield f"refit.fanout={refit.fanout}"
    for key in ("include", "exclude"):
        if (value := getattr(refit, key)) is not None:
            yield f"refit.{key}={value}"


def _of_ours_alone(job: Job, defaults: Job) -> Iterator[str]:
    """Settings of this program that differ from what it has by itself; flags know none of them."""
    said: dict[str, Any] = {}
    for part in ("refit", "cluster", "sweep"):
        values, usual = asdict(getattr(job, part)), asdict(getattr(defaults, part))
        skip = ("name", "method", "mode", "backend") if part == "refit" else ("name",)
        said |= {
            f"{part}.{key}": value
            for key, value in values.items()
            if key not in skip and value != usual[key]
        }
    for key in ("build", "verify", "seed", "mode"):
        if getattr(job, key) != getattr(defaults, key):
            said[key] = getattr(job, key)
    if job.bench.deadline_s != defaults.bench.deadline_s:
        said["bench.deadline_s"] = job.bench.deadline_s
    if said:
        yield "of refit-sweep alone, left out: " + ", ".join(f"{k}={v}" for k, v in said.items())
