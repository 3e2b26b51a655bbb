"""Plans against an element-by-element oracle; sources, sums and bounds by brute force."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from hypothesis import event, given

from refit.job import Degrees
from refit.model.architecture import PRODUCTION, catalogue
from refit.plan.build import build_plan
from refit.plan.plan import Plan
from tests.support import oracle
from tests.support.composed import composed
from tests.support.jobs import SMALL, TINY, placed
from tests.support.plans import (
    COLUMNS,
    Case,
    case,
    cases,
    check_elements,
    pool_cases,
)


@given(cases())
def test_every_destination_element_is_written_once_with_its_value(case: Case) -> None:
    check_elements(case)


@pytest.mark.parametrize("mode", ["collocated", "non-collocated"])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("etps", [(1, 2), (2, 1), (1, 4), (4, 1), (2, 4), (4, 2)])
@pytest.mark.parametrize("eps", [(1, 1), (2, 1), (1, 2)])
def test_experts_whose_etp_changes(
    eps: tuple[int, int], etps: tuple[int, int], gated: bool, mode: str
) -> None:
    model = replace(SMALL, num_moe_experts=4, moe_ffn_hidden_size=4, gated_linear_unit=gated)
    source, destination = (
        Degrees(tp=2, ep=ep, etp=etp, gpus=8) for ep, etp in zip(eps, etps, strict=True)
    )
    check_elements(case(model, source, destination, mode, per_node=3))


def test_biases_of_experts_that_are_cut_are_whole_on_each_of_their_ranks() -> None:
    # no rule lets such a job pass, and the plan does not lean on that
    model = replace(SMALL, num_moe_experts=4, moe_ffn_hidden_size=4, add_bias_linear=True)
    check_elements(case(model, Degrees(ep=2, etp=1), Degrees(ep=2, etp=2, gpus=4)))
    check_elements(case(model, Degrees(tp=2, etp=2), Degrees(tp=2, ep=2, etp=2, gpus=4)))


@given(cases())
def test_source_is_itself_else_on_its_node_else_any_holder(case: Case) -> None:
    plan = case.plan
    for i, row in enumerate(case.rows):
        assert row.source in row.holders
        assert plan.holders.ranks(int(plan.holder_set[i])).tolist() == row.holders
        near = [r for r in row.holders if case.node(r) == case.node(row.destination)]
        if row.destination in row.holders:
            assert row.source == row.destination
        elif near:
            assert row.source in near


# ---- the sums


@given(cases())
def test_sums_and_bounds_by_brute_force(case: Case) -> None:
    plan, world = case.plan, case.placement.world
    send, recv, local, cross = [0] * world, [0] * world, 0, 0
    for row in case.rows:
        nbytes = case.nbytes(row.name, row.block.size)
        if row.source == row.destination:
            local += nbytes
            continue
        send[row.source] += nbytes
        recv[row.destination] += nbytes
        cross += nbytes if case.node(row.source) != case.node(row.destination) else 0
    assert plan.send_bytes.tolist() == send and plan.recv_bytes.tolist() == recv
    assert plan.local_bytes == local and plan.cross_node_bytes == cross
    assert sum(send) == sum(recv) == plan.bounds.move
    assert plan.total_bytes == local + plan.bounds.move
    needed = [sum(case.nbytes(n, a.size) for n, a in d.items()) for d in case.destination]
    assert plan.total_bytes == sum(needed)

    # what a rank must receive: the elements that it needs and has not, counted one by one
    missing = [missing_bytes(case, [rank]) for rank in range(world)]
    assert plan.bounds.recv == max(missing) and recv == missing
    assert plan.bounds.move == sum(missing)
    # and a node, each element once
    nodes = [[r for r in range(world) if case.node(r) == n] for n in range(case.placement.nodes)]
    assert plan.bounds.cross_node == sum(missing_bytes(case, ranks) for ranks in nodes)
    assert plan.bounds.cross_node <= plan.cross_node_bytes


def missing_bytes(case: Case, ranks: list[int]) -> int:
    """Bytes of the elements that these ranks need and that none of them has, each counted once."""
    total = 0
    for name, spec in case.specs.items():
        need = [case.destination[r][name].ravel() for r in ranks if name in case.destination[r]]
        have = [case.source[r][name].ravel() for r in ranks if name in case.source[r]]
        if need:
            missing = np.unique(np.concatenate(need))
            if have:
                missing = np.setdiff1d(missing, np.concatenate(have))
            total += missing.size * oracle.ITEMSIZE[spec.dtype]
    return total


def remote_bytes_by_holders(case: Case) -> dict[frozenset[int], int]:
    """Bytes that must change ranks, by the set of source ranks that could give them."""
    found: dict[frozenset[int], int] = defaultdict(int)
    for row in case.rows:
        if row.destination not in row.holders:
            found[frozenset(row.holders)] += case.nbytes(row.name, row.block.size)
    return found


def best_busiest_sender(by_holders: dict[frozenset[int], int]) -> float:
    """What the busiest sender sends in the best (divisible) assignment.

    Max-flow min-cut: the largest, over all subsets of ranks, of the bytes that only they hold over
    their number. Enough to look at unions of holder sets.
    """
    ranks = sorted(set().union(*by_holders))
    assert len(ranks) <= 8
    # by subset, as a number with a bit for each of its ranks: what just these hold, then also what
    # a part of them holds
    inside = np.zeros(1 << len(ranks), np.int64)
    for holders, nbytes in by_holders.items():
        inside[sum(1 << ranks.index(rank) for rank in holders)] += nbytes
    for bit in range(len(ranks)):
        without, having = inside.reshape(-1, 2, 1 << bit).swapaxes(0, 1)
        having += without
    sizes = [subset.bit_count() for subset in range(1, len(inside))]
    return float((inside[1:] / sizes).max(initial=0))


@given(cases(max_gpus=8))
def test_send_bound_against_the_best_of_all_assignments(case: Case) -> None:
    by_holders = remote_bytes_by_holders(case)
    best = ceil(best_busiest_sender(by_holders))
    # no higher than what can be reached, and no lower than the mean over all of the source
    assert case.plan.bounds.send <= best <= int(case.plan.send_bytes.max())
    assert case.plan.bounds.send >= sum(by_holders.values()) / case.placement.source.gpus
    event(f"bound is the best: {case.plan.bounds.send == best}")


@given(cases(max_gpus=8))
def test_send_bound_counts_all_that_only_one_set_of_ranks_holds(case: Case) -> None:
    # `Bounds.send`: the bytes that only a set of ranks holds, divided by their number
    by_holders = remote_bytes_by_holders(case)
    for ranks in by_holders:
        inside = sum(nbytes for holders, nbytes in by_holders.items() if holders <= ranks)
        assert case.plan.bounds.send >= inside / len(ranks), sorted(ranks)


def test_send_bound_of_ranks_that_alone_hold_experts_and_dense_shards() -> None:
    # Collocated TP2 EP2 on 2 ranks -> 1: rank 1 alone has half of the dense cuts and two experts.
    model = replace(SMALL, num_moe_experts=4, moe_ffn_hidden_size=4)
    plan = case(model, Degrees(tp=2, ep=2, etp=1, gpus=2), Degrees(), "collocated").plan
    experts = 2 * (8 * 8 + 8 * 4)
    dense = (2 * 16 * 8 + 24 * 8 + 8 * 8) // 2
    assert plan.send_bytes.tolist()[:2] == [0, 2 * (experts + dense)]
    assert plan.bounds.send == 2 * (experts + dense)


@given(cases(moe=False))
def test_dense_senders_meet_the_bound_within_one_block(case: Case) -> None:
    # Without node locality. Holder sets of a dense model are nested (a TP shard's in its stage's),
    # untied; filling inner sets first, a set's level is at most the mean over it of all that must
    # leave it, and a rank passes the level by less than a block.
    placement = replace(case.placement, ranks_per_node=case.placement.world)
    model = replace(case.model, share_embeddings_and_output_weights=False)
    alone = Case(model, placement, case.convention)
    block = max([n for n, r in zip(alone.plan.nbytes, alone.plan.remote, strict=True) if r] or [0])
    busiest = int(alone.plan.send_bytes.max())
    assert alone.plan.bounds.send <= busiest
    assert busiest <= alone.plan.bounds.send + block


@given(cases(moe=True))
def test_moe_senders_stay_within_the_levels_of_their_kinds(case: Case) -> None:
    # Expert sets and dense sets cross, so the greedy filling has no bound as sharp as above. Each
    # kind of set adds to a rank at most its own largest level, and a block.
    placement = replace(case.placement, ranks_per_node=case.placement.world)
    alone = Case(case.model, placement, case.convention)
    level: dict[tuple[bool, str, int], float] = defaultdict(float)
    blocks: dict[tuple[bool, str, int], int] = defaultdict(int)
    by_set: dict[tuple[tuple[bool, str, int], frozenset[int]], int] = defaultdict(int)
    for row in alone.rows:
        if row.destination in row.holders:
            continue
        spec = alone.specs[row.name]
        kind = (spec.expert >= 0, "ends" if spec.stage == "ends" else "", len(row.holders))
        nbytes = alone.nbytes(row.name, row.block.size)
        by_set[kind, frozenset(row.holders)] += nbytes
        blocks[kind] = max(blocks[kind], nbytes)
    for (kind, holders), nbytes in by_set.items():
        level[kind] = max(level[kind], nbytes / len(holders))
    assert int(alone.plan.send_bytes.max()) <= sum(level.values()) + sum(blocks.values())


@given(pool_cases())
def test_every_pool_gets_every_element_once(case: Case) -> None:
    check_elements(case)
    placement, plan = case.placement, case.plan
    held = {rank for rank, shards in enumerate(case.destination) if shards}
    assert {*plan.destination.tolist()} == held <= set(placement.receiving_ranks)
    # what each destination is sent is what a plan of its own would send it
    for number, layout in enumerate(placement.destinations):
        alone = replace(placement, destinations=(layout,), listed=False)
        rows = placement.destination_numbers[plan.destination] == number
        assert int(plan.nbytes[rows].sum()) == Case(
            case.model, alone, case.convention
        ).plan.total_bytes  # fmt: skip


@given(pool_cases())
def test_bounds_of_several_pools_element_by_element(case: Case) -> None:
    per_node = case.placement.ranks_per_node
    size: dict[int, int] = {}
    held: list[set[int]] = [set() for _ in case.source]
    wanted: list[set[int]] = [set() for _ in case.source]
    for found, shards in ((held, case.source), (wanted, case.destination)):
        for rank, of_rank in enumerate(shards):
            for name, shard in of_rank.items():
                elements: list[int] = shard.ravel().tolist()
                found[rank].update(elements)
                size |= dict.fromkeys(elements, case.nbytes(name, 1))
    nodes = [range(start, start + per_node) for start in range(0, len(held), per_node)]
    needed = [
        set().union(*(wanted[r] for r in node)) - set().union(*(held[r] for r in node))
        for node in nodes
    ]
    assert case.plan.node_needs.tolist() == [sum(size[e] for e in of_node) for of_node in needed]
    assert case.plan.leaving_bytes == sum(size[e] for e in set().union(*needed))
    moved = set().union(*(w - h for w, h in zip(wanted, held, strict=True)))
    ranks = case.placement.source.ranks
    assert case.plan.least_send * len(ranks) >= sum(size[e] for e in moved)
    assert case.plan.bounds.recv == max(
        sum(size[e] for e in w - h) for w, h in zip(wanted, held, strict=True)
    )


@given(cases())
def test_one_of_equal_jobs_is_the_other(case: Case) -> None:
    again = Case(replace(case.model), replace(case.placement), replace(case.convention)).plan
    for column in COLUMNS:
        first, second = getattr(case.plan, column), getattr(again, column)
        assert first.dtype == second.dtype == np.int64 and np.array_equal(first, second), column
    assert case.plan.bounds == again.bounds


@given(cases())
def test_rows_of_ranks_partition_the_plan_in_order(case: Case) -> None:
    plan = case.plan
    assert np.all(np.diff(plan.tensor) >= 0)
    for rows_of, column in ((plan.to_rank, plan.destination), (plan.from_rank, plan.source)):
        parts = [rows_of(rank) for rank in range(case.placement.world)]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(plan)))
        for rank, part in enumerate(parts):
            assert np.all(np.diff(part) > 0) and np.all(column[part] == rank)
    assert len(plan) == len(plan.tensor) == len(plan.holder_set)
    assert {*plan.source.tolist()} <= set(case.placement.source.ranks)
    # a stage may have no layers, and its ranks then nothing to receive
    held = {rank for rank, shards in enumerate(case.destination) if shards}
    assert {*plan.destination.tolist()} == held <= set(case.placement.destination.ranks)


# ---- worked by hand


def blocks(plan: Plan, name: str) -> list[tuple[int, int, int, int, int]]:
    """(source, destination, source start, destination start, length), ascending."""
    columns = (
        plan.source,
        plan.destination,
        plan.source_start,
        plan.destination_start,
        plan.length,
    )
    rows = [i for i, t in enumerate(plan.tensor) if plan.catalogue.name_of(int(t)) == name]
    return sorted(
        (c[0], c[1], c[2], c[3], c[4]) for c in ([int(x[i]) for x in columns] for i in rows)
    )


def test_gated_fc1_from_tp4_to_tp2() -> None:
    # gate rows 0-7 and up rows 8-15; source rank s has gate 2s,2s+1 and up 8+2s,8+2s+1;
    # destination rank 4 has gate 0-3 and up 8-11, destination rank 5 the rest
    plan = case(SMALL, Degrees(tp=4), Degrees(tp=2)).plan
    assert blocks(plan, "decoder.layers.0.mlp.linear_fc1.weight") == [
        (0, 4, 0, 0, 2),
        (0, 4, 2, 4, 2),
        (1, 4, 0, 2, 2),
        (1, 4, 2, 6, 2),
        (2, 5, 0, 0, 2),
        (2, 5, 2, 4, 2),
        (3, 5, 0, 2, 2),
        (3, 5, 2, 6, 2),
    ]


def test_columns_from_tp2_to_tp4() -> None:
    plan = case(SMALL, Degrees(tp=2), Degrees(tp=4)).plan
    assert blocks(plan, "decoder.layers.0.mlp.linear_fc2.weight") == [
        (0, 2, 0, 0, 2),
        (0, 3, 2, 0, 2),
        (1, 4, 0, 0, 2),
        (1, 5, 2, 0, 2),
    ]


def test_equal_layouts_collocated_move_nothing() -> None:
    same = Degrees(tp=2, pp=1, gpus=8)
    plan = case(SMALL, same, same, "collocated", per_node=2).plan
    assert np.array_equal(plan.source, plan.destination)
    assert (plan.bounds.move, plan.bounds.send, plan.bounds.recv) == (0, 0, 0)
    assert plan.bounds.cross_node == plan.cross_node_bytes == 0
    assert plan.local_bytes == plan.total_bytes > 0


def test_four_replicas_share_the_work_of_four_receivers() -> None:
    # tp1 x 4 replicas -> tp1 x 4: every rank of the source sends the model once, or nearly
    plan = case(SMALL, Degrees(gpus=4), Degrees(gpus=4)).plan
    model = plan.catalogue.nbytes
    largest = int(plan.nbytes.max())
    assert plan.bounds.send == model == plan.bounds.recv
    sent = plan.send_bytes[:4]
    assert sent.sum() == 4 * model and sent.max() - sent.min() <= 2 * largest


def test_node_locality_beats_load() -> None:
    # Collocated on 2 nodes of 2 ranks: tp2 twice -> tp1 on all four. Each destination has one half
    # itself, and takes the other from its neighbour although another holder is as idle.
    plan = case(SMALL, Degrees(tp=2, gpus=4), Degrees(gpus=4), "collocated", per_node=2).plan
    fc2 = blocks(plan, "decoder.layers.0.mlp.linear_fc2.weight")
    assert fc2 == sorted(
        (2 * (d // 2) + half, d, 0, 4 * half, 4) for d in range(4) for half in (0, 1)
    )
    assert plan.cross_node_bytes == plan.bounds.cross_node == 0


def test_what_several_stages_hold_comes_from_the_less_loaded_one() -> None:
    # Tied, source stages of 1 and 3 layers (ranks 0 and 1), four receivers of everything. A layer
    # is 24*8 + 8*8 + 16*8 + 8*8 + 2*8 = 464 elements and the embedding 928, two layers' worth, so
    # the stages are level when all embeddings come from rank 0: 4*1 + 4*2 = 4*3 layers.
    model = replace(SMALL, num_layers=4, vocab_size=116, share_embeddings_and_output_weights=True)
    source = Degrees(pp=2, num_layers_in_first_pipeline_stage=1)
    plan = case(model, source, Degrees(gpus=4)).plan
    assert [b[0] for b in blocks(plan, "embedding.word_embeddings.weight")] == [0] * 4
    final_norm = 4 * 8
    assert plan.send_bytes.tolist()[:2] == [2 * 4 * 3 * 464, 2 * (4 * 3 * 464 + final_norm)]


def test_bounds_worked_by_hand() -> None:
    # tp1, 2 replicas (ranks 0-1) -> tp1 (rank 2), one node each
    plan = case(SMALL, Degrees(gpus=2), Degrees(gpus=1), per_node=1).plan
    elements = 16 * 8 * 2  # embedding, output layer
    elements += 24 * 8 + 8 * 8 + 16 * 8 + 8 * 8 + 3 * 8  # qkv, proj, fc1, fc2, three norms
    assert plan.bounds.move == plan.bounds.recv == plan.bounds.cross_node == 2 * elements
    assert plan.bounds.send == elements
    assert plan.total_bytes == plan.cross_node_bytes == 2 * elements


def test_every_expert_goes_where_its_number_says_and_replicas_take_turns() -> None:
    model = replace(SMALL, num_moe_experts=8, moe_ffn_hidden_size=4)
    plan = case(model, Degrees(ep=2, etp=1, gpus=4), Degrees(ep=4)).plan
    for expert in range(8):
        name = f"decoder.layers.0.mlp.experts.linear_fc2.weight{expert}"
        ((source, destination, *_),) = blocks(plan, name)
        assert destination == 4 + expert // 2
        assert source in ({0, 2} if expert < 4 else {1, 3})
    expert_rows = np.array(["experts" in plan.catalogue.name_of(int(t)) for t in plan.tensor])
    sent = np.bincount(plan.source[expert_rows], plan.nbytes[expert_rows], 4)
    assert sent.tolist() == [2 * 2 * (8 * 8 + 8 * 4)] * 4  # two experts each


@pytest.mark.parametrize("per_node", [8, 1024])
def test_kimi_k2_on_128_and_128_ranks_in_numbers(per_node: int) -> None:
    kimi = composed("model=kimi_k2").model
    source = Degrees(tp=8, pp=8, ep=16, etp=1, gpus=128, num_layers_in_last_pipeline_stage=5)
    plan = case(kimi, source, Degrees(tp=8, ep=16, etp=1, gpus=128), per_node=per_node).plan
    # per destination rank: 24 of 384 experts, and a dense eighth besides what is whole everywhere
    experts = 60 * 24 * 44_040_192 * 2
    h = 7168
    whole = 61 * (1536 * h + 576 * h + 1536 + 512 + 2 * h) + h + 60 * 384 * h
    up_and_out = 61 * (64 * 192 * 1536 + 64 * 256 * 512 + 64 * 128 * h)
    cut = up_and_out + 3 * h * 18432 + 60 * 3 * h * 2048 + 2 * 163840 * h
    per_rank = experts + 2 * (whole + cut // 8) + 4 * 60 * 384
    assert plan.recv_bytes[128:256].tolist() == [per_rank] * 128
    assert plan.total_bytes == plan.bounds.move == 128 * per_rank
    assert plan.bounds.recv == per_rank
    assert plan.bounds.send <= int(plan.send_bytes.max())
    assert plan.bounds.cross_node <= plan.cross_node_bytes


@pytest.mark.parametrize("pools", [1, 2])
def test_what_a_node_needs_is_counted_as_it_crosses_not_as_it_is_passed_on(pools: int) -> None:
    # bfloat16 crosses and is cast on arrival; two ranks of each pool want all, on one node
    sides = [Degrees(etp=1, gpus=2, offset=4 + 2 * n, dtype="float32") for n in range(pools)]
    placement = placed(Degrees(etp=1), destinations=sides, ranks_per_node=4)
    tensors = catalogue(TINY, 1, PRODUCTION)
    direct, relayed = (build_plan(tensors, placement, way) for way in ("direct", "hierarchical"))
    assert relayed.relayed.any()
    assert relayed.bounds.cross_node == direct.bounds.cross_node == tensors.nbytes
    assert relayed.least_send == direct.least_send == tensors.nbytes
    assert relayed.cross_node_bytes == pools * tensors.nbytes
