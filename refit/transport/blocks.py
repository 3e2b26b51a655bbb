"""A plan's blocks as views of a rank's shards."""

from __future__ import annotations

import torch

from refit.plan.plan import Plan
from refit.transport.schedule import Message
from refit.weights.weights import Weights

Tensors = dict[int, torch.Tensor]


def part(plan: Plan, tensor: int, tensors: Tensors, start: int, length: int) -> torch.Tensor:
    """`length` indices from `start` of a shard's cut axis."""
    return tensors[tensor].narrow(plan.catalogue.family_of(tensor).axis or 0, start, length)


def pairs(
    plan: Plan, rows: list[int], into: Tensors, out_of: dict[int, Tensors]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Destination and source views of some rows.

    Args:
        into: this rank's destination shards.
        out_of: source shards by the rank that holds them.
    """
    destinations, sources = [], []
    for row in rows:
        tensor, length = int(plan.tensor[row]), int(plan.length[row])
        theirs = out_of[int(plan.source[row])]
        destinations.append(part(plan, tensor, into, int(plan.destination_start[row]), length))
        sources.append(part(plan, tensor, theirs, int(plan.source_start[row]), length))
    return destinations, sources


def local_pairs(
    plan: Plan, rank: int, source: Weights | None, destination: Weights | None
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Destination and source views of the blocks that a rank already holds itself."""
    rows = plan.to_rank(rank)
    rows = rows[~plan.remote[rows]]
    if not len(rows):
        return [], []
    assert source is not None and destination is not None
    return pairs(plan, rows.tolist(), destination.tensors, {rank: source.tensors})


def staged_pairs(
    plan: Plan, message: Message, bucket: torch.Tensor, tensors: Tensors
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A message's blocks as views of its bucket and of this rank's shards.

    Args:
        bucket: [message.nbytes] of uint8, aligned as `schedule.ALIGN` says.
    """
    weights = [part(plan, b.tensor, tensors, b.start, b.length) for b in message.blocks]
    staged = [
        bucket[b.offset : b.offset + b.nbytes].view(w.dtype).view(w.shape)
        for b, w in zip(message.blocks, weights, strict=True)
    ]
    return staged, weights


def copy(destinations: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copy each source into its destination."""
    if destinations:
        torch._foreach_copy_(destinations, sources)
