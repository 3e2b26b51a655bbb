"""One rank's device: which it is, how much it holds, and waiting for it. Needs torch.

What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from refit.job import Job
from refit.layout.layout import Placement
from refit.rules import devices

CONNECTIONS, SHARE = "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
VARIABLES = (CONNECTIONS, SHARE)
"""What `before_cuda` may set, under which a time was measured."""


def before_cuda(job: Job, placement: Placement) -> None:
    """What CUDA reads of the environment when a process begins to use it; what is set stays.

    One connection, which Megatron's launch scripts ask for, would have waits on a stream hold up
    the other streams, so a value that only the shell has said does not stay.

    Where ranks share a GPU under CUDA's Multi-Process Service, each gets its share: NVSHMEM, and
    NCCL with more than one rank on a GPU, ask that shares add up to no more than the whole.
    """
    if CONNECTIONS not in (job.cluster.env or {}):
        os.environ[CONNECTIONS] = "32"
    if devices.mps() and (ranks := devices.ranks_per_gpu(placement)) > 1:
        os.environ.setdefault(SHARE, str(100 // ranks))


def make_current(job: Job, placement: Placement, rank: int) -> torch.device:
    """This rank's device: the CPU, or `cuda:{local rank % GPUs of the node}`; idle ranks' too."""
    if devices.device(job) == "cpu":
        return torch.device("cpu")
    index = rank % placement.ranks_per_node % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def require(nbytes: int, device: torch.device, node: int) -> None:
    """Check that the weights of all ranks that share a GPU fit it; all ranks call together.

    Of CPU ranks the agent has asked: `refit.weights.memory.shortage`.

    It counts weights only. CUDA's own memory and staging come on top, so what passes may still run
    out, and then fails as `oom` as well.

    Args:
        nbytes: of this rank's weights, both sides.
        node: number of this rank's node.

    Raises:
        MemoryError: they do not.
    """
    if device.type != "cuda":
        return
    free = torch.cuda.mem_get_info(device)[0]
    mine = (node, str(device))
    gathered = [(mine, nbytes)] * dist.get_world_size()
    dist.all_gather_object(gathered, (mine, nbytes))
    needs = [of_rank for where, of_rank in gathered if where == mine]
    if sum(needs) > free:
        raise MemoryError(
            f"{device} of node {node} has {free / 1e9:.2f} GB free; the weights of its"
            f" {len(needs)} ranks need {sum(needs) / 1e9:.2f} GB; use a smaller model or more GPUs"
        )


def synchronize() -> None:
    """Wait for all that this process has given its GPU; nothing where it uses none."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Watch:
    """How long a GPU says that it was at some work, by two events on this rank's current stream.

    A transport's work on other streams is in it, as a destination is usable once it has returned.
    Of a CPU it knows nothing.
    """

    def __init__(self) -> None:
        ends = 2 if torch.cuda.is_initialized() else 0
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(ends)]

    def start(self) -> None:
        """Before the work."""
        for event in self._events[:1]:
            event.record()

    def stop(self) -> None:
        """After it."""
        for event in self._events[1:]:
            event.record()

    def seconds(self) -> float | None:
        """Between the two, once the device is synchronized; None where there is no GPU."""
        if not self._events:
            return None
        first, last = self._events
        return first.elapsed_time(last) / 1e3


def forget_peak() -> None:
    """Let the allocator's peak begin anew, from what it holds now."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """The most that torch's allocator held on the GPU since `forget_peak`; 0 without one.

    The weights are in it; what NVSHMEM allocates is not.
    """
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0


def held_bytes() -> int:
    """What torch's allocator holds on the GPU now."""
    return torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0


def name(device: torch.device) -> str:
    """As the record has it: `cpu`, or what the GPU calls itself."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
