"""What single methods need besides what their entries say, in code. Torch-free."""

from __future__ import annotations

import importlib.util
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from refit.job import Job
from refit.layout.layout import Placement
from refit.layout.place import place
from refit.model import megatron_versions
from refit.rules import devices

SHARED_BY_NCCL = "NCCL_MULTI_RANK_GPU_ENABLE"  # of NCCL 2.30 and later


def gpu_per_rank(job: Job, placement: Placement) -> str | None:
    """Why NCCL cannot have these ranks, or None: before 2.30 each needs a GPU of its own."""
    env = {**os.environ, **(job.cluster.env or {})}
    if devices.ranks_per_gpu(placement) > 1 and str(env.get(SHARED_BY_NCCL, "0")) == "0":
        ranks = min(placement.ranks_per_node, placement.world)
        return (
            f"nccl needs a GPU for each rank; this node has {devices.gpus()} for {ranks} ranks;"
            " use refit=ipc or nvshmem, which can share one"
        )
    return None


def nvshmem(job: Job, placement: Placement) -> str | None:
    """Why NVSHMEM cannot run here, or None.

    Its notes of 2.4.1: where processes share a GPU there are no waits on streams without MPS.
    """
    wheels = [cuda for cuda in devices.LEAST_DRIVER if _has(f"nvshmem4py-cu{cuda}")]
    wheel = f"nvshmem4py-cu{wheels[0]}" if wheels else ""
    if wheel and (reason := devices.too_old(wheel, wheels[0], devices.driver())):
        return f"{reason}; install nvshmem4py for an older CUDA, or a later driver"
    ranks = devices.ranks_per_gpu(placement)
    if ranks > 1 and not devices.mps():
        return (
            f"nvshmem with {ranks} ranks on one GPU needs CUDA's Multi-Process Service, which does"
            " not run here; start it with nvidia-cuda-mps-control -d, or use refit=ipc"
        )
    return None


def not_megatrons(job: Job) -> str | None:
    """Why megatron-core's own refit cannot do this on any machine, or None."""
    if job.build != "megatron":
        return (
            f"refit=megatron is megatron-core's own refit, which takes GPTModels; build={job.build}"
            " has none, use build=megatron"
        )
    if job.refit.fanout != "direct":
        return "refit=megatron plans for itself, and has no fan-out; use refit.fanout=direct"
    if job.model.lora is not None:
        return "refit=megatron knows no adapters, and model.lora asks for them; use another method"
    if job.parallel.destinations is not None:
        return (
            "refit=megatron refits one destination, and parallel.destinations is a list; use"
            " another method, or a pair with parallel.destination"
        )
    for name, layout in place(job).sides.items():
        if layout.virtual_stages > 1:
            return (
                f"refit=megatron refits a rank's first model alone, and of parallel.{name} a rank"
                f" has {layout.virtual_stages}, one per virtual stage; use another"
                " method, or one stage per rank"
            )
    if job.refit.include is not None or job.refit.exclude is not None:
        return (
            "refit=megatron moves every tensor that it knows; leave refit.include and refit.exclude"
            " out, or use another method"
        )
    for name, side in job.parallel.sides.items():
        fields = "kind", "dtype", "make_vocab_size_divisible_by"
        for field in (*fields, "share_embeddings_and_output_weights"):
            value = getattr(side, field)
            if value not in (None, "megatron", "bfloat16"):
                return (
                    "refit=megatron takes GPTModels that differ in their degrees alone, and"
                    f" parallel.{name}.{field}={value}; use another method"
                )
    if job.mode == "plan" and job.refit.peer_names != "production":
        return (
            "mode=plan gives megatron-core's planner experts under production's names;"
            " use refit.peer_names=production, or mode=measure"
        )
    return None


def megatron(job: Job, placement: Placement) -> str | None:
    """Why megatron-core's copy service cannot run here, or None: what can be known by reading.

    What shows only when a service starts, `refit.transport.megatron` says on the ranks.
    """
    backend = job.refit.backend
    if backend != "auto" and (reason := megatron_versions.no_backend(backend)):
        return f"refit.backend={backend}: {reason}"
    if devices.device(job) == "cpu" and backend in ("nccl", "nvshmem"):
        # its nccl service would run here all the same, over gloo
        return f"refit.backend={backend} moves GPU memory; {on_cpu()}; use refit.backend=gloo"
    if backend == "nixl" and not installed("nixl"):
        return "refit.backend=nixl: nixl is not installed; pip install 'refit-sweep[nixl]'"
    if devices.device(job) == "cuda" and backend in ("auto", "nccl"):
        reason = gpu_per_rank(job, placement)
        return reason and f"refit.backend=nccl: {reason}, or refit.backend=gloo"
    if backend == "nvshmem":
        lacks = megatron_versions.nvshmem_lacks({**os.environ, **(job.cluster.env or {})})
        if lacks:
            return (
                f"refit.backend=nvshmem: megatron-core {megatron_versions.VERSION} cannot start its"
                f" nvshmem service here: {'; '.join(lacks)}; or use refit.backend=nccl or gloo"
            )
        return nvshmem(job, placement)
    return None


def on_cpu() -> str:
    """Why a job's ranks are on CPUs."""
    return devices.no_cuda() or "this point's ranks are on CPUs (cluster.device=cpu)"


def installed(module: str) -> bool:
    """Whether a module can be imported here; it is not."""
    return importlib.util.find_spec(module) is not None


def _has(distribution: str) -> bool:
    with suppress(PackageNotFoundError):
        return bool(version(distribution))
    return False
