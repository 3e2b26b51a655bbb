"""What a check of weights must find, element by element, and what poison leaves to be found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from refit.layout.tensors import Shard
from refit.rules.setup import Setup
from refit.weights.pattern import Check, Pattern
from refit.weights.weights import Weights
from tests.support.jobs import SMALL, TINY, job

# 728 elements of bfloat16; and one whose expert bias is float32
WHOLE = Setup.of(job(model=SMALL))
MIXED = Setup.of(job(model=TINY))
INTEGER = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def weights(setup: Setup, side: str, rank: int) -> Weights:
    layout = setup.placement.source if side == "source" else setup.placement.destination
    return Weights.allocate(setup.catalogue.held_by(layout, rank))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A view of the same bits as integers."""
    return tensor.view(INTEGER[tensor.dtype]).view(-1)


def elements(of: Weights) -> int:
    return sum(tensor.numel() for tensor in of.tensors.values())


@pytest.mark.parametrize("setup", [WHOLE, MIXED], ids=["bfloat16", "with float32"])
@pytest.mark.parametrize("finite", [False, True])
def test_what_is_filled_is_right_and_poison_is_wrong_everywhere(setup: Setup, finite: bool) -> None:
    of, pattern = weights(setup, "destination", 2), Pattern(0, 1, finite)
    pattern.fill(of)
    assert pattern.check(of) == Check(elements(of), 0)
    right = [bits(tensor).clone() for tensor in of.tensors.values()]
    pattern.poison(of)
    assert pattern.check(of) == Check(elements(of), elements(of), of.shards[0].name)
    for tensor, was in zip(of.tensors.values(), right, strict=True):
        assert torch.equal(bits(tensor), ~was)


def test_there_are_as_many_as_by_hand() -> None:
    assert elements(weights(WHOLE, "destination", 2)) == 728


@pytest.mark.parametrize("index", [0, 1, 5, 27])
def test_each_wrong_bit_is_counted_and_the_first_tensor_named(index: int) -> None:
    of, pattern = weights(MIXED, "destination", 2), Pattern(3, 0)
    pattern.fill(of)
    shard = of.shards[index]
    bits(of.tensors[shard.tensor])[-1] ^= 1
    assert pattern.check(of) == Check(elements(of), 1, shard.name)
    bits(of.tensors[of.shards[-1].tensor])[0] ^= 1 << 7
    bits(of.tensors[of.shards[-1].tensor])[1] ^= 1 << 14
    assert pattern.check(of) == Check(elements(of), 3, shard.name)


def test_a_large_tensor_is_checked_to_its_end() -> None:
    # 4 MB in pieces of half of one
    large = Setup.of(job(model=replace(SMALL, vocab_size=1 << 18)))
    of, pattern = weights(large, "destination", 2), Pattern(0, 0)
    pattern.fill(of)
    shard = max(of.shards, key=lambda s: s.nbytes)
    assert shard.nbytes == 2 * 8 * (1 << 18)
    for place in (0, 1 << 18, (1 << 21) - 1):
        bits(of.tensors[shard.tensor])[place] ^= 2
    assert pattern.check(of) == Check(elements(of), 3, shard.name)


def test_a_shard_has_the_values_of_the_whole() -> None:
    pattern = Pattern(0, 0)
    whole = weights(MIXED, "destination", 2)
    pattern.fill(whole)
    for rank in (0, 1):
        part = weights(MIXED, "source", rank)
        pattern.fill(part)
        for shard in part.shards:
            mine, all_of = part.tensors[shard.tensor], whole.tensors[shard.tensor]
            assert torch.equal(bits(mine), bits(_cut(all_of, shard))), shard.name


def _cut(whole: torch.Tensor, shard: Shard) -> torch.Tensor:
    """The shard of a whole tensor; halves of gate and up are each cut on their own."""
    axis = shard.family.axis
    if axis is None:
        return whole
    chunks = whole.chunk(max(1, len(shard.family.parts)), axis)
    return torch.cat([c.chunk(shard.cut.shards, axis)[shard.shard] for c in chunks], axis)


@pytest.mark.parametrize("other", [Pattern(0, 1), Pattern(1, 0)], ids=["generation", "seed"])
def test_another_generation_or_seed_is_wrong_almost_everywhere(other: Pattern) -> None:
    of = weights(MIXED, "destination", 2)
    Pattern(0, 0).fill(of)
    assert other.check(of).mismatches > 0.99 * elements(of)


def test_finite_values_are_small_numbers_of_either_sign() -> None:
    of = weights(MIXED, "destination", 2)
    Pattern(0, 0, finite=True).fill(of)
    for shard in of.shards:
        values = of.tensors[shard.tensor].float()
        assert ((values.abs() >= 2**-7) & (values.abs() < 2**-3)).all(), shard.name
    large = of.tensors[max(of.shards, key=lambda s: s.nbytes).tensor]
    assert 0.3 < (large > 0).float().mean() < 0.7


def test_checks_add_up_and_the_first_name_stays() -> None:
    assert Check(3, 1, "a") + Check(4, 2, "b") == Check(7, 3, "a")
    assert Check(3, 0) + Check(4, 2, "b") == Check(7, 2, "b")
