"""A plan's blocks as views of a rank's shards."""

from __future__ import annotations

import torch

from refit.plan import Plan

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


def copy(destinations: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copy each source into its destination."""
    if destinations:
        torch._foreach_copy_(destinations, sources)
