"""A plan's boxes as numpy and torch index them."""

from __future__ import annotations

from refit.plan.pieces import NO_AXIS, Pieces


def slices(pieces: Pieces, piece: int, of_source: bool) -> tuple[slice, ...]:
    """A piece's box in a shard of one side, to index a tensor with."""
    start = (pieces.source_start if of_source else pieces.destination_start)[piece].tolist()
    step = (pieces.source_step if of_source else pieces.destination_step)[piece].tolist()
    length, axes = pieces.length[piece].tolist(), pieces.axis[piece].tolist()
    found = [slice(None)] * (1 + max(axes))
    for axis, at, by, count in zip(axes, start, step, length, strict=True):
        if axis != NO_AXIS:
            found[axis] = slice(at, at + (count - 1) * by + 1, by)
    return tuple(found)
