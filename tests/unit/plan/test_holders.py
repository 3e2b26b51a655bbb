"""Which ranks hold what, and how blocks are dealt among them, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from refit.job import Degrees
from refit.layout.layout import IntArray, Layout, Placement
from refit.layout.tensors import Catalogue, Family
from refit.model.architecture import catalogue
from refit.plan.build import build_plan
from refit.plan.fanout import fetchers
from refit.plan.holders import Holders
from tests.support.jobs import SMALL, placed

CUT, WHOLE = Family("c", (8, 8), axis=0), Family("w", (8,))
EXPERT = Family("e", (8, 8), axis=0, grid="expert", num_experts=4)
EXPERT_BIAS = Family("b", (8,), grid="expert", num_experts=4)
TIED = Family("t", (8, 8), axis=0, stage="both")

# two stages of TP 2, DP 2: rank = tp + 2 * (dp + 2 * pp), and EP 2: rank = ep + 2 * (edp + 2 * pp)
SOURCE = Degrees(tp=2, pp=2, ep=2, etp=1, gpus=8)
HOLDERS = Holders(placed(SOURCE, Degrees(etp=1), ranks_per_node=3))


@pytest.mark.parametrize(
    ("family", "stage", "ep", "shard", "ranks"),
    [
        (EXPERT, 0, 0, 0, [0, 2]),
        (EXPERT, 0, 1, 0, [1, 3]),
        (EXPERT, 1, 1, 0, [5, 7]),
        (EXPERT_BIAS, 1, 0, 0, [4, 6]),
        (CUT, 0, 0, 1, [1, 3]),
        (CUT, 1, 1, 0, [4, 6]),
        (WHOLE, 0, 0, 0, [0, 1, 2, 3]),
        (WHOLE, 1, 1, 0, [4, 5, 6, 7]),
        (TIED, 0, 0, 0, [0, 2, 4, 6]),
        (TIED, 0, 0, 1, [1, 3, 5, 7]),
    ],
)
def test_who_holds(family: Family, stage: int, ep: int, shard: int, ranks: list[int]) -> None:
    found = HOLDERS.set_ids(family, np.array([stage]), np.array([ep]), [(shard,)])
    assert HOLDERS.ranks(int(found[0])).tolist() == ranks
    # of nodes {0 1 2} {3 4 5} {6 7 8}
    nodes = {rank // 3 for rank in ranks}
    assert np.flatnonzero(HOLDERS.on_node[int(found[0])]).tolist() == sorted(nodes)


def test_experts_cut_over_etp_are_sets_of_their_own() -> None:
    # rank = etp + 2 * ep, one of each
    holders = Holders(placed(Degrees(tp=2, ep=2, etp=2, gpus=4), Degrees(etp=1), "collocated"))
    for ep, etp in ((0, 0), (0, 1), (1, 0), (1, 1)):
        found = holders.set_ids(EXPERT, np.array([0]), np.array([ep]), [(etp,)])
        assert holders.ranks(int(found[0])).tolist() == [etp + 2 * ep]
        whole = holders.set_ids(EXPERT_BIAS, np.array([0]), np.array([ep]), [(0,)])
        assert holders.ranks(int(whole[0])).tolist() == [2 * ep, 2 * ep + 1]


@pytest.mark.parametrize(
    ("family", "stage", "boxes", "ranks"),
    [
        (CUT, 1, [(0, 1)], [[4, 5, 6, 7]]),
        (TIED, 0, [(0, 1)], [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (CUT, 0, [(1,), (0, 1), (0,)], [[1, 3], [0, 1, 2, 3], [0, 2]]),
        (TIED, 1, [(1,), (0, 1)], [[1, 3, 5, 7], [0, 1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_what_several_shards_have_is_held_by_the_ranks_of_all(
    family: Family, stage: int, boxes: list[tuple[int, ...]], ranks: list[list[int]]
) -> None:
    holders = Holders(placed(SOURCE, Degrees(etp=1), ranks_per_node=3))
    found = holders.set_ids(family, np.array([stage]), np.array([0]), boxes)
    assert [holders.ranks(int(number)).tolist() for number in found] == ranks


def test_sets_are_numbered_without_gaps() -> None:
    # of experts cut 2 * 2 * 1, whole 2 * 2; dense cut 2 * 2, whole 2; tied 2
    assert HOLDERS.count == 4 + 4 + 4 + 2 + 2
    assert all(len(HOLDERS.ranks(n)) for n in range(HOLDERS.count))


def sets(*families: tuple[Family, int]) -> IntArray:
    """The sets of stage 0 of some families' shards."""
    zero = np.array([0])
    return np.array([int(HOLDERS.set_ids(f, zero, zero, [(s,)])[0]) for f, s in families])


def test_the_busiest_of_a_set_sends_its_share_at_least() -> None:
    def least(which: IntArray, nbytes: list[int]) -> int:
        return HOLDERS.least_busiest_sender(which, np.array(nbytes, int))

    assert least(sets((CUT, 0)), [9]) == 5  # of two ranks, rounded up
    assert least(sets((CUT, 0), (CUT, 0)), [9, 1]) == 5
    # ranks 0 and 2 send 4 each, 1 and 3 one each; but all four together 30 by four
    assert least(sets((CUT, 0), (CUT, 1), (WHOLE, 0)), [8, 2, 20]) == 8
    # 72 by four; all eight ranks together send 10 each
    assert least(sets((CUT, 0), (TIED, 1)), [8, 72]) == 18
    assert least(np.zeros(0, int), []) == 0


def test_fetchers_of_several_nodes_and_of_sets_that_overlap() -> None:
    # node 0: ranks 0 and 1 want blocks 1 and 2, ranks 0 to 2 blocks 3, 4 and 5;
    # node 1: ranks 3 and 4 want blocks 1 and 2
    wants = [
        (1, 0, 0), (1, 0, 1), (1, 1, 3), (1, 1, 4), (2, 0, 0), (2, 0, 1), (2, 1, 3), (2, 1, 4),
        *((block, 0, rank) for block in (3, 4, 5) for rank in (0, 1, 2)),
    ]  # fmt: skip
    block, node, rank = np.array(wants).T
    found = fetchers(block, node, rank, np.full(len(wants), 6))
    assert found.tolist() == [0, 0, 3, 3, 1, 1, 4, 4, *[0] * 3, *[1] * 3, *[2] * 3]


def test_sets_that_begin_alike_share_each_its_own() -> None:
    # ranks 0 and 1 want blocks 1 and 3, ranks 0 and 2 blocks 2 and 4
    block, rank = np.repeat([1, 2, 3, 4], 2), np.array([0, 1, 0, 2, 0, 1, 0, 2])
    found = fetchers(block, np.zeros(8, np.int64), rank, np.full(8, 6))
    assert found[::2].tolist() == [0, 0, 1, 2]


def test_sets_that_begin_and_end_alike_share_each_its_own() -> None:
    # ranks 0 and 2 want blocks 1 and 3, ranks 0 to 2 blocks 2 and 4
    wants = [(1, 0), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 2), (4, 0), (4, 1), (4, 2)]
    block, rank = np.array(wants).T
    found = fetchers(block, np.zeros(10, np.int64), rank, np.full(10, 6))
    assert found.tolist() == [0, 0, 0, 0, 0, 2, 2, 1, 1, 1]


def test_many_rows_stay_in_the_order_of_their_ranks() -> None:
    # 64 ranks want each of eight blocks, which come in turn: every eighth rank fetches one
    block, rank = np.tile(np.arange(8), 64), np.repeat(np.arange(64), 8)
    found = fetchers(block, np.zeros(512, np.int64), rank, np.full(512, 6))
    assert found.tolist() == [0, 8, 16, 24, 32, 40, 48, 56] * 64


def test_a_fetcher_is_dealt_by_bytes_and_not_by_blocks() -> None:
    block, rank = np.repeat([1, 2, 3], 2), np.tile([4, 7], 3)
    for nbytes, by in (([1, 1, 10], [4, 4, 4]), ([10, 1, 1], [4, 7, 7]), ([4, 4, 4], [4, 4, 7])):
        found = fetchers(block, np.ones(6, np.int64), rank, np.repeat(nbytes, 2))
        assert found[::2].tolist() == by


def test_a_model_without_experts_divides_by_no_number_of_them() -> None:
    with np.errstate(all="raise"):
        for ep in (1, 2):
            placement = placed(Degrees(ep=ep, gpus=2), Degrees(etp=1), model=SMALL)
            assert build_plan(catalogue(SMALL), placement).total_bytes == 1456


# ---- several destinations: what a rank sends to all of them is its load

ONE = Catalogue((Family("w", (4, 2), stage="first"),), 0)  # of 16 bytes


def senders(source: Layout, pools: list[Layout], per_node: int, world: int) -> list[int]:
    return build_plan(ONE, Placement(source, tuple(pools), per_node, world)).source.tolist()


@pytest.mark.parametrize(
    ("source", "pools", "per_node", "together"),
    [
        # two replicas on a node, and a rank of each pool beside them
        (Layout(gpus=2), [Layout(offset=2), Layout(offset=3)], 4, [0, 1]),
        # four replicas, and pools of two ranks, which alone take the first and the third replica
        (Layout(gpus=4), [Layout(gpus=2, offset=4), Layout(gpus=2, offset=6)], 8, [0, 1, 2, 3]),
        # the same on other nodes
        (Layout(gpus=2), [Layout(offset=2), Layout(offset=4)], 2, [0, 1]),
    ],
)
def test_senders_are_balanced_over_all_pools(
    source: Layout, pools: list[Layout], per_node: int, together: list[int]
) -> None:
    world = 8
    assert senders(source, pools, per_node, world) == together  # each sends one block
    alone = [sender for pool in pools for sender in senders(source, [pool], per_node, world)]
    assert np.bincount(alone).max() == 2  # the first one twice
