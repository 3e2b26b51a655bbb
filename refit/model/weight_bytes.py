"""How many bytes of a model each rank of a layout holds."""

from __future__ import annotations

import numpy as np

from refit.layout.layout import IntArray, Layout
from refit.layout.tensors import ITEMSIZE, Catalogue


def weight_bytes(catalogue: Catalogue, layout: Layout, rank: int) -> int:
    """Bytes of the weights that a rank holds of one side."""
    return sum(s.nbytes for s in catalogue.held_by(layout, rank))


def per_rank_bytes(catalogue: Catalogue, layout: Layout) -> IntArray:
    """[gpus]: `weight_bytes` of every rank of a layout."""
    holder = layout.rank_of_layers(catalogue.num_layers)
    held = np.zeros(layout.gpus, dtype=np.int64)
    for family in catalogue.families:
        if family.layers:
            tensors = np.bincount(holder[list(family.layers)], minlength=layout.pp)
        else:
            ends = {"first": [0], "last": [layout.pp - 1], "both": [0, layout.pp - 1]}
            tensors = np.bincount(sorted(set(ends[family.stage])), minlength=layout.pp)
        tensors = tensors * max(1, family.num_experts // layout.ep)  # [pp], as all below: of a rank
        cut = family.cut(layout)
        elements = [np.prod(family.local_shape(cut, shard)) for shard in range(cut.shards)]
        nbytes = np.array(elements, dtype=np.int64) * ITEMSIZE[family.dtype_on(layout.dtype)]
        # ranks as [pp, replicas, CP or EP, shards]
        ranks = layout.expert if family.grid == "expert" else layout.dense
        held[ranks - layout.offset] += tensors[:, None, None, None] * nbytes
    return held
