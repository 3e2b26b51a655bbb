"""Blocks as views of a rank's shards."""

from __future__ import annotations

import torch

from refit.plan.copies import Copies
from refit.transport.schedule import Message
from refit.weights.weights import Weights

Tensors = dict[int, torch.Tensor]


def part(copies: Copies, tensor: int, tensors: Tensors, start: int, length: int) -> torch.Tensor:
    """`length` indices from `start` of a shard's `Family.block_axis`."""
    return tensors[tensor].narrow(copies.catalogue.family_of(tensor).block_axis, start, length)


def pairs(
    copies: Copies, rows: list[int], into: Tensors, out_of: dict[int, Tensors]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Destination and source views of some rows.

    Args:
        into: this rank's destination shards.
        out_of: source shards by the rank that holds them.
    """
    destinations, sources = [], []
    for row in rows:
        tensor, length = int(copies.tensor[row]), int(copies.length[row])
        theirs = out_of[int(copies.source[row])]
        destinations.append(part(copies, tensor, into, int(copies.destination_start[row]), length))
        sources.append(part(copies, tensor, theirs, int(copies.source_start[row]), length))
    return destinations, sources


def local_pairs(
    copies: Copies, rank: int, source: Weights | None, destination: Weights | None
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Destination and source views of the blocks that a rank already holds itself."""
    rows = copies.to_rank(rank)
    rows = rows[~copies.remote[rows]]
    if not len(rows):
        return [], []
    assert source is not None and destination is not None
    return pairs(copies, rows.tolist(), destination.tensors, {rank: source.tensors})


def staged_pairs(
    copies: Copies, message: Message, bucket: torch.Tensor, tensors: Tensors
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A message's blocks as views of its bucket and of this rank's shards.

    Args:
        bucket: [message.nbytes] of uint8, aligned as `schedule.ALIGN` says.
    """
    weights = [part(copies, b.tensor, tensors, b.start, b.length) for b in message.blocks]
    staged = [
        bucket[b.offset : b.offset + b.nbytes].view(w.dtype).view(w.shape)
        for b, w in zip(message.blocks, weights, strict=True)
    ]
    return staged, weights


def copy(destinations: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copy each source into its destination."""
    if destinations:
        torch._foreach_copy_(destinations, sources)
