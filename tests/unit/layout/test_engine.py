"""What a rank of an engine has of a fused tensor, head by head and row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refit.errors import UserError
from refit.job import Degrees
from refit.layout import engine
from refit.naming import named
from refit.rules.setup import Setup
from tests.support.jobs import TINY, job, placed


def test_eight_heads_in_two_groups_on_four_ranks() -> None:
    # worked by hand, rows of 8: a group is four queries, a key and a value
    cut = engine.qkv(96, (32, 8, 8), 4)
    assert cut.runs[0] == ((0, 0, 16, 1), (32, 16, 16, 1))  # q0 q1 k0 v0
    assert cut.runs[1] == ((16, 0, 32, 1),)  # q2 q3 k0 v0, which stand so in the whole tensor
    assert cut.runs[2] == ((48, 0, 16, 1), (80, 16, 16, 1))
    assert cut.overlaps and not engine.qkv(96, (32, 8, 8), 2).overlaps
    # k0 and v0 are two shards': what has an edge within it falls into two
    assert cut.atoms().runs[:2] == (
        ((0, 0, 16, 1), (32, 16, 16, 1)),
        ((16, 0, 16, 1), (32, 16, 16, 1)),
    )


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(("heads", "groups"), [(16, 4), (16, 16), (32, 2)])
def test_rows_of_each_head_by_the_formula(heads: int, groups: int, tp: int) -> None:
    # of q head h: h // per * period + h % per * d; of k of group g: g * period + per * d; v behind
    d, per = 3, heads // groups
    period = (per + 2) * d
    cut = engine.qkv(groups * period, (per * d, d, d), tp)
    for rank in range(tp):
        mine = range(rank * heads // tp, (rank + 1) * heads // tp)
        kv = sorted({h // per for h in mine})
        starts = [h // per * period + h % per * d for h in mine]
        starts += [g * period + per * d for g in kv] + [g * period + (per + 1) * d for g in kv]
        rows = np.concatenate([np.arange(start, start + d) for start in starts])
        assert np.array_equal(cut.indices(rank), rows)


@pytest.mark.parametrize(
    ("rows", "fused", "shards", "text"),
    [
        (12, (2, 1, 1), 2, "6 heads in 3 groups do not divide into 2 shards"),
        (10, (3, 1, 1), 4, "6 heads in 2 groups do not divide into 4 shards"),
    ],
)
def test_heads_and_groups_both_divide(
    rows: int, fused: tuple[int, ...], shards: int, text: str
) -> None:
    with pytest.raises(UserError, match=text):
        engine.qkv(rows, fused, shards)


@pytest.mark.parametrize(("tp", "rows"), [(1, 512), (2, 512), (3, 576)])
def test_rows_of_the_vocabulary_are_a_multiple_of_64_and_of_tp(tp: int, rows: int) -> None:
    side = placed(Degrees(etp=1), Degrees(kind="engine", tp=tp, etp=1)).destination
    assert side.vocab_rows == rows  # of 500


def test_gate_and_up_in_turn() -> None:
    cut = engine.interleaved((6, 6), 2)
    assert cut.indices(1).tolist() == [3, 9, 4, 10, 5, 11]
    assert (cut.axis, cut.length, cut.sizes) == (0, 12, (6, 6))
    with pytest.raises(UserError, match="5, a part of 5"):
        engine.interleaved((5, 5), 2)
    with pytest.raises(UserError, match="12 heads in 4 groups do not divide into 8"):
        engine.qkv(20 * 4, (12, 4, 4), 8)


@pytest.mark.parametrize(
    ("source", "engine_side", "etp"),
    [
        # the source keeps experts whole, and an engine without EP cuts them over its TP
        (Degrees(tp=2, ep=2, etp=1), Degrees(kind="engine", tp=4), 4),
        (Degrees(tp=2, ep=2, etp=1), Degrees(kind="engine", tp=4, ep=4, gpus=4), 1),
        (Degrees(kind="fsdp", shard=2), Degrees(kind="engine", tp=2), 2),
        (Degrees(kind="fsdp", shard=2), Degrees(tp=2), 2),
        (Degrees(tp=2, ep=2, etp=1), Degrees(tp=4), 1),  # Megatron's default
        (Degrees(kind="engine", tp=4), Degrees(tp=2), 4),
        (Degrees(tp=2), Degrees(kind="engine", tp=4, etp=1), 1),  # what is said stays
    ],
)
def test_etp_by_default(source: Degrees, engine_side: Degrees, etp: int) -> None:
    engine_side = replace(engine_side, gpus=engine_side.gpus or 4)
    placement = Setup.of(job(source, engine_side, ranks_per_node=16)).placement
    assert placement.destination.etp == etp


def test_a_name_says_the_etp_that_there_is() -> None:
    row = job(Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, etp=1)).parallel
    what = job(Degrees(tp=2, ep=2, etp=1), Degrees(kind="engine", tp=4))
    assert named(what, row).parallel.name == "tp2ep2_to_tp4ep1etp4_kindengine"
    what = job(Degrees(kind="fsdp", shard=3), Degrees(tp=2))
    assert named(what, row).parallel.name == "fsdp3_to_tp2ep1etp2"


def test_keys_that_are_copied_are_counted() -> None:
    # 4 groups of a head of 16 over 8 ranks: each has a whole key and value of 2 * 16 rows, and
    # not a half; in bytes, of 64 columns in bfloat16, on both layers
    model = replace(TINY, num_attention_heads=8, kv_channels=16, moe_shared_expert_gate=False)
    sizes = {}
    for kind in ("megatron", "engine"):
        side = Degrees(kind=kind, tp=8, etp=1, make_vocab_size_divisible_by=8)
        setup = Setup.of(job(Degrees(etp=1), side, model=model, ranks_per_node=16))
        layout = setup.placement.destination
        sizes[kind] = sum(s.nbytes for s in setup.catalogue.held_by(layout, layout.offset))
    assert sizes["engine"] - sizes["megatron"] == 2 * 16 * 64 * 2
