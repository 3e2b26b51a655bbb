"""Plans with a second stage, carried out on the oracle's elements; who fetches for its node."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import event, given

from refit.job import Degrees
from refit.model.architecture import catalogue
from refit.plan.build import build_plan
from refit.plan.copies import Copies
from refit.plan.fanout import fetchers
from refit.plan.plan import Plan
from tests.support import oracle
from tests.support.jobs import SMALL
from tests.support.oracle import Array
from tests.support.plans import POISON, Case, case, cases, window


def staged(case: Case) -> Plan:
    tensors = catalogue(case.model, case.placement.source.tp, case.convention)
    return build_plan(tensors, case.placement, "hierarchical")


def carry_out(case: Case, copies: Copies, held: list[dict[str, Array]], to: list[dict[str, Array]],
              times: list[dict[str, Array]]) -> None:  # fmt: skip
    """Copy every row of one hop from the ranks' shards into others'."""
    taken = []
    for i in range(len(copies)):
        name = copies.catalogue.name_of(int(copies.tensor[i]))
        axis = 1 if case.specs[name].cut == "columns" else 0
        length, rank = int(copies.length[i]), int(copies.destination[i])
        block = window(held[int(copies.source[i])][name], axis, int(copies.source_start[i]), length)
        taken.append((name, axis, rank, int(copies.destination_start[i]), length, block.copy()))
    for name, axis, rank, start, length, block in taken:
        window(to[rank][name], axis, start, length)[...] = block
        window(times[rank][name], axis, start, length)[...] += 1


@given(cases())
def test_every_element_arrives_once_in_two_hops(case: Case) -> None:
    plan = staged(case)
    written = [{n: np.full(a.shape, POISON) for n, a in d.items()} for d in case.destination]
    times = [{n: np.zeros(a.shape, np.int64) for n, a in d.items()} for d in case.destination]
    first, *second = plan.hops
    carry_out(case, first, case.source, written, times)
    for hop in second:
        carry_out(case, hop, written, written, times)
    for rank in range(case.placement.world):
        for name, expected in case.destination[rank].items():
            assert np.all(times[rank][name] == 1), (rank, name)
            assert np.array_equal(written[rank][name], expected), (rank, name)
    event(f"{len(plan.hops)} hops")


@given(cases())
def test_each_block_crosses_once_to_each_node(case: Case) -> None:
    plan = staged(case)
    # `bounds.cross_node` is counted element by element in test_plan
    assert plan.bounds.cross_node == case.plan.bounds.cross_node == plan.cross_node_bytes
    assert plan.total_bytes == case.plan.total_bytes
    assert plan.recv_bytes.tolist() == case.plan.recv_bytes.tolist()
    assert plan.bounds.send <= plan.send_bytes.max(initial=0)
    for i in np.flatnonzero(plan.relayed).tolist():
        assert case.node(int(plan.source[i])) == case.node(int(plan.destination[i]))
    if case.placement.nodes == 1:
        assert len(plan.hops) == 1


def test_four_replicas_share_what_they_fetch() -> None:
    # One source rank on a node of its own, four replicas on the next: each fetches a quarter of the
    # model, and sends it to the three others.
    model = replace(SMALL, num_layers=8)
    found = case(model, Degrees(gpus=4), Degrees(gpus=4), per_node=4)
    plan, whole = staged(found), found.plan.total_bytes // 4
    assert plan.cross_node_bytes == whole == found.plan.cross_node_bytes // 4
    fetched = plan.hops[0].recv_bytes[4:]
    largest = max(oracle_sizes(found))
    assert fetched.sum() == whole and np.all(np.abs(fetched - whole / 4) <= largest)
    assert plan.hops[1].send_bytes[4:].tolist() == (3 * fetched).tolist()


def oracle_sizes(case: Case) -> list[int]:
    """Bytes of each tensor of the model."""
    whole = oracle.wholes(case.specs)
    return [case.nbytes(name, array.size) for name, array in whole.items()]


def test_fetchers_by_hand() -> None:
    # Node 0: ranks 0 and 1 want blocks 5, 6 and 7; rank 2 alone wants block 8.
    block = np.array([5, 5, 6, 6, 7, 7, 8])
    rank = np.array([0, 1, 0, 1, 0, 1, 2])
    nbytes = np.array([10, 10, 10, 10, 20, 20, 99])
    found = fetchers(block, np.zeros(7, np.int64), rank, nbytes)
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 2]  # 20 bytes each; nobody else wants block 8
    assert fetchers(block[:0], block[:0], block[:0], block[:0]).tolist() == []
