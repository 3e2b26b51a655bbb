"""Both measured limits of a run: what they copy, when, and which one a refit is held against."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from refit.job import Cluster, Degrees
from refit.plan.peers import Pair
from refit.ranks.agent import Agent
from tests.support.copying import copied
from tests.support.jobs import job
from tests.support.records import verified

TP2, EP2 = Degrees(tp=2, etp=1), Degrees(ep=2, etp=1)


@pytest.mark.parametrize("mode", ["collocated", "non-collocated"])
@pytest.mark.parametrize("method", ["ipc", "gloo"])
def test_a_record_has_both_and_the_lower_binds(
    agent: Agent, tmp_path: Path, mode: str, method: str
) -> None:
    record = verified(agent, tmp_path, job(TP2, EP2, mode, method))
    rate = record["throughput"]
    assert [limit["kind"] for limit in rate["limits"]] == ["memory", "peers"]
    assert rate["missing"] is None
    lower = min(rate["limits"], key=lambda limit: limit["gbps"])
    assert (rate["limit"], rate["limit_gbps"]) == (lower["what"], lower["gbps"])
    assert rate["fraction"] == pytest.approx(rate["gbps"] / lower["gbps"])
    assert "by shared memory" in rate["limits"][1]["what"]


def test_of_a_plan_that_crosses_nodes_it_is_said_why_there_is_one(
    agent: Agent, tmp_path: Path
) -> None:
    what = job(TP2, EP2, method="gloo")
    what = replace(what, cluster=Cluster(name="pretended", nodes=2, ranks_per_node=2))
    rate = verified(agent, tmp_path, what)["throughput"]
    assert [limit["kind"] for limit in rate["limits"]] == ["memory"]
    assert "blocks go between nodes" in rate["missing"]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_each_rank_gets_its_bytes_from_each_of_its_peers(agent: Agent, share: float) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # rank 1 is both, rank 3 is idle
    sizes = [(64, 0), (32, 96), (0, 80), (0, 0)]
    between = [Pair(0, 1, 64), Pair(1, 1, 32), Pair(0, 2, 48), Pair(1, 2, 24)]
    found = copied(sizes, between, port, at_most=168 * share)
    assert [of_rank for _, of_rank in found] == [share] * 4
    holds = [list(held) for held, _ in found]
    # what nobody sends stays
    expected = {
        1.0: ([1] * 64 + [2] * 32, [1] * 48 + [2] * 24 + [103] * 8),
        0.5: ([1] * 32 + [2] * 16 + [102] * 48, [1] * 24 + [2] * 12 + [103] * 44),
    }
    assert holds == [[], *expected[share], []]
