"""Degrees to rank grids: against hand-worked facts, brute force and megatron-core's generators."""

from __future__ import annotations

import itertools
import re
from math import lcm
from typing import Any

import numpy as np
import pytest

from refit.errors import UserError
from refit.job import Degrees
from refit.layout.layout import Layout
from refit.layout.place import resolve as resolve_degrees
from refit.layout.ranks import span
from refit.model_config import Model
from tests.support.jobs import placed
from tests.support.table import ROWS, mode

DENSE = Model(name="dense", num_layers=4, hidden_size=8, num_attention_heads=4, vocab_size=64)
MOE = Model(
    name="moe",
    num_layers=4,
    hidden_size=8,
    num_attention_heads=4,
    vocab_size=64,
    num_moe_experts=16,
)


def groups(ranks: Any, axes: tuple[int, ...]) -> set[tuple[int, ...]]:
    """The groups of ranks that differ only along `axes` of a grid, each sorted."""
    grid = np.asarray(ranks)
    rest = [a for a in range(grid.ndim) if a not in axes]
    size = int(np.prod([grid.shape[a] for a in axes]))
    rows = grid.transpose([*rest, *axes]).reshape(-1, size)
    return {tuple(sorted(int(r) for r in row)) for row in rows}


# ---- rank grids


def test_groups_of_world_8_tp4_ep2_as_the_facts_state_them() -> None:
    layout = Layout(tp=4, ep=2, etp=1)
    assert layout.gpus == 8 and not layout.sequence_parallel
    assert layout.expert.shape == (1, 4, 2, 1)
    assert groups(layout.expert, (2,)) == {(0, 1), (2, 3), (4, 5), (6, 7)}
    assert groups(layout.expert, (1,)) == {(0, 2, 4, 6), (1, 3, 5, 7)}
    assert groups(layout.dense, (3,)) == {(0, 1, 2, 3), (4, 5, 6, 7)}
    assert groups(layout.dense, (1,)) == {(0, 4), (1, 5), (2, 6), (3, 7)}


def test_grid_worked_by_hand_with_every_degree_and_an_offset() -> None:
    # tp2 cp2 pp2, 16 ranks from 100: dp 2. rank = tp + 2*(cp + 2*(dp + 2*pp)); ep4 etp1: edp 2
    layout = Layout(tp=2, cp=2, pp=2, ep=4, etp=1, gpus=16, offset=100)
    assert (layout.dp, layout.edp, layout.ranks) == (2, 2, range(100, 116))
    assert layout.dense[1, 0, 1, 1] == 100 + 1 + 2 * (1 + 2 * (0 + 2 * 1))  # 111
    assert layout.dense[0].tolist() == [[[100, 101], [102, 103]], [[104, 105], [106, 107]]]
    assert layout.expert[1].squeeze(-1).tolist() == [[108, 109, 110, 111], [112, 113, 114, 115]]


# ---- which worlds are allowed


def test_kimi_k2_runs_on_256_gpus_with_last_stage_5() -> None:
    layout = Layout(tp=8, cp=4, pp=8, ep=32, etp=1, gpus=256, last_stage_layers=5)
    assert (layout.dp, layout.edp) == (1, 1)  # 256/(8*4*8), 256/(1*32*8)
    stages = layout.stage_layers(61)
    assert [len(s) for s in stages] == [8] * 7 + [5]
    assert stages[-1] == list(range(56, 61))
    assert Layout(tp=8, cp=4, pp=8, ep=32).gpus == 8192  # tp*cp*pp*ep


def accepted(gpus: int, **degrees: Any) -> bool:
    try:
        Layout(gpus=gpus, **degrees)
    except UserError:
        return False
    return True


def test_smallest_world_by_brute_force() -> None:
    for tp, cp, pp, ep, etp in itertools.product(
        (1, 2, 3, 4), (1, 2), (1, 2, 3), (1, 2, 3, 6), (1, 2, 4)
    ):
        degrees: dict[str, Any] = {"tp": tp, "cp": cp, "pp": pp, "ep": ep, "etp": etp}
        smallest = next(n for n in itertools.count(1) if accepted(n, **degrees))
        # allowed by Megatron's two conditions and by nothing smaller
        assert smallest % (tp * cp * pp) == 0 and smallest % (etp * ep * pp) == 0
        assert smallest == pp * lcm(tp * cp, etp * ep)
        if smallest > 1:
            with pytest.raises(UserError, match=rf"smallest that works is {smallest}$"):
                Layout(gpus=smallest - 1, **degrees)


@pytest.mark.parametrize("name", ["tp", "cp", "pp", "ep", "etp"])
@pytest.mark.parametrize("value", [0, -2])
def test_a_degree_below_one_is_refused_by_name(name: str, value: int) -> None:
    degrees: dict[str, Any] = {name: value}
    with pytest.raises(UserError, match=rf"{name}={value}"):
        Layout(**degrees)


def test_errors_name_the_numbers_and_the_side() -> None:
    with pytest.raises(UserError, match=r"gpus=6 .* 2\*1\*2 = 4 .* 1\*4\*2 = 8; .* 8$"):
        Layout(tp=2, pp=2, ep=4, gpus=6)
    with pytest.raises(UserError, match=r"^parallel\.destination: tp=0"):
        placed(Degrees(), Degrees(tp=0), "collocated")
    with pytest.raises(UserError, match=r"^parallel\.source: gpus=0"):
        placed(Degrees(gpus=0), Degrees(), "collocated")
    with pytest.raises(UserError, match=r"pp of 2 or more"):
        Layout(first_stage_layers=2)
    with pytest.raises(UserError, match=r"'sideways'"):
        placed(Degrees(), Degrees(), "sideways")
    with pytest.raises(UserError, match=r"ranks_per_node=0"):
        placed(Degrees(), Degrees(), "collocated", ranks_per_node=0)


# ---- pipeline stages


def test_layers_that_do_not_divide_name_the_way_out() -> None:
    with pytest.raises(UserError, match=r"61 layers do not divide among 8 .*last_pipeline_stage"):
        Layout(pp=8).stage_layers(61)
    with pytest.raises(UserError, match=r"58 layers after 3 in the fixed .* 7 pipeline stages"):
        Layout(pp=8, first_stage_layers=3).stage_layers(61)


# ---- placement: the ten rows of the reference table


@pytest.mark.parametrize("name", ROWS)
def test_reference_table(name: str) -> None:
    source, destination, used, idle, _ = ROWS[name]
    placement = placed(
        Degrees(tp=source[0], ep=source[1], etp=1),
        Degrees(tp=destination[0], ep=destination[1]),
        mode(name),
    )
    assert placement.world == 8 and placement.nodes == 1
    assert placement.used == used
    assert list(placement.idle) == list(range(8 - idle, 8))
    assert len(placement.source.ranks) == source[0] * source[1]
    assert len(placement.destination.ranks) == destination[0] * destination[1]
    assert placement.source.ranks.start == 0
    assert placement.destination.ranks.start == (
        0 if mode(name) == "collocated" else placement.source.gpus
    )
    assert placement.destination.etp == 1
    assert len(placement.header()) == (4 if idle else 3)
    assert placement.header()[0] == f"World size: 8 (using {used} GPUs)"


def test_header_with_idle_ranks_as_documented() -> None:
    placement = placed(Degrees(tp=2, ep=2, etp=1), Degrees(tp=2), "non-collocated")
    assert placement.header() == [
        "World size: 8 (using 6 GPUs)",
        "Source ranks: 0-3 (TP=2, PP=1, EP=2)",
        "Destination ranks: 4-5 (TP=2, PP=1, EP=1)",
        "Idle ranks: 6-7 (not participating)",
    ]


def test_header_at_full_utilisation_as_documented() -> None:
    placement = placed(Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, ep=2), "non-collocated")
    assert placement.header() == [
        "World size: 8 (using 8 GPUs)",
        "Source ranks: 0-3 (TP=2, PP=1, EP=2)",
        "Destination ranks: 4-7 (TP=2, PP=1, EP=2)",
    ]


def test_header_names_cp_and_etp_only_where_they_matter() -> None:
    placement = placed(
        Degrees(tp=2, cp=2, etp=2), Degrees(etp=1), "non-collocated", ranks_per_node=4
    )
    assert placement.header()[1] == "Source ranks: 0-3 (TP=2, PP=1, EP=1, CP=2, ETP=2)"
    assert span(range(4, 5)) == "4" and span(range(4, 8)) == "4-7"


@pytest.mark.parametrize(
    ("per_node", "world", "nodes", "idle"),
    [(1, 6, 6, 0), (2, 6, 3, 0), (4, 8, 2, 2), (5, 10, 2, 4), (16, 16, 1, 10)],
)
def test_worlds_are_whole_nodes(per_node: int, world: int, nodes: int, idle: int) -> None:
    placement = placed(
        Degrees(tp=2, ep=2, etp=1), Degrees(tp=2), "non-collocated", ranks_per_node=per_node
    )
    assert (placement.world, placement.nodes, len(placement.idle)) == (world, nodes, idle)
    by_node = [[r for r in range(world) if placement.node_of(r) == n] for n in range(nodes)]
    assert [len(n) for n in by_node] == [per_node] * nodes
    assert all(list(placement.neighbours(r)) == n for n in by_node for r in n)


def test_documented_pitfall_needs_twelve_gpus() -> None:
    placement = placed(Degrees(tp=8, etp=1), Degrees(tp=4), "non-collocated")
    assert (placement.used, placement.world) == (12, 16)


def test_refit_mode_overrides_the_pairs_own() -> None:
    placement = placed(Degrees(tp=2, etp=1), Degrees(), "non-collocated", refit_mode="collocated")
    assert placement.destination.ranks == range(1) and placement.used == 2
    placement = placed(Degrees(tp=2, etp=1), Degrees(), "collocated", refit_mode="non-collocated")
    assert placement.destination.ranks == range(2, 3)


# ---- ETP defaults


@pytest.mark.parametrize(
    ("model", "source_etp", "destination_etp", "expected"),
    [
        (MOE, None, None, (4, 4)),  # source: its TP; destination: the source's, not its own TP
        (MOE, 1, None, (1, 1)),
        (MOE, 2, None, (2, 2)),
        (MOE, None, 1, (4, 1)),
        (MOE, 1, 2, (1, 2)),
        (DENSE, None, None, (1, 1)),
    ],
)
def test_etp_defaults(
    model: Model, source_etp: int | None, destination_etp: int | None, expected: tuple[int, int]
) -> None:
    placement = placed(
        Degrees(tp=4, etp=source_etp),
        Degrees(tp=2, ep=2, gpus=8, etp=destination_etp),
        "non-collocated",
        model=model,
    )
    assert (placement.source.etp, placement.destination.etp) == expected


def test_inherited_etp_counts_towards_the_destinations_world() -> None:
    # destination tp2 ep2 spans 4 ranks by default, but etp 4 inherited needs a multiple of 4*2
    with pytest.raises(
        UserError,
        match=r"^parallel\.destination: etp is the source's, and that is its tp, 4, .* is 8$",
    ):
        placed(Degrees(tp=4), Degrees(tp=2, ep=2), "non-collocated")


def test_resolve_carries_every_degree() -> None:
    degrees = Degrees(
        tp=2,
        cp=3,
        pp=4,
        ep=6,
        etp=1,
        gpus=48,
        num_layers_in_first_pipeline_stage=2,
        num_layers_in_last_pipeline_stage=5,
    )
    layout = resolve_degrees(degrees, etp=7, offset=9)
    assert (layout.tp, layout.cp, layout.pp, layout.ep, layout.etp, layout.gpus) == (
        2,
        3,
        4,
        6,
        1,
        48,
    )
    assert (layout.first_stage_layers, layout.last_stage_layers, layout.offset) == (2, 5, 9)
    assert re.fullmatch(r"TP=2, PP=4, EP=6, CP=3", layout.describe())


# ---- rank order, first rank, stages: each side's own


def test_pp_before_dp_worked_by_hand() -> None:
    # --use-tp-pp-dp-mapping: rank = tp + 2*(pp + 2*dp)
    layout = Layout(tp=2, pp=2, etp=2, gpus=8, order="tp-cp-ep-pp-dp", offset=8)
    assert layout.dense[:, :, 0].tolist() == [[[8, 9], [12, 13]], [[10, 11], [14, 15]]]
    assert layout.expert[:, :, 0].tolist() == [[[8, 9], [12, 13]], [[10, 11], [14, 15]]]
    assert layout.describe() == "TP=2, PP=2, EP=1, ETP=2, order tp-cp-ep-pp-dp"


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ("tp-dp-xp-pp", "order=tp-dp-xp-pp is not made of tp, cp, ep, dp, pp, each once"),
        ("tp-tp-dp-pp", "each once with - between them; Megatron's default is tp-cp-ep-dp-pp"),
        ("", "order= is not made of"),
        ("tp-cp-ep-pp", "order=tp-cp-ep-pp lacks dp, whose size is 2 here; add it"),
        ("tp-cp-dp-pp", "order=tp-cp-dp-pp lacks ep, whose size is 2 here; add it"),
        ("tp-cp-ep-pp-dp", "as many replicas of experts as of attention: here 4 and 2; use an"),
        (
            "pp-tp-ep-dp",
            "here 4 and 2; use an order that ends with pp, or degrees with etp*ep = tp",
        ),
    ],
)
def test_orders_that_cannot_be(order: str, text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        Layout(tp=4, pp=2, ep=2, gpus=16, order=order)
    with pytest.raises(UserError, match=r"^parallel\.destination: order="):
        placed(Degrees(), Degrees(tp=4, pp=2, ep=2, gpus=16, order=order))


def test_attention_and_experts_have_the_same_pipelines() -> None:
    with pytest.raises(UserError, match=r"ranks \[0, 2\] and experts \[0, 1\].*before pp"):
        Layout(tp=2, pp=2, ep=2, order="tp-pp-ep-dp", gpus=4)


@pytest.mark.parametrize(
    ("source", "destination", "mode", "ranks", "idle"),
    [
        # TP8 behind four ranks lies across two nodes, unless it is aligned
        ({"gpus": 4}, {"tp": 8}, "non-collocated", ((0, 4), (4, 12)), "12-15"),
        ({"gpus": 4}, {"tp": 8, "node_aligned": True}, "non-collocated", ((0, 4), (8, 16)), "4-7"),
        ({"gpus": 8}, {"tp": 8, "node_aligned": True}, "non-collocated", ((0, 8), (8, 16)), ""),
        ({"gpus": 2, "offset": 6}, {}, "non-collocated", ((6, 8), (8, 9)), "0-5, 9-15"),
        ({"offset": 3, "gpus": 2}, {"offset": 0}, "non-collocated", ((3, 5), (0, 1)), "1-2, 5-7"),
        ({"gpus": 2, "offset": 9}, {"gpus": 1}, "collocated", ((9, 11), (9, 10)), "0-8, 11-15"),
        ({"gpus": 4}, {"gpus": 4, "offset": 2}, "collocated", ((0, 4), (2, 6)), "6-7"),
        ({"gpus": 4, "node_aligned": True}, {}, "collocated", ((0, 4), (0, 1)), "4-7"),
        ({}, {"offset": 8, "node_aligned": True}, "non-collocated", ((0, 1), (8, 9)), "1-7, 9-15"),
        ({}, {"node_aligned": False}, "non-collocated", ((0, 1), (1, 2)), "2-7"),
    ],
)
def test_where_sides_stand(
    source: dict[str, Any],
    destination: dict[str, Any],
    mode: str,
    ranks: tuple[tuple[int, int], tuple[int, int]],
    idle: str,
) -> None:
    placement = placed(Degrees(**source, etp=1), Degrees(**destination, etp=1), mode)
    sides = (placement.source.ranks, placement.destination.ranks)
    assert sides == tuple(range(*side) for side in ranks)
    held = {*sides[0], *sides[1]}
    assert (placement.used, placement.end) == (len(held), max(held) + 1)
    assert placement.idle == sorted(set(range(placement.world)) - held)
    assert span(placement.idle) == idle
    assert placement.header()[0] == f"World size: {placement.world} (using {len(held)} GPUs)"
    if idle:
        assert placement.header()[-1] == f"Idle ranks: {idle} (not participating)"


@pytest.mark.parametrize(
    ("source", "destination", "mode", "text"),
    [
        (
            {"gpus": 4}, {"gpus": 4, "offset": 2}, "non-collocated",
            "share 2-3 (source 0-3, destination 2-5); use parallel.destination.offset=4, or"
            " refit.mode=collocated",
        ),
        (
            {"gpus": 4, "offset": 2}, {"gpus": 4, "offset": 0}, "non-collocated",
            "share 2-3 (source 2-5, destination 0-3); use parallel.source.offset=4, or",
        ),
        (
            {"gpus": 4}, {"offset": 8}, "collocated",
            "share ranks, and these share none (source 0-3, destination 8); use"
            " parallel.destination.offset=0, or refit.mode=non-collocated",
        ),
        ({"offset": -1}, {}, "collocated", "parallel.source: offset=-1: the first rank must be 0"),
        (
            {}, {"offset": 4, "node_aligned": True}, "non-collocated",
            "parallel.destination: offset=4 is not a node's first rank, which node_aligned=true"
            " asks for; nodes have 8 ranks: use offset=8, or leave out one of the two",
        ),
    ],
)  # fmt: skip
def test_where_sides_cannot_stand(
    source: dict[str, Any], destination: dict[str, Any], mode: str, text: str
) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        placed(Degrees(**source, etp=1), Degrees(**destination, etp=1), mode)


STAGES = "pipeline_model_parallel_layout"
VIRTUAL = "virtual_pipeline_model_parallel_size"
FIRST = "num_layers_in_first_pipeline_stage"
LAST = "num_layers_in_last_pipeline_stage"
EMBEDDING = "account_for_embedding_in_pipeline_split"
LOSS = "account_for_loss_in_pipeline_split"


@pytest.mark.parametrize(
    ("pp", "said", "held"),
    [
        (2, {STAGES: [3, 1]}, [[0, 1, 2], [3]]),
        (3, {STAGES: [2, 0, 2]}, [[0, 1], [], [2, 3]]),
        (2, {STAGES: [1, 1, 0, 2]}, [[0], [1, 2, 3]]),
        (2, {STAGES: "Et|t|t|tL"}, [[0, 2], [1, 3]]),
        (2, {VIRTUAL: 2}, [[0, 2], [1, 3]]),
        (2, {STAGES: "E(tt)*1|t*2L"}, [[0, 1], [2, 3]]),
        (2, {VIRTUAL: 1}, [[0, 1], [2, 3]]),
        (2, {FIRST: 3, LAST: 1}, [[0, 1, 2], [3]]),
        (5, {EMBEDDING: True}, [[], [0], [1], [2], [3]]),
        (5, {LOSS: True}, [[0], [1], [2], [3], []]),
        (3, {EMBEDDING: True, LOSS: True}, [[0], [1, 2], [3]]),
        (1, {STAGES: [4]}, [[0, 1, 2, 3]]),
    ],
)
def test_layers_of_pipeline_ranks(pp: int, said: dict[str, Any], held: list[list[int]]) -> None:
    layout = resolve_degrees(Degrees(pp=pp, **said), 1)
    assert layout.stage_layers(4) == held


@pytest.mark.parametrize(
    ("pp", "said", "text"),
    [
        (2, {STAGES: [3, 2]}, f"{STAGES} lists 3 + 2 = 5 layers, and the model has num_layers=4"),
        (2, {STAGES: [2, 1, 1]}, "has 3 stages, and pp=2 wants as many, or a multiple of it for"),
        (1, {STAGES: [2, 2]}, f"{STAGES} asks for 2 stages per rank, and virtual stages need pp"),
        (1, {VIRTUAL: 2}, f"{VIRTUAL} asks for 2 stages per rank, and virtual stages need pp of 2"),
        (2, {VIRTUAL: 0}, f"{VIRTUAL}=0: must be 1 or more"),
        (2, {STAGES: [2, 2], VIRTUAL: 2}, f"2 stages, 1 on each of pp=2 ranks, and {VIRTUAL}=2;"),
        (2, {STAGES: [2, 2], FIRST: 2}, f"says the layers of every stage; leave out {FIRST}"),
        (2, {FIRST: 2, EMBEDDING: True}, f"{FIRST} and {EMBEDDING} exclude each other, as in Mega"),
        (2, {FIRST: 1, LAST: 1, VIRTUAL: 2}, f"{FIRST} and {LAST} leave pp=2 no rank between"),
        (2, {STAGES: []}, f"{STAGES}=[] is not a list of layers per stage, 0 or more each; write"),
        (2, {STAGES: [5, -1]}, "0 or more each; write"),
        (2, {STAGES: [True, 3]}, "0 or more each; write"),
        (2, {STAGES: [["t"], ["t"]]}, "0 or more each; write"),
        (2, {STAGES: "Ettt|mtL"}, "m, multi-token prediction, is not modelled; its weights would"),
        (2, {STAGES: "Ettt|xtL"}, "x means nothing there; allowed are E (embedding), t"),
        (2, {STAGES: "ttt|tL"}, "the first stage begins with E, the last ends with L, and each"),
        (2, {STAGES: "EEtt|ttL"}, "the last ends with L, and each is there once; write"),
        (2, {STAGES: "tEtt|tL"}, "the last ends with L, and each is there once; write"),
        (2, {VIRTUAL: 3}, "2 layers of a pipeline rank do not divide among its 3 virtual stages"),
        (2, {EMBEDDING: True}, "5 layers, of which the embedding or the loss is one each, do not"),
        (3, {}, "or list the layers of every stage in pipeline_model_parallel_layout"),
    ],
)  # fmt: skip
def test_stages_that_cannot_be(pp: int, said: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        resolve_degrees(Degrees(pp=pp, **said), 1).stage_layers(4)
