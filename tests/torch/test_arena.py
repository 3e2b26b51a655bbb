"""Arenas as they are planned and as they are made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refit.job import Degrees
from refit.model.architecture import catalogue
from refit.plan.arena import Arenas
from refit.weights.weights import offsets
from tests.support.jobs import placed
from tests.support.kinds import KINDS, small
from tests.unit.plan.test_runs import MOE

SLOTS = (Degrees(tp=2, pp=2, ep=2, etp=1, expert_slots=9), Degrees(ep=4, etp=1, expert_slots=4))


@pytest.mark.parametrize("kind", [*KINDS, "slots"])
def test_shards_begin_where_the_plan_takes_them_to(kind: str) -> None:
    model = MOE if kind == "slots" else small(kind)
    sides = SLOTS if kind == "slots" else (Degrees(tp=4, etp=1), Degrees(tp=2, pp=2, etp=1))
    placement = placed(*sides, "non-collocated", model, 8)
    for tied in (model, replace(model, share_embeddings_and_output_weights=True)):
        arenas = Arenas(catalogue(tied, placement.source.tp), placement)
        for layout in placement.sides.values():
            for rank in layout.ranks:
                shards, planned = arenas.shards(layout, rank), arenas.of(layout, rank)
                starts, nbytes, _ = offsets(shards)
                ids = [shard.tensor for shard in shards]
                assert planned.start[planned.order].tolist() == starts
                assert planned.tensor[planned.order].tolist() == ids
                assert planned.nbytes == nbytes
