"""How Megatron's tensor parallelism cuts a tensor. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from refit.layout.cut import Cut


@lru_cache(maxsize=4096)
def cut(axis: int | None, parts: Sequence[int], shards: int, padded: int) -> Cut:
    """Each part of the axis in equal pieces; whole where no axis is cut.

    Args:
        axis: the dimension, or None.
        parts: of the whole axis; Megatron's partition_stride is their number.
        shards: TP, or ETP for experts.
        padded: the axis as this side stores it, at least the sum of the parts; what lies beyond
            them is padding.

    Raises:
        UserError: a part, or the padded axis, does not divide.
    """
    length = sum(parts)
    if axis is None:
        return Cut.whole(0, length)
    if padded != length:
        return Cut.even(axis, (padded,), shards).below(length)
    return Cut.even(axis, parts, shards)
