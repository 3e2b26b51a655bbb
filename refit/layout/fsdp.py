"""How PyTorch's fully_shard (FSDP2) cuts a parameter: along dimension 0, with its padding. Pure.

torch.distributed.fsdp's `FSDPParam._init_sharded_param` takes `torch.chunk`'s chunks of
dimension 0, of which the last may be smaller or empty, and stores each in the size of the first,
with zeros behind it. A tensor that Megatron fuses of several parameters, as a trainer with Hugging
Face's modules has them (q, k and v; gate and up), is cut parameter by parameter.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from refit.errors import UserError
from refit.layout.cut import PADDING, Cut


@lru_cache(maxsize=4096)
def cut(rows: int, fused: tuple[int, ...], shards: int) -> Cut:
    """Of each parameter's rows a shard has a chunk, one parameter behind the other.

    Args:
        rows: of the whole tensor.
        fused: rows of each parameter in one group of rows; the groups fill the tensor. Empty: it
            is one parameter.
        shards: ranks that share it.

    Raises:
        UserError: the groups do not fill the tensor.
    """
    group = sum(fused) or rows
    if rows % group:
        raise UserError(f"{rows} rows are not groups of {'+'.join(map(str, fused))}")
    numbers = np.arange(rows).reshape(-1, group)
    edges = np.cumsum([0, *(fused or (rows,))])
    parameters = [numbers[:, start:stop].ravel() for start, stop in pairwise(edges)]
    held = []
    for shard in range(shards):
        pieces = []
        for parameter in parameters:
            size = -(-len(parameter) // shards)
            piece = parameter[shard * size : (shard + 1) * size]
            pieces.append(np.pad(piece, (0, size - len(piece)), constant_values=PADDING))
        held.append(np.concatenate(pieces))
    return Cut.of(0, rows, held)
