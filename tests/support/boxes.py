"""A plan's rows as views of shards, by their indices alone: what runs of bytes are held against."""

from __future__ import annotations

import torch

from refit.plan.copies import Copies
from refit.weights.weights import Weights
from tests.support.slices import slices

Tensors = dict[int, torch.Tensor]


def part(copies: Copies, row: int, tensors: Tensors, of_source: bool) -> torch.Tensor:
    """A row's block in the shards of the rank at one of its ends."""
    box = slices(copies.pieces, int(copies.piece[row]), of_source)
    return tensors[int(copies.tensor[row])][box]


def deliver(copies: Copies, rank: int, sources: dict[int, Weights], destination: Weights) -> None:
    """Copy each of a rank's blocks, as values where it is cast and else as bits."""
    for row in copies.to_rank(rank).tolist():
        theirs = part(copies, row, sources[int(copies.source[row])].tensors, of_source=True)
        ours = part(copies, row, destination.tensors, of_source=False)
        if ours.dtype == theirs.dtype and ours.element_size() == 2:
            ours, theirs = ours.view(torch.int16), theirs.view(torch.int16)
        ours.copy_(theirs)
