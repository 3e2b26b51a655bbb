"""Who gives which block to whom, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from refit.job import Degrees
from refit.layout.layout import IntArray
from refit.plan import givers
from refit.plan.givers import _fill
from refit.plan.holders import Holders
from refit.plan.wants import Wants
from tests.support.jobs import placed
from tests.unit.plan.test_holders import CUT, EXPERT, SOURCE, WHOLE, sets

PLACEMENT = placed(SOURCE, Degrees(etp=1), ranks_per_node=3)


def wanted(which: IntArray, receivers: list[list[int]], nbytes: list[int]) -> Wants:
    """Blocks of these sets, each with those who want it."""
    number = np.arange(len(which))
    group = [receivers.index(theirs) for theirs in receivers]
    columns = number, number, nbytes, which, group, [len(theirs) for theirs in receivers]
    return Wants(*(np.array(column) for column in (*columns, np.concatenate(receivers))))


def choose(which: IntArray, destination: list[int], nbytes: list[int]) -> list[int]:
    wants = wanted(which, [[rank] for rank in destination], nbytes)
    place = np.arange(len(nbytes))
    return givers.choose(PLACEMENT, Holders(PLACEMENT), wants, place).tolist()


def test_a_rank_that_has_a_block_gives_it_to_itself() -> None:
    assert choose(sets((CUT, 0), (CUT, 1), (WHOLE, 0)), [2, 3, 1], [9, 9, 9]) == [2, 3, 1]


def test_a_replica_on_the_node_comes_before_any_other() -> None:
    # rank 5 is on node {3 4 5}: of {1, 3} it takes 3 and of {0, 2} either, the lower of equals
    assert choose(sets((CUT, 1), (CUT, 0)), [5, 5], [9, 9]) == [3, 0]


def test_the_less_loaded_gives_the_next() -> None:
    # rank 8 has nobody near: {0, 2} each two of four equal blocks, in runs
    assert choose(sets(*[(CUT, 0)] * 4), [8] * 4, [5] * 4) == [0, 0, 2, 2]
    # what experts have laid on 0 and 2 the dense weights find: 1 and 3 give all that is whole
    found = choose(sets((EXPERT, 0), (EXPERT, 0), (WHOLE, 0), (WHOLE, 0)), [8] * 4, [50, 50, 9, 9])
    assert found == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("load", "sizes", "givers"),
    [
        ([0, 4, 9, 1], [2, 2, 3, 1], [0, 0, 3, 3]),  # of the docstring
        ([7], [1, 2], [0, 0]),
        ([0, 0], [1, 1], [0, 1]),  # equal loads: the lower first
        ([0, 0, 0], [5], [1]),  # the middle of the block, 2.5, is in the second's part
        ([3, 0], [1, 1, 1], [1, 1, 1]),
        ([0, 100], [4, 4], [0, 0]),
        ([2, 0, 1], [3, 3, 3], [1, 2, 0]),
    ],
)
def test_blocks_are_dealt_to_one_level(
    load: list[float], sizes: list[int], givers: list[int]
) -> None:
    assert _fill(np.array(load, float), np.array(sizes)).tolist() == givers


def test_blocks_that_the_same_ranks_want_are_dealt_as_any_others() -> None:
    random = np.random.default_rng(0)
    which = sets(*[(CUT, 0), (CUT, 1), (WHOLE, 0), (EXPERT, 0)] * 5)
    of_set = {int(number): random.permutation(9)[:5].tolist() for number in which}
    nbytes = random.integers(1, 9, len(which)).tolist()
    wants = wanted(which, [of_set[int(number)] for number in which], nbytes)
    place = random.integers(0, 7, len(which))  # some lie at one place
    alike, ordered = (
        givers.choose(PLACEMENT, Holders(PLACEMENT), wants, place, relayed).tolist()
        for relayed in (None, np.zeros(len(wants.destination), dtype=bool))
    )
    assert alike == ordered
    assert len(set(alike)) > 3


def test_what_is_passed_on_is_no_load_of_a_holder() -> None:
    # rank 8 has nobody near: {0, 2} give it blocks 0 and 1, and of 2 and 3 another rank does
    wants = wanted(sets(*[(CUT, 0)] * 4), [[8]] * 4, [5] * 4)
    relayed = np.array([False, False, True, True])
    found = givers.choose(PLACEMENT, Holders(PLACEMENT), wants, np.arange(4), relayed)
    assert found[:2].tolist() == [0, 2]


def test_rows_of_blocks_stand_one_block_after_another() -> None:
    wants = wanted(sets(*[(CUT, 0)] * 4), [[3, 4], [5, 6], [7], [3, 4]], [1] * 4)
    assert wants.of_rows(np.array([10, 20, 30, 40])).tolist() == [10, 10, 20, 20, 30, 40, 40]
    rows, number = wants.rows(np.array([3, 2, 0]))
    assert (rows.tolist(), number.tolist()) == ([5, 6, 4, 0, 1], [0, 0, 1, 2, 2])
    assert [wants.receivers(block).tolist() for block in (1, 2)] == [[5, 6], [7]]
