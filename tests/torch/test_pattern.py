"""What a check of weights must find, element by element, and what poison leaves to be found."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from refit.layout.cut import Cut
from refit.layout.tensors import Family, Shard
from refit.rules.setup import Setup
from refit.weights.casts import cast_bits
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


@pytest.mark.parametrize("index", [0, 5, 27])
def test_what_is_renewed_was_checked_first(index: int) -> None:
    of, first, second = weights(MIXED, "source", 1), Pattern(3, 0), Pattern(3, 1)
    first.fill(of)
    shard = of.shards[index]
    bits(of.tensors[shard.tensor])[0] ^= 1
    assert first.check_and_renew(of, second) == Check(elements(of), 1, shard.name)
    assert second.check(of) == Check(elements(of), 0)


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


# ---- other dtypes, shapes and cuts


def shard(dtype: str, shape: tuple[int, ...], cut: Cut, index: int = 0, source: str = "") -> Shard:
    family = Family("w", shape, dtype)
    return Shard(0, "w", family, cut, index, dtype, source or dtype, bool(source))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int64", "uint8"])
@pytest.mark.parametrize("axis", [0, 1])
def test_any_dtype_rank_and_cut(dtype: str, axis: int) -> None:
    shape = (6, 4, 5)
    everything = shard(dtype, shape, Cut.whole(axis, shape[axis]))
    whole = Weights.allocate([everything])
    pattern = Pattern(0, 0)
    pattern.fill(whole)
    assert pattern.check(whole) == Check(120, 0)
    values = whole.tensors[0].flatten().view(torch.uint8)
    assert len(values.unique()) > 60  # hardly two alike
    # strided, in another order, one index left out, with padding before, between and behind
    held = np.array([-1, 3, 1, -1, 0, -1])
    part = shard(dtype, shape, Cut.of(axis, shape[axis], [held]))
    mine = Weights.allocate([part])
    mine.arena.fill_(7)
    pattern.fill(mine)
    size = 120 // shape[axis]
    assert pattern.check(mine) == Check(3 * size, 0)
    wanted = whole.tensors[0].index_select(axis, torch.tensor([0, 3, 1, 0, 0, 0]))
    for padding in (0, 3, 5):
        wanted.select(axis, padding).zero_()
    assert torch.equal(mine.tensors[0].view(torch.uint8), wanted.view(torch.uint8))
    mine.tensors[0].select(axis, 3).view(torch.uint8)[0, 0] ^= 1
    assert pattern.check(mine) == Check(3 * size, 1, "w's padding")
    pattern.poison(mine)
    assert pattern.check(mine).mismatches == 3 * size


@pytest.mark.parametrize(("of", "to"), list(permutations(["bfloat16", "float16", "float32"], 2)))
def test_a_cast_is_torchs_own(of: str, to: str) -> None:
    cut = Cut.whole(0, 300)
    trained, cast = (
        Weights.allocate([shard(dtype, (300, 200), cut, source=of)]) for dtype in (of, to)
    )
    pattern = Pattern(0, 0)
    pattern.fill(trained)
    pattern.fill(cast)
    assert torch.equal(trained.tensors[0].to(cast.tensors[0].dtype), cast.tensors[0])
    assert trained.tensors[0].isfinite().all() and cast.tensors[0].isfinite().all()
    pattern.poison(cast)
    assert pattern.check(cast).mismatches == 60_000


def test_ties_go_to_the_even_one_and_carries_into_the_exponent() -> None:
    # 1 + 2**-8 lies between 1 and 1 + 2**-7, as 1 + 3 * 2**-8 between that and the next
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 2 - 2**-20, -(1 + 2**-8)])
    for to in ("bfloat16", "float16"):
        dtype = getattr(torch, to)
        mine = cast_bits(values.view(torch.int32), "float32", to)
        assert torch.equal(mine, values.to(dtype).view(torch.int16))
        wide = cast_bits(mine, to, "float32")
        assert torch.equal(wide, values.to(dtype).float().view(torch.int32))
    narrow = cast_bits(values.view(torch.int32), "float32", "bfloat16").view(torch.bfloat16)
    assert narrow.tolist() == [1, 1 + 2**-6, 1 + 2**-7, 2, -1]
