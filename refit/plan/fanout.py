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
    share in bytes, within one block: the one that starts at byte b of the T bytes that n ranks want
    goes to the (n * b // T)-th of them.

    Ranks 4 and 5 of a node want blocks 0 and 1 of equal size, in the rows (0, 4), (0, 5), (1, 4),
    (1, 5): rank 4 fetches block 0 and rank 5 block 1, so the result is 4, 4, 5, 5.

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
    want = np.cumsum(new) - 1  # [rows in order]: the number of its want, a block that a node wants
    first = np.flatnonzero(new)  # [wants], as all below: its first row in order
    size = np.diff(np.append(first, len(order)))  # ranks of the node that want the block
    # who wants it: its first and last rank and their number tell sets of a node apart
    lowest, highest = rank[order][first], rank[order][first + size - 1]
    by_set = np.lexsort((first, size, highest, lowest))
    starts = _changes(lowest[by_set], highest[by_set], size[by_set])
    set_number = np.cumsum(starts) - 1
    block_bytes = nbytes[order][first][by_set]
    bytes_before = np.cumsum(block_bytes) - block_bytes
    bytes_before -= bytes_before[starts][set_number]  # of the wants of the same set alone
    set_bytes = np.add.reduceat(block_bytes, np.flatnonzero(starts))[set_number]
    member = np.empty(len(first), dtype=np.int64)  # which of the ranks that want it fetches
    member[by_set] = bytes_before * size[by_set] // set_bytes
    fetcher = np.empty_like(rank)
    fetcher[order] = rank[order][first + member][want]
    return fetcher


def _changes(*columns: IntArray) -> NDArray[np.bool_]:
    """[rows]: the row differs from the one before it in some column."""
    changes = np.ones(len(columns[0]), dtype=bool)
    changes[1:] = np.any([c[1:] != c[:-1] for c in columns], axis=0)
    return changes
