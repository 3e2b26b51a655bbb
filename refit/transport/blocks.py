"""Blocks as views of a rank's shards.

Where nothing is cast they are views of integers. On CUDA, torch's foreach copy of bfloat16 or
float16 makes one NaN of all: on an H200, torch 2.11, 0.3% of random bytes came out changed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from refit.plan.copies import Copies
from refit.plan.runs import Runs
from refit.transport.schedule import Message
from refit.weights.weights import TORCH_DTYPE, Weights

Tensors = dict[int, torch.Tensor]

_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def part(
    copies: Copies,
    row: int,
    tensors: Tensors,
    of_source: bool,
    first: int = 0,
    count: int | None = None,
) -> torch.Tensor:
    """A row's block, as a view of the shard at one of its ends.

    Args:
        tensors: the shards of the rank at that end.
        first, count: only so many indices of the block's main axis, from the first on; None: all.
    """
    pieces, piece = copies.pieces, int(copies.piece[row])
    view = tensors[int(copies.tensor[row])][pieces.slices(piece, of_source)]
    return view if count is None else view.narrow(int(pieces.axis[piece, 0]), first, count)


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
        destinations.append(part(copies, row, into, of_source=False))
        sources.append(part(copies, row, out_of[int(copies.source[row])], of_source=True))
    return as_bits(destinations, sources)


def run_pairs(
    table: Runs, into: torch.Tensor, out_of: Mapping[int, torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Destination and source views of some runs.

    Args:
        into: this rank's arena, of uint8.
        out_of: arenas by the rank whose they are.
    """
    destinations, sources = [], []
    for peer, source, destination, rows, *pitches, width in table.tuples():
        ends = (into, destination), (out_of[peer], source)
        views = [
            arena[at : at + width]
            if rows == 1
            else arena[at:].as_strided((rows, width), (pitch, 1))
            for (arena, at), pitch in zip(ends, reversed(pitches), strict=True)
        ]
        destinations.append(views[0])
        sources.append(views[1])
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
    weights = [
        part(copies, b.row, tensors, message.is_send, b.first, b.count) for b in message.blocks
    ]
    staged = [
        bucket[b.offset : b.offset + b.nbytes].view(TORCH_DTYPE[copies.dtype(b.row)]).view(w.shape)
        for b, w in zip(message.blocks, weights, strict=True)
    ]
    return as_bits(staged, weights)


def as_bits(
    ones: list[torch.Tensor], others: list[torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The same memory, two by two, as integers where both are of one dtype."""
    kinds = [
        _OF_SIZE[one.element_size()] if one.dtype == other.dtype else None
        for one, other in zip(ones, others, strict=True)
    ]
    return (
        [one.view(kind) if kind else one for one, kind in zip(ones, kinds, strict=True)],
        [other.view(kind) if kind else other for other, kind in zip(others, kinds, strict=True)],
    )


def copy(destinations: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copy each source into its destination, whose dtype it then has."""
    if destinations:
        torch._foreach_copy_(destinations, sources)
