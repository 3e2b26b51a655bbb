"""Any two cuts of a tensor, and plans over them, against every index counted one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refit.job import UserError
from refit.layout.cut import PADDING, Cut
from refit.layout.layout import IntArray, Layout, Placement
from refit.layout.tensors import Catalogue, Family
from refit.plan.build import build_plan
from refit.plan.pieces import intersection, pieces
from refit.plan.plan import Plan

# q, k, v, z, b and a of Qwen3-Next's gated delta net; z, x, B, C and dt of Mamba-2 8B
DELTA_NET = (2048, 2048, 4096, 4096, 32, 32)
MAMBA = (8192, 8192, 1024, 1024, 128)


# ---- cuts


def test_parts_are_each_cut_on_their_own() -> None:
    cut = Cut.even(0, (6, 2), 2)
    assert [cut.indices(shard).tolist() for shard in (0, 1)] == [[0, 1, 2, 6], [3, 4, 5, 7]]
    with pytest.raises(UserError, match=r"size 6, a part of 6\+2, does not divide into 4"):
        Cut.even(0, (6, 2), 4)


@pytest.mark.parametrize(("parts", "tp"), [(DELTA_NET, 8), (DELTA_NET, 32), (MAMBA, 8)])
def test_parts_of_real_layers_by_numpy(parts: tuple[int, ...], tp: int) -> None:
    rows = np.arange(sum(parts))
    split = np.split(rows, np.cumsum(parts)[:-1])
    for shard in range(tp):
        mine = np.concatenate([np.split(part, tp)[shard] for part in split])
        assert np.array_equal(Cut.even(0, parts, tp).indices(shard), mine)
    assert sum(DELTA_NET) == 12352 and sum(MAMBA) == 18560


def test_a_cut_of_indices_says_them_again_in_few_runs() -> None:
    held = np.array([4, 5, 6, -1, -1, 0, 2, 4 + 8, 9, 9 + 5])
    cut = Cut.of(0, 16, [held])
    assert np.array_equal(cut.indices(0), held)
    assert cut.runs[0] == ((4, 0, 3, 1), (0, 5, 2, 2), (12, 7, 1, 1), (9, 8, 2, 5))
    with pytest.raises(UserError, match="beyond the axis, which has 16"):
        Cut.of(0, 16, [np.array([16])])
    with pytest.raises(UserError, match="shard 1 has an index twice"):
        Cut.of(0, 16, [np.array([3]), np.array([3, 3])])


def test_rows_beyond_the_vocabulary_are_padding() -> None:
    cut = Cut.even(0, (12,), 3).below(7)
    held = [cut.indices(shard).tolist() for shard in range(3)]
    assert held == [[0, 1, 2, 3], [4, 5, 6, PADDING], [PADDING] * 4]
    strided = Cut.of(0, 12, [np.arange(1, 12, 2)]).below(6)
    assert strided.indices(0).tolist() == [1, 3, 5, PADDING, PADDING, PADDING]


@st.composite
def cuts(draw: st.DrawFn, length: int, complete: bool, axis: int = 0) -> Cut:
    """Of any kind: any indices in any order, in runs, strided, in several shards, or padded.

    Args:
        complete: every index is in some shard.
    """
    shards = draw(st.integers(1, 4))
    held: list[list[int]] = [[] for _ in range(shards)]
    way = draw(st.sampled_from(["even", "strided", "any", "windows"]))
    for index in range(length):
        if way == "even":
            owners = {index * shards // length}
        elif way == "strided":
            owners = {index % shards}
        elif way == "any":
            owners = set(draw(st.lists(st.integers(0, shards - 1), max_size=2)))
        else:  # neighbours share what is at their borders
            at = index * shards // length
            owners = {at, max(0, at - index % 2)}
        if complete and not owners:
            owners = {draw(st.integers(0, shards - 1))}
        for owner in owners:
            held[owner].append(index)
    for of_shard in held:
        if draw(st.booleans()):
            of_shard.reverse()
        for _ in range(draw(st.integers(0, 2))):
            of_shard.insert(draw(st.integers(0, len(of_shard))), PADDING)
    return Cut.of(axis, length, [np.array(of_shard, dtype=np.int64) for of_shard in held])


@given(st.data(), st.integers(1, 12))
def test_a_cut_keeps_what_it_was_made_of(data: st.DataObject, length: int) -> None:
    cut = data.draw(cuts(length, complete=False))
    again = Cut.of(0, length, [cut.indices(shard) for shard in range(cut.shards)])
    assert again == cut
    counted = np.bincount(
        np.concatenate([h[h != PADDING] for h in map(cut.indices, range(cut.shards))]),
        minlength=length,
    )
    assert cut.overlaps == bool((counted > 1).any())
    atoms = cut.atoms()
    for shard in range(cut.shards):
        assert np.array_equal(atoms.indices(shard), cut.indices(shard))
    runs = [{w + i * s for i in range(n)} for rs in atoms.runs for w, _, n, s in rs]
    assert all(a == b or not a & b for a in runs for b in runs)


@given(*[st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 5))] * 2)
def test_what_two_runs_share(
    one: tuple[int, int, int, int], two: tuple[int, int, int, int]
) -> None:
    at = [{w + i * s: local + i for i in range(n)} for w, local, n, s in (one, two)]
    shared = sorted(at[0].keys() & at[1].keys())
    found = intersection(one, two)
    if found is None:
        assert not shared
        return
    start, step, their_start, their_step, count = found
    assert [at[0][i] for i in shared] == [start + k * step for k in range(count)]
    assert [at[1][i] for i in shared] == [their_start + k * their_step for k in range(count)]


@given(st.data(), st.integers(1, 10))
def test_pieces_of_one_axis_by_every_index(data: st.DataObject, length: int) -> None:
    source = data.draw(cuts(length, complete=True))
    destination = data.draw(cuts(length, complete=False))
    found = pieces(source, destination)
    theirs = [source.indices(shard) for shard in range(source.shards)]
    wanted = [destination.indices(shard) for shard in range(destination.shards)]
    got = [np.full(len(held), PADDING) for held in wanted]
    for piece in np.unique(found.box).tolist():
        group = np.flatnonzero(found.box == piece)
        box = found.slices(piece, of_source=False)[0]
        shard = int(found.destination_shard[piece])
        assert (got[shard][box] == PADDING).all()  # nothing twice
        for giver in group.tolist():
            given_ = theirs[found.source_shard[giver]][found.slices(giver, of_source=True)[0]]
            assert np.array_equal(given_, wanted[shard][box])
        got[shard][box] = wanted[shard][box]
        have = {s for s, held in enumerate(theirs) if np.isin(wanted[shard][box], held).all()}
        assert set(found.source_shard[group].tolist()) == have
        # no other shard has a part of it
        others = [held for s, held in enumerate(theirs) if s not in have]
        assert not any(np.isin(wanted[shard][box], held).any() for held in others)
    for shard, held in enumerate(wanted):
        assert np.array_equal(got[shard], held)


# ---- plans


@dataclass(frozen=True)
class Given(Family):
    """A family that two sides cut as they are told."""

    cuts: tuple[Cut, Cut] = ()  # type: ignore[assignment]

    def cut(self, layout: Layout) -> Cut:
        return self.cuts[layout.kind != "source"]

    def is_cut(self, layout: Layout) -> bool:
        return self.cut(layout).shards > 1


def side(name: str, cut: Cut, replicas: int, grid: str, offset: int) -> Layout:
    shards = {"etp" if grid == "expert" else "tp": cut.shards}
    if grid == "expert":
        shards["tp"] = 1
    layout = Layout(gpus=cut.shards * replicas, offset=offset, **shards)  # type: ignore[arg-type]
    return replace(layout, kind=name)


@given(st.data(), st.sampled_from(["dense", "expert"]), st.sampled_from(["direct", "hierarchical"]))
def test_a_plan_over_any_two_cuts(data: st.DataObject, grid: str, fanout: str) -> None:
    shape = (data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6)), 2)
    axes = data.draw(st.tuples(st.integers(0, 1), st.integers(0, 1)))
    both = (
        data.draw(cuts(shape[axes[0]], complete=True, axis=axes[0])),
        data.draw(cuts(shape[axes[1]], complete=False, axis=axes[1])),
    )
    experts = 1 if grid == "expert" else 0
    name = "w{expert}" if experts else "w"
    family = Given(name, shape, grid=grid, num_experts=experts, stage="first", cuts=both)
    source = side("source", both[0], data.draw(st.integers(1, 2)), grid, 0)
    start = data.draw(st.sampled_from([0, source.gpus]))
    destination = side("destination", both[1], data.draw(st.integers(1, 2)), grid, start)
    per_node = data.draw(st.sampled_from([1, 2, 3]))
    used = max(source.ranks.stop, destination.ranks.stop)
    placement = Placement(source, (destination,), per_node, -(-used // per_node) * per_node)
    plan = build_plan(Catalogue((family,), 0), placement, fanout)
    whole = np.arange(np.prod(shape)).reshape(shape)
    check_plan(plan, whole, both, source, destination)


def local(whole: IntArray, cut: Cut, shard: int) -> IntArray:
    """A shard of a whole tensor, -1 in its padding."""
    held = cut.indices(shard)
    taken = np.take(whole, np.maximum(held, 0), axis=cut.axis)
    hidden = np.moveaxis(taken, cut.axis, 0)
    hidden[held == PADDING] = -1
    return taken


def shards_of(layout: Layout, whole: IntArray, cut: Cut) -> dict[int, IntArray]:
    ranks = layout.dense if layout.tp > 1 or layout.etp == 1 else layout.expert
    return {
        int(rank): local(whole, cut, index[-1] if cut.shards > 1 else 0)
        for index, rank in np.ndenumerate(ranks)
    }


def check_plan(
    plan: Plan, whole: IntArray, cuts: tuple[Cut, Cut], source: Layout, destination: Layout
) -> None:
    held, wanted = shards_of(source, whole, cuts[0]), shards_of(destination, whole, cuts[1])
    got = {rank: np.full(shard.shape, -1) for rank, shard in wanted.items()}
    for number, copies in enumerate(plan.hops):
        given_by = got if number else held
        done = {rank: shard.copy() for rank, shard in got.items()}
        for row in range(len(copies)):
            giver, taker = int(copies.source[row]), int(copies.destination[row])
            piece = int(copies.piece[row])
            block = given_by[giver][copies.pieces.slices(piece, of_source=True)]
            into = done[taker][copies.pieces.slices(piece, of_source=False)]
            assert (into == -1).all() and (block >= 0).all()
            assert copies.nbytes[row] == 2 * block.size
            into[...] = block
        got = done
    for rank, shard in wanted.items():
        assert np.array_equal(got[rank], shard)
    # and the bounds, element by element
    elements = {rank: set(shard[shard >= 0].tolist()) for rank, shard in held.items()}
    missing = {
        rank: set(shard[shard >= 0].tolist()) - elements.get(rank, set())
        for rank, shard in wanted.items()
    }
    assert plan.bounds.move == sum(2 * len(m) for m in missing.values())
    assert plan.bounds.recv == max(2 * len(m) for m in missing.values())
    per_node = plan.placement.ranks_per_node
    needed: dict[int, set[int]] = {}
    for rank, shard in wanted.items():
        node = rank // per_node
        there = set().union(*(e for r, e in elements.items() if r // per_node == node))
        needed.setdefault(node, set()).update(set(shard[shard >= 0].tolist()) - there)
    assert plan.bounds.cross_node == sum(2 * len(n) for n in needed.values())
