"""Who passes a block on: where ranks of a node want what no rank of it holds, one fetches it.

Pure numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray


def fetchers(block: IntArray, node: IntArray, rank: IntArray, nbytes: IntArray) -> IntArray:
    """The rank that fetches each block for its node.

    Blocks that the same ranks want are dealt among them in runs of neighbours, to each the same
    share in bytes, within one block.

    Args:
        block, node, rank, nbytes: [rows], a block's number, the node that wants it, the rank there
            that does, and its size. Rows of one block and node come in the order of their ranks.

    Returns:
        [rows], a rank of the same block and node; of itself where nobody else wants it there.
    """
    if not len(block):
        return rank
    wanted = block * (1 + node.max()) + node
    order = np.argsort(wanted, kind="stable")  # fast, as a plan's rows are mostly in this order
    new = _changes(wanted[order])
    group = np.cumsum(new) - 1  # of each row, in order
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, len(order)))
    # who wants it: its first and last rank and their number tell sets of a node apart
    lowest, highest = rank[order][first], rank[order][first + size - 1]
    by_set = np.lexsort((first, size, highest, lowest))
    starts = _changes(lowest[by_set], highest[by_set], size[by_set])
    weight = nbytes[order][first][by_set]
    before = np.cumsum(weight) - weight
    before -= before[starts][np.cumsum(starts) - 1]
    total = np.add.reduceat(weight, np.flatnonzero(starts))[np.cumsum(starts) - 1]
    chosen = np.empty(len(first), dtype=np.int64)
    chosen[by_set] = before * size[by_set] // total
    found = np.empty_like(rank)
    found[order] = rank[order][first + chosen][group]
    return found


def _changes(*columns: IntArray) -> NDArray[np.bool_]:
    """[rows]: the row differs from the one before it in some column."""
    changes = np.ones(len(columns[0]), dtype=bool)
    changes[1:] = np.any([c[1:] != c[:-1] for c in columns], axis=0)
    return changes
