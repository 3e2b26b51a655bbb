"""Fits worked out by hand: rows of one small refit whose seconds are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refit.errors import UserError
from refit.forecast import cost
from refit.forecast.fit import HeldOut, Row, _not_negative, base, fit, leave_one_out, row_of
from refit.job import Cluster, Hardware
from refit.record.point import Point
from tests.support.jobs import SMALL, job
from tests.support.reports import write_measured

# 1456 bytes to rank 2 at 1456 bytes a second: one second at the links' rate
LINKS = Hardware(peer_gbps=1456e-9, memory_gbps=1.0)


def row(tmp_path: Path, seconds: float, method: str = "ipc", seed: int = 0,
        hardware: Hardware = LINKS, nodes: int = 1) -> Row:  # fmt: skip
    """A row of TP 2 -> TP 1 that took so long."""
    what = job(model=SMALL, method=method, seed=seed, ranks_per_node=4 // nodes)
    what = replace(what, cluster=replace(what.cluster, hardware=hardware, nodes=nodes))
    point = Point.of(what, tmp_path)
    return row_of(write_measured(point, seconds), point.timing)


def test_a_row_is_what_its_record_says(tmp_path: Path) -> None:
    found = row(tmp_path, 0.5)
    assert (found.method, found.seconds) == ("ipc", 0.5)
    # the memory copy beside it took half as long, and was the best that was seen
    assert found.rate_gbps == pytest.approx(1456 / 0.25 / 1e9)
    assert found.plan.total_bytes == 1456 and len(found.hops) == 1
    # only chance is between rows of a group
    assert found.group == row(tmp_path, 0.7, seed=1).group
    assert found.group != row(tmp_path, 0.7, method="gloo").group


def test_the_best_rate_is_that_of_any_copy_not_of_the_limit_that_binds(tmp_path: Path) -> None:
    point = Point.of(job(model=SMALL), tmp_path)
    record = write_measured(point)
    assert record.throughput is not None
    (memory,) = record.throughput.limits
    faster = replace(memory, gbps=3 * memory.gbps, kind="peers")
    both = replace(record.throughput, limits=[memory, faster])
    assert row_of(replace(record, throughput=both), point.timing).rate_gbps == faster.gbps
    # an older record lists neither
    older = replace(record.throughput, limits=[])
    assert row_of(replace(record, throughput=older), point.timing).rate_gbps == memory.gbps


@pytest.mark.parametrize("lost", ["model_build", "seconds", "throughput", "plan", "method"])
def test_a_row_is_of_a_whole_record(lost: str, tmp_path: Path) -> None:
    point = Point.of(job(model=SMALL), tmp_path)
    record = replace(write_measured(point), **{lost: None})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not say all that a measurement does"):
        row_of(record, point.timing)


def test_errors_are_relative_to_what_was_measured(tmp_path: Path) -> None:
    assert HeldOut(row(tmp_path, 2.0), 3.0, 1.5).errors == (0.5, -0.25)


def test_what_a_cluster_states_is_what_it_is(tmp_path: Path) -> None:
    fitted = replace(LINKS, fitted={"ipc": {"wire": 2.0}})
    assert base([row(tmp_path, 1.0, hardware=fitted)]) == LINKS
    with pytest.raises(UserError, match=r"needs cluster\.hardware\.nic_gbps, which its cluster do"):
        base([row(tmp_path, 1.0, nodes=2)])


def test_clusters_that_differ_are_named(tmp_path: Path) -> None:
    rows = [row(tmp_path, 1.0), row(tmp_path, 1.0, hardware=replace(LINKS, nic_gbps=1.0))]
    other = replace(rows[1].job, cluster=Cluster("a", hardware=rows[1].job.cluster.hardware))
    with pytest.raises(UserError, match=r"clusters with different hardware \(a, local\)"):
        base([rows[0], replace(rows[1], job=other)])
    # one by one they are fine
    assert base(rows[:1]).nic_gbps is None and base(rows[1:]).nic_gbps == 1.0


def test_ranks_of_a_cpu_share_the_best_rate_that_was_seen(tmp_path: Path) -> None:
    rows = [row(tmp_path, s, seed=int(s), hardware=Hardware()) for s in (4.0, 1.0, 2.0)]
    best = 1456 / 0.5 / 1e9  # of the copy beside the second
    found = base(rows)
    assert found.device == "cpu"
    assert (found.node_gbps, found.peer_gbps) == pytest.approx((best, best))
    assert found.memory_gbps == pytest.approx(2 * best)


def test_a_single_row_is_fitted_by_its_wire_alone(tmp_path: Path) -> None:
    # three times what the links need, of which one second is the busiest rank's
    found = fit([row(tmp_path, 3.0)], LINKS)
    assert set(found) == {"ipc"}
    assert found["ipc"].wire == pytest.approx(3.0)
    assert (found["ipc"].latency_us, found["ipc"].fixed_us) == pytest.approx((0.0, 0.0))


def test_no_term_goes_below_its_minimum(tmp_path: Path) -> None:
    assert fit([row(tmp_path, 0.25)], LINKS) == {"ipc": cost.Fit(1.0, 0.0, 0.0, 0.0)}


def test_each_method_is_fitted_by_its_own_rows(tmp_path: Path) -> None:
    found = fit([row(tmp_path, 3.0), row(tmp_path, 8.0, "symmetric")], LINKS)
    assert found["ipc"].wire == pytest.approx(3.0)
    symmetric = found["symmetric"]
    features = row(tmp_path, 8.0, "symmetric").features(LINKS)
    assert cost.estimate(features, symmetric).seconds == pytest.approx(8.0)


def test_a_row_without_peers_is_left_out(tmp_path: Path) -> None:
    mine, other = row(tmp_path, 3.0), row(tmp_path, 5.0, "gloo")
    assert leave_one_out([mine, other]) == []
    # a repetition is no peer: it is left out with it
    assert leave_one_out([mine, row(tmp_path, 3.0, seed=1), other]) == []


def test_a_row_is_predicted_from_its_peers(tmp_path: Path) -> None:
    mine = row(tmp_path, 3.0)
    peer = replace(mine, seconds=6.0, group="another")
    before_and_after = [(one.before, one.after) for one in leave_one_out([mine, peer])]
    assert before_and_after == [pytest.approx((1.0, 6.0)), pytest.approx((1.0, 3.0))]


def test_before_a_fit_an_operation_takes_the_links_latency(tmp_path: Path) -> None:
    slow = replace(LINKS, latency_us=1e6)  # a second
    mine = row(tmp_path, 30.0, hardware=slow)
    operations = mine.features(slow).operations
    before = leave_one_out([mine, replace(mine, group="another")])[0].before
    assert operations > 0 and before == pytest.approx(1.0 + operations)


@pytest.mark.parametrize(
    ("a", "b", "x"),
    [
        ([[2.0, 0.0], [0.0, 4.0]], [6.0, 8.0], [3.0, 2.0]),
        ([[2.0, 0.0], [0.0, 4.0]], [6.0, -8.0], [3.0, 0.0]),
        ([[1.0, 0.0], [0.0, 1.0]], [-1.0, -1.0], [0.0, 0.0]),
        # the second column is 0: it can explain nothing
        ([[2.0, 0.0], [2.0, 0.0]], [2.0, 6.0], [2.0, 0.0]),
        # without bounds it were 2 and -1
        ([[1.0, 1.0], [1.0, 2.0]], [1.0, 0.0], [0.5, 0.0]),
        # either column explains all: the first, and no larger set by rounding
        ([[1.0, 2.0], [3.0, 6.0]], [0.5, 1.5], [0.5, 0.0]),
    ],
)
def test_least_squares_without_negative_terms(
    a: list[list[float]], b: list[float], x: list[float]
) -> None:
    assert _not_negative(np.array(a), np.array(b)) == pytest.approx(x)
