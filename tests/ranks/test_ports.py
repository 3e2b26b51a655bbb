"""Where the ranks of one machine listen: nobody outside it can connect to them."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from refit.job import Degrees
from refit.ranks.agent import Agent
from tests.support.jobs import job
from tests.support.records import verified


@pytest.mark.parametrize("method", ["gloo", "nixl"])
def test_ranks_of_one_node_listen_on_its_loopback_alone(
    agent: Agent, tmp_path: Path, method: str
) -> None:
    what = job(Degrees(tp=2, etp=1), Degrees(), method=f"tests.support.ports:{method}")
    found = verified(agent, tmp_path, what)["transport"]["listening"].split()
    assert found  # the store of rank 0 at least
    assert [address for address in found if not ip_address(address).is_loopback] == []
