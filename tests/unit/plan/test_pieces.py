"""Any two cuts of a tensor, and plans over them, against every index counted one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refit.errors import UserError
from refit.layout.cut import PADDING, Cut
from refit.layout.layout import IntArray, Layout, Placement
from refit.layout.tensors import Catalogue, Family
from refit.plan.build import build_plan
from refit.plan.cells import cells
from refit.plan.pieces import intersection, pieces
from refit.plan.plan import Plan
from tests.support.slices import slices

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
    assert (cut.length, cut.sizes) == (7, (4, 4, 4))
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
        box = slices(found, piece, of_source=False)[0]
        shard = int(found.destination_shard[piece])
        assert (got[shard][box] == PADDING).all()  # nothing twice
        for giver in group.tolist():
            given_ = theirs[found.source_shard[giver]][slices(found, giver, of_source=True)[0]]
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
    """A family that every side cuts as it is told: the source, then each destination."""

    cuts: tuple[Cut, ...] = ()

    def cut(self, layout: Layout) -> Cut:
        return self.cuts[int(layout.kind)]

    def is_cut(self, layout: Layout) -> bool:
        return self.cut(layout).shards > 1


def side(number: int, cut: Cut, replicas: int, grid: str, offset: int) -> Layout:
    shards = {"etp" if grid == "expert" else "tp": cut.shards}
    if grid == "expert":
        shards["tp"] = 1
    layout = Layout(gpus=cut.shards * replicas, offset=offset, **shards)  # type: ignore[arg-type]
    return replace(layout, kind=str(number))


def any_plan(
    data: st.DataObject, destinations: int, grid: str, fanout: str, max_size: int = 6
) -> tuple[Plan, IntArray]:
    """A plan over cuts of any kind, and the whole tensor."""
    shape = (data.draw(st.integers(1, max_size)), data.draw(st.integers(1, max_size)), 2)
    of_sides = []
    for number in range(1 + destinations):
        axis = data.draw(st.integers(0, 1))
        of_sides.append(data.draw(cuts(shape[axis], complete=not number, axis=axis)))
    experts = 1 if grid == "expert" else 0
    name = "w{expert}" if experts else "w"
    family = Given(name, shape, grid=grid, num_experts=experts, stage="first", cuts=tuple(of_sides))
    source = side(0, of_sides[0], data.draw(st.integers(1, 2)), grid, 0)
    start, layouts = data.draw(st.sampled_from([0, source.gpus])), []
    for number, cut in enumerate(of_sides[1:], 1):
        layouts.append(side(number, cut, data.draw(st.integers(1, 2)), grid, start))
        start = layouts[-1].ranks.stop
    per_node = data.draw(st.sampled_from([1, 2, 3, 8]))
    used = max(source.ranks.stop, start)
    placement = Placement(source, tuple(layouts), per_node, -(-used // per_node) * per_node)
    plan = build_plan(Catalogue((family,), 0), placement, fanout)
    return plan, np.arange(np.prod(shape)).reshape(shape)


GRIDS = st.sampled_from(["dense", "expert"])
FANOUTS = st.sampled_from(["direct", "hierarchical"])


@given(st.data(), GRIDS, FANOUTS)
def test_a_plan_over_any_two_cuts(data: st.DataObject, grid: str, fanout: str) -> None:
    check_plan(*any_plan(data, 1, grid, fanout))


@given(st.data(), GRIDS, FANOUTS, st.integers(2, 3))
def test_a_plan_to_several_destinations(
    data: st.DataObject, grid: str, fanout: str, destinations: int
) -> None:
    check_plan(*any_plan(data, destinations, grid, fanout))


def test_pools_that_want_different_rows_of_a_node_count_each_row_once() -> None:
    # 6 rows of 2 elements on rank 0; on node 1 one pool wants 0-2 and 3-5, the other 0-1, 2-3, 4-5
    of_sides = [Cut.even(0, (6,), shards) for shards in (1, 2, 3)]
    family = Given("w", (6, 2), stage="first", cuts=tuple(of_sides))
    sides = [
        side(number, cut, 1, "dense", offset)
        for number, (cut, offset) in enumerate(zip(of_sides, (0, 5, 7), strict=True))
    ]
    placement = Placement(sides[0], tuple(sides[1:]), 5, 10)
    plan = build_plan(Catalogue((family,), 0), placement)
    assert plan.cross_node_bytes == 2 * 24 and plan.bounds.cross_node == 24
    assert (plan.leaving_bytes, plan.least_send, plan.bounds.send) == (24, 24, 48)
    # cells begin at rows 0, 2, 3 and 4
    box = plan.pieces.box[plan.piece]
    divided = cells(plan.pieces, box, np.zeros(len(plan), dtype=np.int64), plan.catalogue)
    row, cell, size = (column.tolist() for column in divided.of(box))
    assert divided.count == 4 and divided.indices[box].tolist() == [6, 6, 4, 4, 4]
    assert list(zip(row, cell, size, strict=True)) == [
        (0, 0, 4), (0, 1, 2), (1, 2, 2), (1, 3, 4), (2, 0, 4), (3, 1, 2), (3, 2, 2), (4, 3, 4),
    ]  # fmt: skip


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


def check_plan(plan: Plan, whole: IntArray) -> None:
    (family,) = plan.catalogue.families
    placement = plan.placement
    held = shards_of(placement.source, whole, family.cut(placement.source))
    wanted: dict[int, IntArray] = {}
    for layout in placement.destinations:
        wanted |= shards_of(layout, whole, family.cut(layout))
    pools = {rank: n for n, x in enumerate(placement.destinations) for rank in x.ranks}
    got = {rank: np.full(shard.shape, -1) for rank, shard in wanted.items()}
    for number, copies in enumerate(plan.hops):
        given_by = got if number else held
        done = {rank: shard.copy() for rank, shard in got.items()}
        for row in range(len(copies)):
            giver, taker = int(copies.source[row]), int(copies.destination[row])
            assert not number or pools[giver] == pools[taker]
            piece = int(copies.piece[row])
            block = given_by[giver][slices(copies.pieces, piece, of_source=True)]
            into = done[taker][slices(copies.pieces, piece, of_source=False)]
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
    assert plan.leaving_bytes == 2 * len(set().union(*needed.values()))
    # of nested sets of ranks, all of them at least: each element leaves them once
    leaves = set().union(*missing.values())
    assert plan.least_send >= -(-2 * len(leaves) // placement.source.gpus)
    assert plan.least_send <= plan.bounds.send <= int(plan.send_bytes.max(initial=0))
