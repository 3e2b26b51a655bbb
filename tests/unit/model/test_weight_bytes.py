"""Bytes of every rank of a layout, by closed form, against its shards summed one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refit.job import Degrees
from refit.model.weight_bytes import per_rank_bytes, weight_bytes
from refit.rules.setup import Setup
from tests.support.jobs import TINY, job

SIDES = [
    Degrees(tp=2, ep=2, etp=1, gpus=4),
    Degrees(tp=2, pp=2, ep=2, etp=2, gpus=8, expert_slots=3),
    Degrees(tp=2, pp=2, ep=2, etp=1, gpus=8, order="tp-cp-ep-pp-dp"),
    Degrees(kind="fsdp", shard=3, gpus=6),
    Degrees(kind="fsdp", shard=4, dtype="float32"),
    Degrees(tp=2, etp=1, dtype="float32", make_vocab_size_divisible_by=64),
]


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_closed_form_is_the_sum_of_shards(side: Degrees) -> None:
    model = replace(TINY, hidden_size=20, vocab_size=53, num_layers=4, moe_layer_freq=[0, 1, 1, 0])
    setup = Setup.of(job(side, side, model=model))
    for layout in (setup.placement.source, setup.placement.destination):
        summed = [weight_bytes(setup.catalogue, layout, rank) for rank in layout.ranks]
        assert per_rank_bytes(setup.catalogue, layout).tolist() == summed


@given(st.data(), st.sampled_from([SIDES[0], SIDES[2], SIDES[3]]))
def test_of_some_tensors(data: st.DataObject, side: Degrees) -> None:
    setup = Setup.of(job(side, side))
    count, layout = setup.catalogue.num_tensors, setup.placement.source
    only = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    summed = [
        sum(s.nbytes for s in setup.catalogue.held_by(layout, rank) if only[s.tensor])
        for rank in layout.ranks
    ]
    assert per_rank_bytes(setup.catalogue, layout, only).tolist() == summed
