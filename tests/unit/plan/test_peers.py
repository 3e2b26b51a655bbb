"""What two ranks have between them: by hand, and summed over the oracle's blocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given

from refit.job import Degrees
from refit.plan.peers import Pair, Stretch, pairs, stretches
from refit.rules.setup import Setup
from tests.support.jobs import SMALL, job
from tests.support.plans import Case, case, cases

TP2, TP1 = Degrees(tp=2, etp=1), Degrees(tp=1, etp=1)

# of SMALL's 728 parameters 704 are cut over TP 2, 704 bytes a rank; three norms have 16 bytes each
BY_HAND = {
    # two norms come from the lower of two equals, the third from the other
    "non-collocated": (TP1, [Pair(0, 2, 704 + 32), Pair(1, 2, 704 + 16)]),
    # norms are there already
    "collocated": (
        Degrees(tp=1, etp=1, gpus=2),
        [Pair(0, 0, 752), Pair(1, 0, 704), Pair(0, 1, 704), Pair(1, 1, 752)],
    ),
}


@pytest.mark.parametrize("mode", BY_HAND)
def test_pairs_by_hand(mode: str) -> None:
    destination, expected = BY_HAND[mode]
    assert pairs(case(SMALL, TP2, destination, mode).plan) == expected


def test_who_passes_on_is_a_sender_too() -> None:
    # rank 0 on one node, TP 1 in two replicas on the other: one fetches, and passes on
    what = job(TP1, Degrees(tp=1, etp=1, gpus=2), model=SMALL, ranks_per_node=2)
    what = replace(
        what,
        parallel=replace(what.parallel, destination=replace(what.parallel.destination, offset=2)),
        cluster=replace(what.cluster, nodes=2),
        refit=replace(what.refit, fanout="hierarchical"),
    )
    found = pairs(Setup.of(what).plan())
    total = Counter[int]()
    for pair in found:
        total[pair.receiver] += pair.nbytes
    assert total == {2: 1456, 3: 1456}
    assert sum(pair.nbytes for pair in found if pair.sender == 0) == 1456
    assert {pair.sender for pair in found} <= {0, 2, 3}


@given(cases())
def test_pairs_are_sums_of_blocks(case: Case) -> None:
    expected = Counter[tuple[int, int]]()
    for row in case.rows:
        expected[row.destination, row.source] += case.nbytes(row.name, row.block.size)
    found = pairs(case.plan)
    assert [(pair.receiver, pair.sender, pair.nbytes) for pair in found] == [
        (*ends, nbytes) for ends, nbytes in sorted(expected.items())
    ]


BETWEEN = [Pair(0, 2, 100), Pair(1, 2, 60), Pair(0, 3, 100), Pair(3, 3, 40)]
HELD = {0: 150, 1: 60, 3: 40}


@pytest.mark.parametrize(
    ("receiver", "room", "share", "expected"),
    [
        (2, 160, 1.0, [Stretch(0, 0, 0, 100), Stretch(1, 0, 100, 60)]),
        # rank 2 had the first 100 bytes of rank 0; after its last come its first again
        (3, 140, 1.0, [Stretch(0, 100, 0, 50), Stretch(0, 0, 50, 50), Stretch(3, 0, 100, 40)]),
        (3, 140, 0.5, [Stretch(0, 50, 0, 50), Stretch(3, 0, 50, 20)]),
        # stored in half as many bytes as they travel in
        (2, 80, 1.0, [Stretch(0, 0, 0, 80), Stretch(0, 80, 0, 20), Stretch(1, 0, 20, 60)]),
        (1, 60, 1.0, []),
    ],
)
def test_stretches_by_hand(receiver: int, room: int, share: float, expected: list[Stretch]) -> None:
    assert list(stretches(BETWEEN, receiver, HELD, room, share)) == expected
