"""How engines that serve, vLLM and SGLang, cut what they fuse. Pure.

A rank's qkv_proj has its queries, then its keys, then its values; where TP exceeds the groups,
neighbouring ranks have the same key and value heads. Its gate_up_proj has its gate rows, then its
up rows, or row by row in turn as in GPT-OSS's experts. All else is cut as by Megatron. Seen in vLLM
0.32's QKVParallelLinear and MergedColumnParallelLinear and in SGLang 0.5.23's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from refit.errors import UserError
from refit.layout.cut import Cut
from refit.layout.layout import IntArray


@lru_cache(maxsize=4096)
def qkv(rows: int, fused: tuple[int, ...], shards: int) -> Cut:
    """Queries of a shard's heads, then keys and values of its groups.

    Eight query heads in two groups over four shards: shards 0 and 1 have group 0's key and value.

    Args:
        rows: of the whole tensor, as Megatron fuses it: group by group queries, key, value.
        fused: rows of a group's queries, of its key and of its value.
        shards: TP.

    Raises:
        UserError: heads or groups do not divide.
    """
    queries, key, _ = fused
    groups, heads = rows // sum(fused), rows // sum(fused) * queries // key
    if heads % shards or (groups % shards and shards % groups):
        raise UserError(f"{heads} heads in {groups} groups do not divide into {shards} shards")
    numbers = np.arange(rows).reshape(groups, -1)
    parts = [part.ravel() for part in np.split(numbers, np.cumsum(fused)[:-1], axis=1)]
    apart = min(shards, groups)  # shards whose keys differ
    held = [
        np.concatenate(
            [
                np.split(parts[0], shards)[shard],
                *(np.split(part, apart)[shard * apart // shards] for part in parts[1:]),
            ]
        )
        for shard in range(shards)
    ]
    return Cut.of(0, rows, held)


@lru_cache(maxsize=4096)
def interleaved(parts: tuple[int, ...], shards: int) -> Cut:
    """Equal parts, each cut on its own, and a shard's rows of them in turn: gate, up, gate, up.

    Raises:
        UserError: a part does not divide.
    """
    one_by_one = Cut.even(0, parts, shards)
    held: list[IntArray] = [
        one_by_one.indices(shard).reshape(len(parts), -1).T.ravel() for shard in range(shards)
    ]
    return Cut.of(0, sum(parts), held)
