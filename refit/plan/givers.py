"""Which of the source ranks that hold a block gives it to whom. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Placement
from refit.plan.holders import Holders
from refit.plan.wants import Wants

_Dealt = tuple[IntArray, IntArray, IntArray]
"""[rows] each: which rows, 1 + the node that has a holder near by or 0, and bytes; in the order in
which they are dealt: those without a holder near by first, then by node, receiver and block."""


def choose(
    placement: Placement,
    holders: Holders,
    wants: Wants,
    place: IntArray,
    relayed: NDArray[np.bool_] | None = None,
) -> IntArray:
    """The source rank of each row; see `refit.plan.build.build_plan` for the rule.

    Args:
        place: [blocks], where each lies in an arena that has all: neighbours are dealt together.
        relayed: [rows], those that no holder gives, of whom nothing is said; None: there are none.
    """
    source = wants.destination.copy()
    load = np.zeros(placement.world)
    # of one set at a time all columns stay in a core's cache
    for set_id, blocks in wants.by_set(place):
        ranks = holders.ranks(set_id)
        if relayed is None and (wants.group[blocks] == wants.group[blocks[0]]).all():
            rows, node, nbytes = _alike(placement, wants, blocks, ranks)
        else:
            rows, node, nbytes = _ordered(placement, wants, blocks, ranks, relayed)
        starts = np.flatnonzero(np.diff(node, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=False):
            givers = ranks
            if near_by := int(node[start]):
                givers = ranks[ranks // placement.ranks_per_node == near_by - 1]
            picked = givers[_fill(load[givers], nbytes[start:stop])]
            source[rows[start:stop]] = picked
            load += np.bincount(picked, nbytes[start:stop], len(load))
    return source


def _near_by(placement: Placement, ranks: IntArray, receivers: IntArray) -> IntArray:
    """[receivers]: 1 + the node of one that some of these ranks are on; 0 of any other."""
    near = np.zeros(placement.nodes, dtype=bool)
    near[ranks // placement.ranks_per_node] = True
    node = receivers // placement.ranks_per_node
    return np.where(near[node], node + 1, 0)


def _alike(placement: Placement, wants: Wants, blocks: IntArray, ranks: IntArray) -> _Dealt:
    """Rows of blocks of one set that the same ranks want.

    Args:
        ranks: the set's, who give to themselves.
    """
    receivers = wants.receivers(int(blocks[0]))
    others = np.flatnonzero(~np.isin(receivers, ranks))
    node = _near_by(placement, ranks, receivers[others])
    order = np.lexsort((receivers[others], node))
    rows = others[order][:, None] + wants.first[blocks]
    nbytes = np.tile(wants.nbytes[blocks], len(order))
    return rows.ravel(), np.repeat(node[order], len(blocks)), nbytes


def _ordered(
    placement: Placement,
    wants: Wants,
    blocks: IntArray,
    ranks: IntArray,
    relayed: NDArray[np.bool_] | None,
) -> _Dealt:
    """Rows of any blocks of one set; the other arguments are those of `_alike` and `choose`."""
    rows, number = wants.rows(blocks)
    receivers = wants.destination[rows]
    has_it = np.zeros(placement.world, dtype=bool)
    has_it[ranks] = True
    others = ~has_it[receivers]
    if relayed is not None:
        others &= ~relayed[rows]
    rows, number, receivers = rows[others], number[others], receivers[others]
    node = _near_by(placement, ranks, receivers)
    # one sort of unique keys, which is faster than a stable one
    key = (node * placement.world + receivers) * len(rows) + np.arange(len(rows))
    order = np.sort(key) % max(1, len(rows))
    return rows[order], node[order], wants.nbytes[blocks][number[order]]


def _fill(load: NDArray[np.float64], sizes: IntArray) -> IntArray:
    """Deal blocks, in order, to holders so that all end at one level: water-filling.

    Four holders that give 0, 4, 9 and 1 bytes already, and blocks of 2, 2, 3 and 1 bytes: with
    the three least loaded filled, the level is (8 + 0 + 1 + 4) / 3 = 4.33, which the fourth is
    above. There is room for 4.33, 3.33 and 0.33 bytes, in order of load; the middles of the blocks
    are at 1, 3, 5.5 and 7.5 bytes, so the holders 0, 0, 3, 3 give them.

    Args:
        load: [holders], bytes each gives already.
        sizes: [blocks], bytes.

    Returns:
        [blocks], an index into `load`.
    """
    if len(load) == 1:
        return np.zeros(len(sizes), dtype=np.int64)
    order = np.argsort(load, kind="stable")
    ascending = load[order]  # [holders]
    # With the m least loaded filled level, the level is (total + their loads) / m; m is the largest
    # number for which every one of them is below it.
    levels = (sizes.sum() + np.cumsum(ascending)) / np.arange(1, len(load) + 1)  # of m = 1, 2, ..
    m = int(np.flatnonzero(levels > ascending)[-1]) + 1
    room = np.cumsum(levels[m - 1] - ascending[:m])  # [m], bytes that holders up to each can take
    middle = np.cumsum(sizes) - sizes / 2  # [blocks], in bytes from the first block's start
    # a holder's are those whose middle is above the room of those before it, up to its own
    ends = np.searchsorted(middle, room[:-1], side="right")
    return np.repeat(order[:m], np.diff(ends, prepend=0, append=len(sizes)))
