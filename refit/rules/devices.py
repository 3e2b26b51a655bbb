"""Which device a job's ranks use, and how many of them a node has. Torch-free."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Literal

from refit.job import Job
from refit.layout.layout import Placement

Device = Literal["cpu", "cuda"]


def device(job: Job) -> Device:
    """What `cluster.device` says; for `auto` a GPU where there is one that torch can use."""
    if job.cluster.device == "auto":
        return "cpu" if no_cuda() else "cuda"
    return "cuda" if job.cluster.device == "cuda" else "cpu"


def missing(job: Job) -> str | None:
    """Why a job cannot run on the device that it asks for, or None."""
    if device(job) == "cpu":
        return None
    if reason := no_cuda():
        return f"cluster.device=cuda: {reason}; use cluster.device=cpu"
    if job.verify == "logits":
        return (
            "verify=logits compares models on CPUs only; use cluster.device=cpu, or verify=bits,"
            " which looks at every element"
        )
    return None


def no_cuda() -> str | None:
    """Why ranks on this node cannot use CUDA, or None."""
    if not gpus():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES={hidden})"
        return f"this node has no NVIDIA GPU{hint}"
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return "torch is not installed"
    if not (Path(torch.origin).parent / "lib" / "libtorch_cuda.so").is_file():
        return "the installed torch is a build without CUDA; install one with it"
    return None


def gpus() -> int:
    """NVIDIA GPUs that processes of this node may use, by its device files."""
    try:
        count = sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev"))
    except OSError:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    # as CUDA reads it: what stands behind an invalid entry is not seen either. A UUID is believed.
    valid = 0
    for entry in (entry.strip() for entry in visible.split(",")):
        is_uuid = entry.startswith(("GPU-", "MIG-"))
        is_index = entry.isdecimal() and int(entry) < count
        if not is_uuid and not is_index:
            break
        valid += 1
    return min(count, valid)


def ranks_per_gpu(placement: Placement) -> int:
    """How many ranks the GPU of this node that has most of them has, at least one."""
    ranks = min(placement.ranks_per_node, placement.world)
    return max(1, -(-ranks // max(gpus(), 1)))


def mps() -> bool:
    """Whether CUDA's Multi-Process Service runs here: the pipe of its control daemon is there."""
    folder = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    return (Path(folder) / "control").exists()
