"""Tensors that several processes see: shared memory for the CPU's, CUDA IPC for a device's."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from multiprocessing.reduction import ForkingPickler

import torch
import torch.distributed as dist
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from refit.weights.slab import anonymous
from refit.weights.weights import attach

_DEVICE = 6  # of rebuild_cuda_tensor's arguments


def allocate(nbytes: int) -> torch.Tensor:
    """[nbytes] of uint8 in CPU memory that other processes can map, zero until it is written."""
    slab = anonymous()
    slab.take(nbytes)
    shared = attach(slab, nbytes)
    slab.close()  # torch keeps a duplicate of the descriptor
    return shared


def exchange(mine: torch.Tensor | None, rank: int, peers: Iterable[int]) -> dict[int, torch.Tensor]:
    """Map a tensor of each of some peers; all ranks call together.

    A CUDA tensor's owner must keep it until no peer uses it any more. CUDA IPC can share memory
    from cudaMalloc only: with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True torch falls back on
    file descriptors of its own, which needs a recent torch and Linux's pidfd_getfd.

    Args:
        mine: what this rank has to offer, if anything.
        peers: whose tensors this rank wants.
    """
    world = dist.get_world_size()
    wanted: list[list[int]] = [[] for _ in range(world)]
    dist.all_gather_object(wanted, sorted(peers))
    offered: dict[int, bytes] = {}
    for reader, wants in enumerate(wanted):
        if rank in wants and reader != rank:
            assert mine is not None, f"rank {reader} wants a tensor that rank {rank} has not"
            # A handle can be opened once, so each reader gets one of its own.
            offered[reader] = bytes(ForkingPickler.dumps(reduce_tensor(mine)))
    gathered: list[dict[int, bytes]] = [{} for _ in range(world)]
    dist.all_gather_object(gathered, offered)
    theirs = {peer: _mapped(of[rank]) for peer, of in enumerate(gathered) if rank in of}
    dist.barrier()  # no rank lets go of its tensor before its readers have it
    return theirs


def _mapped(offered: bytes) -> torch.Tensor:
    """A peer's tensor; a CUDA tensor as one of this rank's own device.

    With its owner's index a copy would run on a stream of the owner's GPU, in a context of its own
    there, which takes half a gigabyte on every peer's.
    """
    rebuild, args = pickle.loads(offered)
    if rebuild is rebuild_cuda_tensor:
        args = (*args[:_DEVICE], torch.cuda.current_device(), *args[_DEVICE + 1 :])
    mapped: torch.Tensor = rebuild(*args)
    return mapped


def any_cuda(device: torch.device) -> bool:
    """Whether the weights of any rank are on a GPU; all ranks call together."""
    devices = [""] * dist.get_world_size()
    dist.all_gather_object(devices, device.type)
    return "cuda" in devices


def on_same_gpu() -> set[int]:
    """The ranks whose current device is this rank's own GPU, itself too; all ranks call together.

    By its UUID: processes may number GPUs differently. None of a rank without one.
    """
    mine = ""
    if torch.cuda.is_initialized():
        mine = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    gpus = [""] * dist.get_world_size()
    dist.all_gather_object(gpus, mine)
    return {rank for rank, gpu in enumerate(gpus) if gpu == mine != ""}


def meet() -> None:
    """Before one-sided reads of device memory: every rank's own stream has done what it was given.

    A reader cannot wait for another process's stream, so each waits for its own, and all meet.
    """
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
    dist.barrier()
