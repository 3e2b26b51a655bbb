"""A rank's part of a plan: every copy at its two ends and nowhere else, in the plan's order."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from refit.plan.copies import Copies
from refit.plan.part import parts
from refit.plan.peers import pairs
from refit.rules.setup import Setup
from tests.support.composed import composed

PAIR = ("model=kimi_k2_mini", "parallel=kimi_k2_128_tp8pp8ep8_to_tp8ep64")
COLUMNS = [f.name for f in fields(Copies) if f.name in "tensor source destination piece nbytes"]


def rows(copies: Copies) -> list[tuple[int, ...]]:
    """Each row as a tuple of its columns."""
    return list(zip(*(getattr(copies, name).tolist() for name in COLUMNS), strict=True))


@pytest.mark.parametrize("fanout", ["direct", "hierarchical"])
def test_every_copy_is_in_the_parts_of_its_ends_alone(fanout: str) -> None:
    setup = Setup.of(composed(*PAIR, f"refit.fanout={fanout}"))
    plan, world = setup.plan(), setup.placement.world
    found = list(parts(plan, range(world)))
    assert {part.cross_node_bytes for part in found} == {plan.cross_node_bytes}
    for number, hop in enumerate(plan.hops):
        every = rows(hop)
        place = {row: at for at, row in enumerate(every)}
        seen: Counter[tuple[int, ...]] = Counter()
        for rank, part in enumerate(found):
            own = rows(part.hops[number])
            assert all(rank in row[1:3] for row in own)
            assert own == sorted(own, key=place.__getitem__)
            seen.update(own)
        assert seen == {row: len({*row[1:3]}) for row in every}
    assert len(plan.hops) == (1 if fanout == "direct" else 2)


def test_a_rank_that_keeps_a_block_has_it_once_and_one_node_has_the_pairs_of_all() -> None:
    plan = Setup.of(composed("parallel=collocated_4_tp2ep2_to_tp2ep1")).plan()
    local = np.flatnonzero(~plan.remote)
    assert len(local)
    (part,) = parts(plan, [int(plan.source[local[0]])])
    assert part.pairs == tuple(pairs(plan))
    assert len({*rows(part.hops[0])}) == len(part.hops[0])
