"""How many bytes of a model each rank of a layout holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Layout, Placement
from refit.layout.tensors import ITEMSIZE, Catalogue


def weight_bytes(catalogue: Catalogue, layout: Layout, rank: int) -> int:
    """Bytes of the weights that a rank holds of one side."""
    held = catalogue.held_by(layout, rank)
    if not layout.expert_slots:
        return sum(shard.nbytes for shard in held)
    storages = {s.slot.storage: s.nbytes * s.slot.count for s in held if s.slot}
    return sum(s.nbytes for s in held if not s.slot) + sum(storages.values())


def per_rank_bytes(
    catalogue: Catalogue, layout: Layout, only: NDArray[np.bool_] | None = None
) -> IntArray:
    """[gpus]: `weight_bytes` of every rank of a layout.

    Args:
        only: [tensors] of bool, by tensor id: which are counted, without slots to spare; None: all.
    """
    holder = layout.rank_of_layers(catalogue.num_layers)
    held = np.zeros(layout.gpus, dtype=np.int64)
    for family in catalogue.families:
        if family.copy_of and layout.tied:
            continue
        # a rank of these, of each stage and expert-parallel rank, has how many: [pp, ep]
        counted = np.ones(family.count, dtype=np.int64)
        if only is not None:
            counted = only[family.base : family.base + family.count].astype(np.int64)
        groups = layout.ep if family.num_experts else 1
        per_group = counted.reshape(-1, groups, max(1, family.num_experts) // groups).sum(2)
        if only is None and layout.expert_slots and family.num_experts:
            per_group = np.where(per_group > 0, layout.expert_slots, 0)
        tensors = np.zeros((layout.pp, groups), dtype=np.int64)
        if family.layers:
            np.add.at(tensors, holder[list(family.layers)], per_group)
        else:
            tensors[family.ends_on(layout)] += per_group[0]
        cut = family.cut(layout)
        elements = [np.prod(family.local_shape(cut, shard)) for shard in range(cut.shards)]
        nbytes = np.array(elements, dtype=np.int64) * ITEMSIZE[family.dtype_on(layout.dtype)]
        # ranks as [pp, replicas, CP or EP, shards]
        ranks = layout.expert if family.grid == "expert" else layout.dense
        held[ranks - layout.offset] += tensors[:, None, :, None] * nbytes
    return held


def of_sides(catalogue: Catalogue, placement: Placement, *sides: Layout) -> IntArray:
    """[world]: bytes of the weights that every rank holds of some sides of a placement."""
    held = np.zeros(placement.world, dtype=np.int64)
    for side in sides:
        held[side.offset : side.ranks.stop] += per_rank_bytes(catalogue, side)
    return held
