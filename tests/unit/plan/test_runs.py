"""Runs between arenas against the copies they are of, byte by byte; and how arenas are laid out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn_by
from hypothesis import strategies as st
from numpy.typing import NDArray

from refit.job import Degrees
from refit.layout.cut import PADDING, Cut
from refit.layout.layout import Layout, Placement
from refit.layout.tensors import ITEMSIZE, Catalogue, Family, Shard
from refit.model_config import Model
from refit.plan.arena import ALIGNMENT
from refit.plan.build import build_plan
from refit.plan.copies import Copies
from refit.plan.plan import Plan
from refit.plan.runs import NO_CAST, Runs, _folded, _merged, dtypes, given, received
from tests.support.plans import Case, case, cases
from tests.support.slices import slices
from tests.unit.plan.test_pieces import Given, any_plan
from tests.unit.plan.test_uneven import SIDES, numbered

Bytes = NDArray[np.uint8]

MOE = Model(
    name="moe",
    num_layers=4,
    hidden_size=32,
    ffn_hidden_size=64,
    num_attention_heads=4,
    num_query_groups=4,
    kv_channels=8,
    gated_linear_unit=True,
    add_bias_linear=False,
    vocab_size=40,
    make_vocab_size_divisible_by=4,
    num_moe_experts=16,
    moe_ffn_hidden_size=32,
    moe_shared_expert_intermediate_size=32,
)


UNTIED: dict[str, Any] = {"share_embeddings_and_output_weights": False}


# ---- what runs must do, by brute force


def laid_out(shards: list[Shard]) -> tuple[dict[int, int], int]:
    """Where each shard begins, one after another, those in slots together; and the end."""
    starts: dict[int, int] = {}
    storages: dict[str, int] = {}
    end = 0
    for shard in shards:
        slot = shard.slot
        begins = end if slot is None else storages.setdefault(slot.storage, end)
        starts[shard.tensor] = begins + (slot.number * shard.nbytes if slot else 0)
        room = shard.nbytes * (slot.count if slot else 1)
        end = max(end, begins + -(-room // ALIGNMENT) * ALIGNMENT)
    return starts, end


def views(copies: Copies, rank: int, of_source: bool, arena: Bytes) -> dict[int, NDArray[np.void]]:
    """A rank's shards in its arena, each element so many bytes."""
    shards = copies.shards(rank, of_source)
    starts, _ = laid_out(shards)
    found = {
        s.tensor: arena[starts[s.tensor] : starts[s.tensor] + s.nbytes]
        .view(f"V{ITEMSIZE[s.dtype]}")
        .reshape(s.shape)
        for s in shards
        if s.same_as is None
    }
    return found | {s.tensor: found[s.same_as] for s in shards if s.same_as is not None}


def check(plan: Plan) -> None:
    """Each hop's runs on each rank against its copies, over random bytes."""
    random = np.random.default_rng(0)
    for copies in plan.hops:
        ranks = range(copies.placement.world)
        sizes = {r: laid_out(copies.shards(r, of_source=True))[1] for r in ranks}
        held = {r: random.integers(0, 256, size, np.uint8) for r, size in sizes.items()}
        theirs = {r: views(copies, r, True, held[r]) for r in ranks}
        for rank in ranks:
            size = laid_out(copies.shards(rank, of_source=False))[1]
            wanted, once = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
            into, touched = (views(copies, rank, False, arena) for arena in (wanted, once))
            table = received(copies, rank)
            for row in copies.to_rank(rank).tolist():
                tensor, piece = int(copies.tensor[row]), int(copies.piece[row])
                block = theirs[int(copies.source[row])][tensor][slices(copies.pieces, piece, True)]
                there = slices(copies.pieces, piece, False)
                into[tensor][there] = fitted(block, into[tensor].itemsize)
                touched[tensor][there] = ones(into[tensor].itemsize)
            parts = table.split(40)
            assert (parts.width <= 40).all() and ((parts.rows == 1) | (parts.nbytes <= 40)).all()
            assert table.by_rows().flat.all()
            for same in (table, parts, table.by_rows()):
                got, times = carried_out(same, held, size)
                assert np.array_equal(got, wanted) and np.array_equal(times, once)
            for peer in np.unique(table.peer).tolist():
                theirs_of = given_to(copies, peer, rank)
                assert shown(theirs_of) == shown(table.where(table.peer == peer))


def given_to(copies: Copies, rank: int, receiver: int) -> Runs:
    """What a rank gives one other, as that one calls it."""
    table = given(copies, rank)
    mine = table.where(table.peer == receiver)
    return replace(mine, peer=np.full_like(mine.peer, rank))


def fitted(block: NDArray[np.void], itemsize: int) -> NDArray[np.void]:
    """Its elements' first bytes, or all and zeros: what stands for a cast here."""
    got = np.zeros((*block.shape, itemsize), np.uint8)
    common = min(itemsize, block.itemsize)
    got[..., :common] = block.copy().view(np.uint8).reshape(*block.shape, -1)[..., :common]
    return got.view(f"V{itemsize}")[..., 0]


def ones(itemsize: int) -> NDArray[np.void]:
    return np.ones(itemsize, np.uint8).view(f"V{itemsize}")


def carried_out(table: Runs, held: dict[int, Bytes], size: int) -> tuple[Bytes, Bytes]:
    """What is in the receiver's arena then, and how often each of its bytes was written."""
    got, times = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for peer, source, destination, rows, out_pitch, in_pitch, width, cast in table.tuples():
        assert rows > 0 and width > 0 and (rows > 1 or out_pitch == in_pitch == 0)
        item, wanted = (1, 1) if cast == NO_CAST else map(ITEMSIZE.__getitem__, dtypes(cast))
        wide = width // item * wanted
        for row in range(rows):
            out_of, into = source + row * out_pitch, destination + row * in_pitch
            assert out_of >= 0 and out_of + width <= len(held[peer]) and into + wide <= size
            bits = held[peer][out_of : out_of + width].view(f"V{item}")
            got[into : into + wide] = np.ascontiguousarray(fitted(bits, wanted)).view(np.uint8)
            times[into : into + wide] += 1
    return got, times


def shown(table: Runs) -> list[tuple[int, ...]]:
    """Its numbers, of which none is of a cast where none is said."""
    return [run[:-1] if run[-1] == NO_CAST else run for run in table.tuples()]


def table_of(*runs: tuple[int, ...]) -> Runs:
    return Runs(*np.array([(*run, NO_CAST) for run in runs]).T)


@drawn_by(cases(max_gpus=8))
def test_runs_do_what_the_copies_do(drawn: Case) -> None:
    check(drawn.plan)


@drawn_by(
    st.data(), st.sampled_from(["direct", "hierarchical"]), st.sampled_from(["dense", "expert"])
)
def test_of_any_two_cuts(data: st.DataObject, fanout: str, grid: str) -> None:
    plan, _ = any_plan(data, data.draw(st.integers(1, 2)), grid, fanout)
    check(replace(plan, catalogue=replace(plan.catalogue, num_layers=1)))


@pytest.mark.parametrize("fanout", ["direct", "hierarchical"])
@pytest.mark.parametrize(("source", "destination"), SIDES)
def test_of_uneven_layers(source: Layout, destination: Layout, fanout: str) -> None:
    tensors, gpus = numbered(), source.gpus
    world = -(-(gpus + destination.gpus) // 3) * 3
    placement = Placement(source, (replace(destination, offset=gpus),), 3, world)
    check(build_plan(tensors, placement, fanout))


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (Degrees(tp=2, etp=1), Degrees(ep=2, etp=1, expert_slots=9)),
        (Degrees(ep=2, etp=1, expert_slots=8), Degrees(ep=2, etp=1, expert_slots=11)),
        (Degrees(tp=2, etp=2), Degrees(tp=4, etp=1, dtype="float16")),
        (Degrees(tp=2, etp=1), Degrees(kind="engine", tp=4, etp=2, gate_up_interleaved=True)),
        (Degrees(tp=4, etp=1), Degrees(tp=2, etp=1, make_vocab_size_divisible_by=16)),
        (Degrees(tp=2, pp=2, etp=1), Degrees(tp=4, etp=1, **UNTIED)),
        (Degrees(tp=2, etp=1, dtype="float32"), Degrees(pp=2, etp=1, gpus=4, **UNTIED)),
    ],
    ids=str,
)
def test_of_sides_of_other_kinds(source: Degrees, destination: Degrees) -> None:
    tied = replace(MOE, share_embeddings_and_output_weights=True)
    for model in (MOE, tied):
        check(case(model, source, destination, per_node=4).plan)


# ---- by hand


def plan_of(families: list[Family], source: Layout, destination: Layout) -> Copies:
    base, numbered_ = 0, []
    for family in families:
        numbered_.append(replace(family, base=base))
        base += family.count
    layers = max(1 + max(family.layers) for family in families)
    placement = Placement(source, (replace(destination, offset=source.gpus),), 8, 8)
    (copies,) = build_plan(Catalogue(tuple(numbered_), layers), placement).hops
    return copies


def test_what_touches_at_both_ends_is_one() -> None:
    norm = Family("norm{layer}", (32,), layers=(0, 1))
    columns = Family("w{layer}", (4, 64), axis=1, layers=(0, 1))
    copies = plan_of([columns, norm], Layout(), Layout(tp=2))
    # both norms lie together, 64 bytes each; then 8 rows of 128 bytes, of which each takes 64
    assert [shown(received(copies, rank)) for rank in (1, 2)] == [
        [(0, 0, 0, 1, 0, 0, 128), (0, 128, 128, 8, 128, 64, 64)],
        [(0, 0, 0, 1, 0, 0, 128), (0, 192, 128, 8, 128, 64, 64)],
    ]


def test_runs_of_several_peers_are_no_block() -> None:
    # a stage has one layer of w, behind 0, 128 and 256 bytes; the destination all, 64 bytes each
    families = [
        Family("u{layer}", (2, 32), axis=1, layers=(1,)),
        Family("v{layer}", (4, 32), axis=1, layers=(2,)),
        Family("w{layer}", (2, 32), axis=0, layers=(0, 1, 2)),
    ]
    table = received(plan_of(families, Layout(pp=3), Layout(tp=2)), 3)
    assert shown(table.where(table.width == 64)) == [
        (peer, 128 * peer, 192 + 64 * peer, 1, 0, 0, 64) for peer in (0, 1, 2)
    ]


def test_rows_that_go_on_at_one_end_alone_are_two_blocks() -> None:
    # every second column, beside a column of padding
    columns = [np.array([0, 2, PADDING]), np.array([1, 3, PADDING])]
    cuts = (Cut.whole(1, 4), Cut.of(1, 4, columns))
    family = Given("w{layer}", (2, 4, 2), layers=(0,), cuts=cuts)
    sides = replace(Layout(), kind="0"), replace(Layout(tp=2), kind="1")
    table = received(plan_of([family], *sides), 1)
    assert shown(table) == [(0, 0, 0, 2, 8, 4, 4), (0, 16, 12, 2, 8, 4, 4)]


def test_what_is_cast_is_no_block_with_what_is_not() -> None:
    # two blocks of two rows, of which the second goes on where the first ends, at both ends
    ends = np.array([(0, 0, 0, 2, 8, 8, 4, NO_CAST), (0, 16, 16, 2, 8, 8, 4, 2)])
    assert len(_merged(Runs(*ends.T), np.zeros(2, dtype=np.int64))) == 2
    ends[1, -1] = NO_CAST
    assert shown(_merged(Runs(*ends.T), np.zeros(2, dtype=np.int64))) == [(0, 0, 0, 4, 8, 8, 4)]


@pytest.mark.parametrize(("layers", "blocks"), [(2, 4), (3, 2)])
def test_equal_runs_at_equal_distances_are_one_block(layers: int, blocks: int) -> None:
    rows = Family("w{layer}", (4, 32), axis=0, layers=tuple(range(layers)))
    table = received(plan_of([rows], Layout(tp=2), Layout()), 2)
    assert len(table) == blocks
    if layers == 3:
        assert shown(table) == [(0, 0, 0, 3, 128, 256, 128), (1, 0, 128, 3, 128, 256, 128)]


def test_split_by_the_largest() -> None:
    table = table_of((0, 7, 9, 1, 0, 0, 10), (1, 0, 100, 5, 8, 16, 3))
    assert shown(table.split(7)) == [
        (0, 7, 9, 1, 0, 0, 7),
        (0, 14, 16, 1, 0, 0, 3),
        (1, 0, 100, 2, 8, 16, 3),
        (1, 16, 132, 2, 8, 16, 3),
        (1, 32, 164, 1, 0, 0, 3),
    ]
    assert table.split(2).nbytes.sum() == 25 and len(table.split(2)) == 5 + 5 + 3


@pytest.mark.parametrize(
    ("mode", "source", "destination", "most"),
    [
        ("non-collocated", Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, ep=2, etp=1), 1),
        ("non-collocated", Degrees(tp=4, etp=1), Degrees(tp=4, etp=1), 1),
        ("non-collocated", Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, etp=1), 6),
        ("collocated", Degrees(tp=4, ep=2, etp=1), Degrees(tp=4, etp=1, gpus=8), 3),
        # all experts are one run of each peer that has them, and others are 5 and 9
        ("non-collocated", Degrees(pp=2, ep=2, etp=1), Degrees(ep=4, etp=1), 2 + 5),
        ("non-collocated", Degrees(pp=2, ep=4, etp=1), Degrees(ep=2, etp=1), 2 * 2 + 9),
        ("non-collocated", Degrees(pp=2, ep=4, etp=1), Degrees(pp=2, ep=2, etp=1), 2 + 5),
    ],
    ids=str,
)
def test_arenas_are_laid_out_so_that_blocks_touch(
    mode: str, source: Degrees, destination: Degrees, most: int
) -> None:
    (copies,) = case(MOE, source, destination, mode).plan.hops
    ranks = copies.placement.receiving_ranks
    assert max(len(received(copies, rank).by_rows()) for rank in ranks) == most


@drawn_by(
    st.lists(st.tuples(st.sampled_from([20, 24]), st.sampled_from([20, 24, 28])), max_size=12)
)
def test_runs_at_distances_that_change_are_folded_each_once(
    distances: list[tuple[int, int]],
) -> None:
    """Two stretches of equal distances that touch have a run in common, which is copied once."""
    source, destination = np.cumsum(np.array([(0, 0), *distances], dtype=np.int64), axis=0).T
    none = np.zeros(len(source), dtype=np.int64)
    flat = Runs(none, source, destination, none + 1, none, none, none + 16, none + NO_CAST)
    each = _folded(flat, none).by_rows()
    found = sorted(zip(each.source.tolist(), each.destination.tolist(), strict=True))
    assert found == list(zip(source.tolist(), destination.tolist(), strict=True))
    assert (each.width == 16).all()


def test_stretches_that_touch() -> None:
    at = np.array([0, 100, 200, 350, 500, 650, 900])
    none = np.zeros(len(at), dtype=np.int64)
    folded = _folded(Runs(none, at, at, none + 1, none, none, none + 16, none + NO_CAST), none)
    blocks = [(run[1], run[3], run[4]) for run in folded.tuples()]
    assert blocks == [(0, 3, 100), (350, 3, 150), (900, 1, 0)]
