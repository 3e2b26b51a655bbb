"""How many bytes of a model each rank of a layout holds."""

from __future__ import annotations

import numpy as np

from refit.layout.layout import IntArray, Layout
from refit.layout.tensors import ITEMSIZE, Catalogue


def weight_bytes(catalogue: Catalogue, layout: Layout, rank: int) -> int:
    """Bytes of the weights that a rank holds of one side."""
    return sum(s.nbytes for s in catalogue.held_by(layout, rank))


def per_rank_bytes(catalogue: Catalogue, layout: Layout) -> IntArray:
    """[gpus]: `weight_bytes` of every rank of a layout; the ranks of a stage hold equal bytes."""
    holder = layout.rank_of_layers(catalogue.num_layers)
    held = np.zeros(layout.pp, dtype=np.int64)
    for family in catalogue.families:
        shard = int(np.prod(family.local_shape(family.shards(layout)), dtype=np.int64))
        nbytes = shard * ITEMSIZE[family.dtype] * (max(1, family.num_experts // layout.ep))
        if family.layers:
            held += nbytes * np.bincount(holder[list(family.layers)], minlength=layout.pp)
        else:
            ends = {"first": [0], "last": [layout.pp - 1], "both": [0, layout.pp - 1]}
            held[sorted(set(ends[family.stage]))] += nbytes
    of_ranks = np.empty(layout.gpus, dtype=np.int64)
    of_ranks[layout.dense.reshape(layout.pp, -1) - layout.offset] = held[:, None]
    return of_ranks
