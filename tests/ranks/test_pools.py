"""Several destinations on real ranks: each bit-exact, by every method; and faults of one alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from refit.job import Degrees, Job
from refit.layout.place import place
from refit.model.convention import has_transformer_engine
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.rules.impossible import impossible
from refit.rules.setup import Setup
from tests.support.jobs import TINY, fitting, job
from tests.support.records import ran, verified
from tests.support.sample import thorough

METHODS = ("ipc", "gloo", "symmetric", "nixl")
LOGITS = "bits" if has_transformer_engine() else "logits"


def pools(
    source: Degrees,
    destinations: list[Degrees],
    method: str = "ipc",
    mode: str = "non-collocated",
    **rest: Any,
) -> Job:
    # messages of few blocks, so that blocks are divided
    refit = {"bucket_mb": 0.01, "fanout": rest.pop("fanout", "direct")}
    bench = {"iterations": 1, "deadline_s": 120.0}
    said = {"ranks_per_node": 8, **rest}
    what = job(source, Degrees(), mode, method, bench=bench, refit=refit, **said)
    what = replace(what, parallel=replace(what.parallel, destinations=destinations))
    if "ranks_per_node" not in rest:
        return fitting(what)
    return replace(what, cluster=replace(what.cluster, nodes=-(-8 // said["ranks_per_node"])))


CASES: dict[str, tuple[Degrees, list[Degrees], dict[str, Any]]] = {
    "experts": (Degrees(tp=2, etp=1), [Degrees(tp=2, etp=1), Degrees(ep=4, etp=1)], {}),
    "pp on one": (
        Degrees(ep=2, etp=1), [Degrees(pp=2, tp=2, etp=2), Degrees(tp=2, ep=2, gpus=2)], {},
    ),
    "collocated": (
        Degrees(tp=2, ep=2, etp=1, gpus=4), [Degrees(ep=2, etp=1), Degrees(tp=2, etp=1)],
        {"mode": "collocated"},
    ),
    "collocated, and beyond the source": (
        Degrees(pp=2, etp=1, gpus=4),
        [Degrees(tp=2, etp=1), Degrees(ep=4, etp=1), Degrees(pp=2, etp=1)],
        {"mode": "collocated"},
    ),
    "fsdp": (
        Degrees(kind="fsdp", gpus=3),
        [Degrees(tp=2, etp=1), Degrees(kind="fsdp", gpus=2)],
        {"model": replace(TINY, make_vocab_size_divisible_by=1)},
    ),
    "one unties, one has slots": (
        Degrees(tp=2, pp=2, etp=1),
        [
            Degrees(tp=2, etp=1, share_embeddings_and_output_weights=False),
            Degrees(ep=2, etp=1, expert_slots=3),
        ],
        {"model": replace(TINY, share_embeddings_and_output_weights=True)},
    ),
    "each its dtype and vocabulary": (
        Degrees(tp=2, etp=1, dtype="float32"),
        [
            Degrees(etp=1, ep=2, make_vocab_size_divisible_by=1),
            Degrees(tp=2, etp=1, dtype="float32"),
            Degrees(etp=1, dtype="float16"),
        ],
        {},
    ),
}  # fmt: skip


def of(name: str, method: str, **rest: Any) -> Job:
    source, destinations, said = CASES[name]
    return pools(source, destinations, method, **{**said, **rest})


# each case by one method in turn, and the one of all kinds by every method
EACH = [(name, METHODS[n % len(METHODS)]) for n, name in enumerate(CASES)]
MIXED = "each its dtype and vocabulary"


@pytest.mark.parametrize(
    ("name", "method"), list(dict.fromkeys([*EACH, *((MIXED, method) for method in METHODS)]))
)
def test_every_pool_is_bit_exact(agent: Agent, tmp_path: Path, name: str, method: str) -> None:
    what = of(name, method)
    assert impossible(what) is None
    record = verified(agent, tmp_path, what)
    plan = Setup.of(what).plan()
    assert record["plan"]["bytes"] == plan.total_bytes
    placed, layouts = place(what).destinations, record["layout"]["destinations"]
    assert record["layout"]["destination"] is None
    assert [side["ranks"] for side in layouts] == [list(side.ranks) for side in placed]
    assert [side["dtype"] for side in layouts] == [side.dtype for side in placed]
    held = {*place(what).source.ranks, *place(what).receiving_ranks}
    assert set(record["seconds"]["per_rank"]) == {str(rank) for rank in held}


@pytest.mark.parametrize("method", ["gloo", "nixl"])
def test_blocks_are_passed_on_within_their_pool(agent: Agent, tmp_path: Path, method: str) -> None:
    # nodes {0 1} {2 3 ..}: two ranks of each pool are on a node that holds nothing
    what = pools(
        Degrees(tp=2, etp=1), [Degrees(gpus=2, etp=1), Degrees(tp=2, ep=2, etp=1, gpus=2)],
        method, fanout="hierarchical", ranks_per_node=4, model=TINY,
    )  # fmt: skip
    sides = [replace(side, offset=4 + 2 * n) for n, side in enumerate(what.parallel.destinations)]
    what = replace(what, parallel=replace(what.parallel, destinations=sides))
    assert Setup.of(what).plan().relayed.any()
    assert verified(agent, tmp_path, what)["transport"]["hops"] == 2


@pytest.mark.parametrize("mode", [thorough("collocated"), "non-collocated"])
def test_real_models_whose_logits_are_the_sources(agent: Agent, tmp_path: Path, mode: str) -> None:
    what = pools(
        Degrees(tp=2, etp=1),
        [Degrees(pp=2, etp=1), Degrees(ep=2, etp=1), Degrees(tp=2, etp=1)],
        mode=mode, build="megatron", verify=LOGITS, method="gloo",
    )  # fmt: skip
    assert impossible(what) is None
    record = verified(agent, tmp_path, what)
    if LOGITS == "logits":
        assert record["verification"]["logits"]["ok"]


# ---- faults of the second pool alone


@pytest.fixture(scope="module")
def elements(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], int]:
    """How many elements are looked at in a case where nothing is wrong, whoever carries it out."""

    @cache
    def of_case(name: str) -> int:
        record = verified(agent, tmp_path_factory.mktemp("sound"), of(name, "ipc"))
        return int(record["verification"]["elements"])

    return of_case


@pytest.mark.parametrize(
    ("name", "fault", "method"),
    [
        *(("pp on one", "DropsBlockOfSecondPool", method) for method in METHODS if method != "ipc"),
        thorough(("pp on one", "DropsBlockOfSecondPool", "ipc")),
        ("pp on one", "LeavesSecondPool", "gloo"),
        thorough(("collocated", "DropsBlockOfSecondPool", "symmetric")),
        ("collocated", "LeavesSecondPool", "ipc"),
    ],
)
def test_a_fault_of_the_second_pool_is_seen(
    agent: Agent,
    tmp_path: Path,
    elements: Callable[[str], int],
    name: str,
    fault: str,
    method: str,
) -> None:
    what = of(name, f"tests.support.faults:{method}_{fault}")
    record = ran(agent, tmp_path, what)
    checked = record["verification"]
    assert record["status"] == "invalid" and record["seconds"] is None
    assert checked["elements"] == elements(name)
    whole = checked["per_destination"]
    assert [pool["mismatches"] > 0 for pool in whole] == [False, True]
    if fault == "LeavesSecondPool":  # the complement of the first weights, and by chance of others
        assert whole[1]["mismatches"] > 0.99 * whole[1]["elements"]


def test_elements_are_those_of_all_pools(agent: Agent, tmp_path: Path) -> None:
    both = verified(agent, tmp_path, of("experts", "ipc"))["verification"]
    source, destinations, _ = CASES["experts"]
    alone = [
        verified(agent, tmp_path, pools(source, [side]))["verification"]["elements"]
        for side in destinations
    ]
    assert both["elements"] == sum(alone)
    assert [pool["elements"] for pool in both["per_destination"]] == alone


def test_logits_of_a_wrong_second_pool_differ(agent: Agent, tmp_path: Path) -> None:
    if LOGITS == "bits":
        pytest.skip("Transformer Engine's layers do not compute in float64")
    what = pools(
        Degrees(etp=1), [Degrees(tp=2, etp=1), Degrees(etp=1)],
        "tests.support.faults:gloo_LeavesSecondPool", build="megatron", verify="logits",
    )  # fmt: skip
    record = ran(agent, tmp_path, what)
    assert record["status"] == "invalid" and not record["verification"]["logits"]["ok"]


def test_the_peer_refuses_several_before_ranks_start(agent: Agent, tmp_path: Path) -> None:
    what = pools(*CASES["experts"][:2], method="megatron", build="megatron")
    record = ran(agent, tmp_path, what)
    assert (
        record["status"] == "unsupported" and "parallel.destinations is a list" in record["reason"]
    )


def test_a_frozen_point_is_the_same_again(tmp_path: Path) -> None:
    point = Point.of(of("experts", "ipc"), tmp_path)
    point.freeze()
    assert Point.load(point.directory).job == point.job
    assert json.loads(point.frozen.read_text())["config"]["parallel"]["destinations"][1]["ep"] == 4
