"""A record's plan of what the ranks moved, worked out by hand."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

from refit.plan.plan import Bounds
from refit.record.moved import Moved, executed, unknown
from refit.record.parts import PlanNumbers

BOUNDS = Bounds(move=1, send=1, recv=1, cross_node=1)
OURS = PlanNumbers(7, 100, 7, 7, 7, 7, 7, 7, 7, BOUNDS)


def test_nothing_is_said_of_what_is_not_known() -> None:
    found = unknown(OURS)
    assert (found.bytes, found.lower_bounds) == (100, BOUNDS)
    of_any_plan = ("bytes", "lower_bounds")
    others = [f.name for f in fields(PlanNumbers) if f.name not in of_any_plan]
    assert {getattr(found, name) for name in others} == {None}


def test_what_the_ranks_moved() -> None:
    # nodes {0, 1} and {2, 3}; rank 0 keeps 5, and sends 10 twice to 1, 20 to 2, 1 to 3
    ranks = [Moved() for _ in range(4)]
    for source, destination, nbytes in (
        (0, 0, 5), (0, 1, 10), (0, 1, 10), (0, 2, 20), (0, 3, 1), (1, 3, 40), (2, 3, 3),
    ):  # fmt: skip
        ranks[source].add(True, destination, nbytes)
        ranks[destination].add(False, source, nbytes)
    assert [one.copies for one in ranks] == [1, 2, 1, 3]  # what it receives
    assert asdict(executed(OURS, ranks, ranks_per_node=2)) == {
        "copies": 7,
        "bytes": 89,
        "local_bytes": 5,
        "cross_node_bytes": 61,
        "max_send_bytes": 41,
        "max_forward_bytes": 0,
        "max_recv_bytes": 44,
        "max_peer_bytes": 20,
        "max_cross_node_bytes": 41,  # rank 3 receives it
        "lower_bounds": asdict(BOUNDS),
        "left_out_tensors": None,  # not counted
        "left_out_bytes": 100 - 89,
    }
    for ours in (89, 80):  # nothing is left out of no more than that
        whole = executed(replace(OURS, bytes=ours), ranks, ranks_per_node=2)
        assert (whole.bytes, whole.left_out_tensors, whole.left_out_bytes) == (89, 0, 0)
