"""Rows of a small plan, TP 2 on ranks 0 and 1 to rank 2: whose they are, and how they travel."""

from __future__ import annotations

from dataclasses import replace

from refit.job import Degrees
from refit.layout.tensors import Catalogue, Family
from refit.plan.build import build_plan
from refit.plan.cells import _edges
from refit.plan.copies import Copies
from refit.plan.plan import Plan
from refit.plan.runs import NO_CAST, dtypes, received, together
from refit.rules.setup import Setup
from tests.support.jobs import SMALL, TINY, job, placed

COLUMNS = ("linear_proj", "linear_fc2")  # cut along columns, the others along rows or not at all


def plan_of(destination: Degrees | None = None) -> tuple[Plan, Copies]:
    plan = Setup.of(job(destination=destination, model=SMALL)).plan()
    return plan, plan.hops[0]


def test_whose_rows_they_are() -> None:
    plan, copies = plan_of()
    rows = [copies.from_rank(rank).tolist() for rank in range(4)]
    assert rows[2:] == [[], []] and sorted(rows[0] + rows[1]) == list(range(17))
    assert [int(copies.nbytes[of].sum()) for of in rows[:2]] == copies.send_bytes[:2].tolist()
    assert [len(copies.to_rank(rank)) for rank in range(4)] == [0, 0, 17, 0]
    assert plan.busiest_bytes(plan.remote) == 1456
    assert plan.busiest_bytes(plan.source == 0) == plan.send_bytes[0]
    assert plan.busiest_bytes(~plan.remote) == 0


def test_which_shards_a_rank_has_of_either_side() -> None:
    _, copies = plan_of()
    counts = [[len(copies.shards(rank, given)) for given in (True, False)] for rank in range(4)]
    assert counts == [[9, 0], [9, 0], [0, 9], [0, 0]]


def test_of_several_destinations_each_has_its_own_shards_and_dtype() -> None:
    pools = [Degrees(etp=1), Degrees(etp=1, dtype="float32")]
    copies = Setup.of(job(destinations=pools, model=SMALL)).plan().hops[0]
    assert [len(copies.shards(rank, of_source=False)) for rank in range(4)] == [0, 0, 9, 9]
    assert (received(copies, 2).cast == NO_CAST).all()
    assert {dtypes(cast) for cast in received(copies, 3).cast.tolist()} == {("bfloat16", "float32")}
    assert not copies.cast_by_sender(3)


def test_what_is_passed_on_has_been_cast() -> None:
    # ranks 2 and 3 are alone on a node: each fetches a part, and passes it on in four bytes
    sides = (Degrees(etp=1, gpus=2), Degrees(etp=1, gpus=2, dtype="float32"))
    what = job(*sides, model=SMALL, ranks_per_node=2, refit={"fanout": "hierarchical"})
    plan = Setup.of(replace(what, cluster=replace(what.cluster, nodes=2))).plan()
    first, second = plan.hops
    assert (first.total_bytes, second.total_bytes) == (1456, 2 * 1456)
    assert plan.wire_bytes.sum() == 2 * 1456 and plan.elements_to.tolist() == [0, 0, 728, 728]
    tables = [together([received(hop, rank) for rank in (2, 3)]) for hop in plan.hops]
    assert [set((table.cast != NO_CAST).tolist()) for table in tables] == [{True}, {False}]


def test_what_is_cast_among_what_is_not() -> None:
    # 8 elements that stay in four bytes, and 8 that are two bytes at the source
    families = (
        Family("a", (4, 2), "float32", stage="first"),
        Family("b", (4, 2), stage="first", base=1),
    )
    placement = placed(
        Degrees(gpus=2), Degrees(gpus=2, dtype="float32"), model=SMALL, ranks_per_node=2
    )
    plan = build_plan(Catalogue(families, 0), placement, "hierarchical")
    assert plan.elements_to.tolist() == [0, 0, 16, 16]
    assert [hop.total_bytes for hop in plan.hops] == [8 * 4 + 8 * 2, 2 * 8 * 4]
    assert sorted(plan.hops[1].nbytes.tolist()) == [32, 32]


def test_a_tied_destination_gets_no_output_layer_beside_one_that_unties() -> None:
    # of 512 rows of 64 columns in two bytes
    tied = replace(TINY, share_embeddings_and_output_weights=True)
    pools = [Degrees(etp=1, share_embeddings_and_output_weights=False), Degrees(etp=1)]
    what = job(Degrees(etp=1), destinations=pools, model=tied)
    received = Setup.of(what).plan().recv_bytes.tolist()
    assert received[1] - received[2] == 512 * 64 * 2


def test_a_single_index_has_no_stride() -> None:
    assert _edges([(0, 1, 4), (2, 3, 1)]).tolist() == [0, 2, 3, 4]
    assert _edges([(0, 1, 4), (2, 3, 2)]).tolist() == [0, 1, 2, 3, 4, 5, 6]
