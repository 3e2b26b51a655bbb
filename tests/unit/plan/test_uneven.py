"""Layers that differ: shapes, cut axes and numbers of experts of their own, planned together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refit.layout.cut import PADDING
from refit.layout.layout import IntArray, Layout, Placement
from refit.layout.tensors import Catalogue, Family, Shard
from refit.plan.build import build_plan
from tests.support.slices import slices

FAMILIES = (
    Family("l{layer}.qkv", (12, 4), axis=0, layers=(0, 2)),
    Family("l{layer}.qkv", (20, 4), axis=0, layers=(1, 3)),
    Family("l{layer}.conv", (8, 1, 3), "float32", axis=0, parts=(4, 4), layers=(3,)),
    Family("l{layer}.fc1.{expert}", (8, 4), axis=0, grid="expert", layers=(0,), num_experts=4),
    Family("l{layer}.fc1.{expert}", (4, 6), axis=1, grid="expert", layers=(1, 3), num_experts=2),
    Family("l{layer}.scale", (7,), "int64", layers=(1, 2, 3), is_buffer=True),
)
SIDES = [
    (Layout(tp=2, pp=2, ep=2, etp=1, gpus=8), Layout(tp=4, pp=1, ep=2, etp=2, gpus=4)),
    (Layout(tp=4, ep=2, etp=1, gpus=4), Layout(tp=2, pp=2, ep=1, etp=2, gpus=8)),
    (Layout(kind="fsdp", shard=3), Layout(tp=2, pp=2, ep=2, etp=1, gpus=8)),
]


def numbered() -> Catalogue:
    base, families = 0, []
    for family in FAMILIES:
        families.append(replace(family, base=base))
        base += family.count
    return Catalogue(tuple(families), 4)


def values(shard: Shard, first: dict[int, int]) -> IntArray:
    """The elements' numbers in the whole model, -1 where there is padding."""
    whole = first[shard.tensor] + np.arange(shard.family.elements).reshape(shard.family.shape)
    held = shard.global_indices()
    taken = np.take(whole, np.maximum(held, 0), axis=shard.cut.axis)
    np.moveaxis(taken, shard.cut.axis, 0)[held == PADDING] = -1
    return taken


@pytest.mark.parametrize("fanout", ["direct", "hierarchical"])
@pytest.mark.parametrize(("source", "destination"), SIDES)
def test_every_element_of_uneven_layers_arrives_once(
    source: Layout, destination: Layout, fanout: str
) -> None:
    tensors = numbered()
    destination = replace(destination, offset=source.gpus)
    world = -(-(source.gpus + destination.gpus) // 3) * 3
    placement = Placement(source, (destination,), 3, world)
    sizes = [tensors.family_of(t).elements for t in range(tensors.num_tensors)]
    first = dict(enumerate(np.cumsum([0, *sizes]).tolist()))
    held, wanted = (
        {r: {s.tensor: values(s, first) for s in tensors.held_by(side, r)} for r in range(world)}
        for side in (source, destination)
    )
    # each tensor is wanted whole by all ranks together
    for tensor in range(tensors.num_tensors):
        parts = [w[tensor].ravel() for w in wanted.values() if tensor in w]
        assert len(np.unique(np.concatenate(parts))) == sizes[tensor]
    got = {r: {t: np.full(a.shape, -1) for t, a in of.items()} for r, of in wanted.items()}
    plan = build_plan(tensors, placement, fanout)
    for number, copies in enumerate(plan.hops):
        for row in range(len(copies)):
            tensor, piece = int(copies.tensor[row]), int(copies.piece[row])
            giver = (got if number else held)[int(copies.source[row])][tensor]
            into = got[int(copies.destination[row])][tensor]
            block = giver[slices(copies.pieces, piece, of_source=True)]
            target = into[slices(copies.pieces, piece, of_source=False)]
            assert (target == -1).all() and (block >= 0).all()
            item = {"bfloat16": 2, "float32": 4, "int64": 8}[tensors.family_of(tensor).dtype]
            assert copies.nbytes[row] == block.size * item
            target[...] = block
    for rank, of in wanted.items():
        for tensor, array in of.items():
            assert np.array_equal(got[rank][tensor], array), (rank, tensor)
