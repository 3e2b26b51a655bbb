"""`nvshmem` without a GPU: real ranks, nvshmem4py's real Python layer, and below it a fake library.

Bit-exact, and with one fault planted never ok.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

from refit.job import Cluster, Degrees, Job
from refit.ranks.agent import Agent
from tests.support.jobs import job
from tests.support.records import ran, verified

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nvshmem") is None,
    reason="nvshmem4py is not installed: pip install -e '.[nvshmem]', which needs no GPU",
)

REFIT = {"bucket_mb": 0.01, "in_flight": 2}
BENCH = {"iterations": 3, "deadline_s": 300.0}
SWAP = (Degrees(tp=2, etp=1), Degrees(tp=1, ep=2, etp=1, gpus=2))


def of(name: str, pair: tuple[Degrees, Degrees] = SWAP, mode: str = "collocated") -> Job:
    method = f"tests.support.nvshmem_ranks:{name}"
    return job(*pair, mode, method, refit=REFIT, bench=BENCH)


@pytest.mark.parametrize(
    ("pair", "mode"),
    [
        (SWAP, "collocated"),
        ((Degrees(tp=2, etp=1), Degrees(tp=2, ep=2, etp=1, gpus=2)), "non-collocated"),
        ((Degrees(tp=2, etp=1), Degrees(tp=1, etp=1)), "non-collocated"),
    ],
    ids=["collocated", "non-collocated", "an idle rank"],
)
def test_bit_exact(agent: Agent, tmp_path: Path, pair: tuple[Degrees, Degrees], mode: str) -> None:
    record = verified(agent, tmp_path, of("Faked", pair, mode))
    assert record["transport"]["heap"].startswith("NVSHMEM ")
    assert record["transport"]["messages"] > 2 * REFIT["in_flight"]


def test_two_heaps_of_two_hops(agent: Agent, tmp_path: Path) -> None:
    two_replicas = Degrees(tp=2, etp=1), Degrees(tp=1, etp=1, gpus=2)
    what = of("Faked", two_replicas, "non-collocated")
    two_nodes = Cluster(name="pretended", nodes=2, ranks_per_node=2)
    what = replace(what, refit=replace(what.refit, fanout="hierarchical"), cluster=two_nodes)
    assert verified(agent, tmp_path, what)["transport"]["hops"] == 2


WRONG, NEVER = "are wrong, first in", "a signal of .* that never comes"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("DoesNotWaitForArrivals", WRONG),
        ("DoesNotWaitForGrants", f"{WRONG}|{NEVER}"),
        ("WaitsForTheValueBefore", WRONG),
        ("DropsOneSignal", NEVER),
        ("TellsAnotherCounter", NEVER),
        ("PutsIntoAnotherSlot", WRONG),
        ("SignalsBeforeItPuts", WRONG),
        ("GrantsOnAnotherStream", f"{WRONG}|{NEVER}"),
        ("ForgetsRefits", WRONG),
        ("DropsEvents", WRONG),
        ("ReturnsEarly", WRONG),
        ("Adds", "another operation launches a kernel"),
    ],
)
def test_a_fault_is_never_ok(agent: Agent, tmp_path: Path, fault: str, words: str) -> None:
    record = ran(agent, tmp_path, of(fault))
    assert record["status"] != "ok"
    assert re.search(words, record["reason"])
