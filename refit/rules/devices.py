"""Which device a job's ranks use, and how many of them a node has. Torch-free."""

from __future__ import annotations

import importlib.util
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from refit.job import Job
from refit.layout.layout import Placement

Device = Literal["cpu", "cuda"]

LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""By CUDA's major version the driver that what is built for it needs (CUDA's release notes)."""

DRIVER = Path("/proc/driver/nvidia/version")


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
    if reason := too_old("the installed torch", torch_cuda(), driver()):
        return f"{reason}; install a torch for an older CUDA, or a later driver"
    return None


def too_old(what: str, cuda: int | None, release: int | None) -> str | None:
    """Why a driver is too old for something, or None.

    Args:
        what: in words.
        cuda: the major version that it is built for; None: unknown.
        release: the driver's; None: unknown.
    """
    least = LEAST_DRIVER.get(cuda or 0)
    # CUDA's forward compatibility: user-space parts of a later driver, first on the path
    is_helped = "compat" in os.environ.get("LD_LIBRARY_PATH", "")
    if least is None or release is None or release >= least or is_helped:
        return None
    return (
        f"{what} is built for CUDA {cuda}, which needs a driver of {least} or later, and this node"
        f" has {release}"
    )


def driver() -> int | None:
    """The release of this node's NVIDIA driver, 580 say; None where the kernel does not tell."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+)\.\d", DRIVER.read_text())
    except OSError:
        return None
    return int(found[1]) if found else None


def torch_cuda() -> int | None:
    """CUDA's major version that the installed torch is built for; None without."""
    torch, text = importlib.util.find_spec("torch"), ""
    with suppress(OSError):
        if torch is not None and torch.origin is not None:
            text = (Path(torch.origin).parent / "version.py").read_text()
    found = re.search(r"^cuda\b.*= *'(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None


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
