"""Rank grids and pipeline stages are those of megatron-core's own generators."""

from __future__ import annotations

import itertools
import random
import warnings
from contextlib import ExitStack
from math import lcm
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from megatron.core import parallel_state
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.parallel_state import RankGenerator
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from refit.errors import UserError
from refit.job import Degrees
from refit.layout.layout import Layout, Placement
from refit.layout.place import resolve
from refit.layout.stages import listed
from refit.model.workload_grid import workloads
from refit.rules.layout import order_has_one_pipeline
from tests.support import oracle
from tests.support.jobs import make_job

POSITIVE = st.integers(1, 4)


def groups(ranks: Any, axes: tuple[int, ...]) -> set[tuple[int, ...]]:
    """The groups of ranks that differ only along `axes` of a grid, each sorted."""
    grid = np.asarray(ranks)
    rest = [a for a in range(grid.ndim) if a not in axes]
    size = int(np.prod([grid.shape[a] for a in axes]))
    rows = grid.transpose([*rest, *axes]).reshape(-1, size)
    return {tuple(sorted(int(r) for r in row)) for row in rows}


def as_set(enumeration: list[list[int]]) -> set[tuple[int, ...]]:
    return {tuple(sorted(int(r) for r in group)) for group in enumeration}


@given(tp=POSITIVE, cp=POSITIVE, pp=POSITIVE, ep=POSITIVE, etp=POSITIVE, times=st.integers(1, 3))
def test_grids_are_megatron_rank_generators(
    tp: int, cp: int, pp: int, ep: int, etp: int, times: int
) -> None:
    offset = 7 * (times - 1)
    gpus = times * pp * lcm(tp * cp, etp * ep)
    layout = Layout(tp=tp, cp=cp, pp=pp, ep=ep, etp=etp, gpus=gpus, offset=offset)
    order = "tp-cp-ep-dp-pp"  # the default of initialize_model_parallel
    dense = RankGenerator(tp, 1, gpus // (tp * cp * pp), pp, cp, order, offset)
    expert = RankGenerator(etp, ep, gpus // (etp * ep * pp), pp, 1, order, offset)
    axis = {"pp": 0, "dp": 1, "cp": 2, "ep": 2, "tp": 3}
    for token in ("tp", "cp", "dp", "pp", "tp-cp", "dp-cp", "tp-pp", "tp-dp-cp"):
        axes = tuple(axis[t] for t in token.split("-"))
        assert groups(layout.dense, axes) == as_set(dense.get_ranks(token)), token
    for token in ("tp", "ep", "dp", "pp", "tp-ep", "tp-ep-pp"):
        axes = tuple(axis[t] for t in token.split("-"))
        assert groups(layout.expert, axes) == as_set(expert.get_ranks(token)), token


def megatrons(
    dense: tuple[int, ...], expert: tuple[int, ...], order: str
) -> tuple[RankGenerator, RankGenerator]:
    """The generators of `initialize_model_parallel`, and what it asserts of them.

    Args:
        dense: tp, dp, pp, cp.
        expert: etp, ep, edp.

    Raises:
        AssertionError, RuntimeError: as it does.
    """
    (tp, dp, pp, cp), (etp, ep, edp) = dense, expert
    generators = (
        RankGenerator(tp, 1, dp, pp, cp, order), RankGenerator(etp, ep, edp, pp, 1, order)
    )  # fmt: skip
    assert order.endswith("pp") or pp == 1 or edp == dp
    assert generators[0].get_ranks("pp") == generators[1].get_ranks("pp")
    return generators


def sizes(dice: random.Random) -> tuple[int, int, int, int, int, int]:
    """tp, cp, pp, ep, etp and GPUs; as often as not with as many replicas of either kind."""
    tp, cp, pp, ep, etp = (dice.choice((1, 2, 3, 4)) for _ in range(5))
    if dice.random() < 0.5:
        etp, ep = dice.choice([(1, tp * cp), (tp, cp), (tp * cp, 1)])
    return tp, cp, pp, ep, etp, dice.choice((1, 2, 3)) * pp * lcm(tp * cp, etp * ep)


ORDERS = [
    "-".join(names)
    for count in (3, 4, 5)
    for names in itertools.permutations(("tp", "cp", "ep", "dp", "pp"), count)
]


def test_grids_of_every_order_are_megatrons_and_so_are_refusals() -> None:
    dice, seen, refused = random.Random(5), 0, 0
    for order in ORDERS * 6:
        tp, cp, pp, ep, etp, gpus = sizes(dice)
        dense_sizes = (tp, gpus // (tp * cp * pp), pp, cp)
        expert_sizes = (etp, ep, gpus // (etp * ep * pp))
        said: dict[str, Any] = {"tp": tp, "cp": cp, "pp": pp, "ep": ep, "etp": etp, "gpus": gpus}
        try:
            dense, expert = megatrons(dense_sizes, expert_sizes, order)
        except (AssertionError, RuntimeError):
            assert f"order={order}" in reason_against(**said, order=order)
            refused += 1
            continue
        written = order.upper() if dice.random() < 0.1 else order
        assert reason_against(**said, order=written) == ""
        layout = Layout(**said, order=written, offset=3)
        axis = {"pp": 0, "dp": 1, "cp": 2, "ep": 2, "tp": 3}
        for ranks, generator, token in (
            *((layout.dense - 3, dense, t) for t in ("tp", "cp", "dp", "pp", "dp-cp", "tp-pp")),
            *((layout.expert - 3, expert, t) for t in ("tp", "ep", "dp", "pp", "tp-ep-pp")),
        ):
            axes = tuple(axis[t] for t in token.split("-"))
            assert groups(ranks, axes) == as_set(generator.get_ranks(token)), (order, token)
        # along an axis ranks ascend, so that a place in a group is an index
        assert (np.diff(layout.dense, axis=0) > 0).all() and (
            np.diff(layout.expert, axis=2) > 0
        ).all()
        # and both grids mean the same stage
        assert (
            np.sort(layout.dense.reshape(pp, -1)) == np.sort(layout.expert.reshape(pp, -1))
        ).all()
        assert oracle_agrees(layout)
        seen += 1
    assert seen > 300 and refused > 300, (seen, refused)


def test_a_dense_model_has_expert_groups_with_etp_equal_to_tp() -> None:
    dice, seen, refused = random.Random(6), 0, 0
    for order in ORDERS * 2:
        tp, cp, pp, dp = (dice.choice((1, 2, 3)) for _ in range(4))
        said: dict[str, Any] = {"tp": tp, "cp": cp, "pp": pp, "gpus": tp * cp * pp * dp}
        reason = reason_against(moe=False, **said, order=order)
        try:
            dense, _ = megatrons((tp, dp, pp, cp), (tp, 1, dp * cp), order)
        except (AssertionError, RuntimeError):
            assert f"order={order}" in reason
            refused += 1
            continue
        assert reason == ""
        layout = Layout(**said, order=order)
        for token, axis in {"tp": 3, "cp": 2, "dp": 1, "pp": 0}.items():
            assert groups(layout.dense, (axis,)) == as_set(dense.get_ranks(token))
        stages = layout.dense.reshape(pp, -1), layout.expert.reshape(pp, -1)
        assert (np.sort(stages[0]) == np.sort(stages[1])).all()
        seen += 1
    assert seen > 100 and refused > 100, (seen, refused)


def reason_against(moe: bool = True, **said: Any) -> str:
    """Why a layout cannot be for its order, or nothing."""
    try:
        layout = Layout(**said)
    except UserError as error:
        return str(error)
    what = make_job() if moe else make_job(model__num_moe_experts=None)
    return order_has_one_pipeline(what, Placement(layout, (layout,), 1, layout.gpus)) or ""


def oracle_agrees(layout: Layout) -> bool:
    """The grids against arithmetic that uses none."""
    for rank in layout.ranks:
        place = oracle.where(layout, rank)
        if rank not in layout.dense[place.stage, :, place.cp, place.tp]:
            return False
        if rank not in layout.expert[place.stage, :, place.ep, place.etp]:
            return False
    return True


@pytest.fixture
def large_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that HyperCommGrid asks for where no process group is."""
    monkeypatch.setenv("WORLD_SIZE", "100000")


@pytest.mark.parametrize(
    ("tp", "cp", "pp", "ep", "etp", "gpus"),
    [
        (4, 1, 1, 2, 1, 8),
        (2, 2, 2, 4, 1, 16),
        (2, 1, 3, 4, 2, 48),
        (8, 4, 8, 32, 1, 256),
        (1, 1, 16, 16, 1, 256),
    ],
)
@pytest.mark.usefixtures("large_world")
def test_grids_are_hyper_comm_grids(
    tp: int, cp: int, pp: int, ep: int, etp: int, gpus: int
) -> None:
    layout = Layout(tp=tp, cp=cp, pp=pp, ep=ep, etp=etp, gpus=gpus, offset=gpus)
    dense = HyperCommGrid([tp, cp, layout.dp, pp], ["tp", "cp", "dp", "pp"], rank_offset=gpus)
    expert = HyperCommGrid([etp, ep, layout.edp, pp], ["tp", "ep", "dp", "pp"], rank_offset=gpus)
    for name, axis in {"tp": 3, "cp": 2, "dp": 1, "pp": 0}.items():
        assert groups(layout.dense, (axis,)) == as_set(dense.get_rank_enum(name))
    for name, axis in {"tp": 3, "ep": 2, "dp": 1, "pp": 0}.items():
        assert groups(layout.expert, (axis,)) == as_set(expert.get_rank_enum(name))


def megatron_stages(num_layers: int, pp: int, **said: Any) -> list[list[int]]:
    """What each pipeline rank builds, by Megatron's own functions; `said` in Megatron's names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = TransformerConfig(
            num_layers=num_layers,
            hidden_size=8,
            num_attention_heads=4,
            pipeline_model_parallel_size=pp,
            pipeline_dtype=torch.bfloat16,
            **said,
        )
    virtual = config.virtual_pipeline_model_parallel_size
    held: list[list[int]] = []
    with ExitStack() as stack:
        # a custom layout asks these, whatever it is passed
        asked = stack.enter_context(
            patch.object(parallel_state, "get_pipeline_model_parallel_rank")
        )
        of_virtual = "get_virtual_pipeline_model_parallel_world_size"
        stack.enter_context(patch.object(parallel_state, of_virtual, return_value=virtual))
        for rank in range(pp):
            asked.return_value = rank
            mine: list[int] = []
            for chunk in [None] if virtual is None else range(virtual):
                size = get_num_layers_to_build(config, vp_stage=chunk, pp_rank=rank)
                start = get_transformer_layer_offset(config, vp_stage=chunk, pp_rank=rank)
                assert size >= 0
                mine += range(start, start + size)
            held.append(mine)
    return held


def ours(num_layers: int, pp: int, **said: Any) -> list[list[int]]:
    """The same by `Degrees`."""
    return resolve(Degrees(pp=pp, **said), 1).stage_layers(num_layers)


FIRST, LAST = "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"
VIRTUAL = "virtual_pipeline_model_parallel_size"
EMBEDDING = "account_for_embedding_in_pipeline_split"
LOSS = "account_for_loss_in_pipeline_split"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("num_layers", "pp", "first", "last"),
    [
        (61, 8, None, 5),
        (61, 4, None, 13),
        (61, 16, 3, 2),
        (94, 4, None, 22),
        (32, 1, None, None),
        (48, 4, None, None),
        (7, 2, 3, 4),
        (7, 2, 5, None),
        (7, 2, None, 1),
        (10, 3, 4, None),
        (12, 4, 3, 5),
        (9, 4, 1, 2),
        (36, 8, 3, 3),
    ],
)
def test_stages_are_megatrons(
    num_layers: int, pp: int, first: int | None, last: int | None
) -> None:
    said = {FIRST: first, LAST: last}
    assert ours(num_layers, pp, **said) == megatron_stages(num_layers, pp, **said)


def test_workloads_with_fewer_layers_at_the_ends_are_megatrons() -> None:
    for w in workloads():
        layers = w.model.num_layers
        held = megatron_stages(layers, w.pp, **{FIRST: w.end_layers, LAST: w.end_layers})
        assert w.layout.stage_layers(layers) == held
        if w.end_layers:
            assert [len(stage) for stage in held] == [3, 5, 5, 5, 5, 5, 5, 3]


@pytest.mark.filterwarnings("ignore")
def test_every_small_split_that_we_accept_is_megatrons_and_covers_the_model() -> None:
    options = (None, 1, 2, 4)
    seen = 0
    for num_layers, pp, first, last in itertools.product(range(2, 13), (2, 3, 4), options, options):
        layout = Layout(pp=pp, first_stage_layers=first, last_stage_layers=last)
        fixed = [c for c in (first, last) if c is not None]
        left, stages_left = num_layers - sum(fixed), pp - len(fixed)
        # possible when the rest divides among the rest, with a layer at least for each
        possible = (
            left == 0 if stages_left == 0 else left >= stages_left and left % stages_left == 0
        )
        if not possible:
            with pytest.raises(UserError, match=f"num_layers={num_layers}"):
                layout.stage_layers(num_layers)
            continue
        stages = layout.stage_layers(num_layers)
        assert [n for stage in stages for n in stage] == list(range(num_layers))
        assert stages == megatron_stages(num_layers, pp, **{FIRST: first, LAST: last})
        seen += 1
    assert seen > 150


def test_every_way_to_split_is_megatrons_and_so_are_refusals() -> None:
    seen, refused = 0, 0
    for num_layers, pp, virtual, first, last, embedding, loss in itertools.product(
        range(2, 15),
        (1, 2, 3, 4),
        (None, 2, 3),
        (None, 2, 3),
        (None, 2),
        (None, True),
        (None, True),
    ):
        both = {FIRST: first, LAST: last, VIRTUAL: virtual, EMBEDDING: embedding, LOSS: loss}
        said: dict[str, Any] = {k: value for k, value in both.items() if value is not None}
        if pp == 1 and virtual:  # initialize_model_parallel's, which has no config
            with pytest.raises(UserError, match=r"needs? pp of 2 or more"):
                ours(num_layers, pp, **said)
            continue
        if pp == 1 and (first or last):
            with pytest.raises(UserError, match="needs pp of 2 or more"):
                ours(num_layers, pp, **said)
            continue
        try:
            theirs = megatron_stages(num_layers, pp, **said)
        except (AssertionError, ValueError, ZeroDivisionError):
            with pytest.raises(UserError):
                ours(num_layers, pp, **said)
            refused += 1
            continue
        assert ours(num_layers, pp, **said) == theirs, said
        layout = resolve(Degrees(pp=pp, **said), 1)
        assert (
            oracle.stage_of_layer(layout, num_layers) == layout.rank_of_layers(num_layers).tolist()
        )
        assert sorted(itertools.chain(*theirs)) == list(range(num_layers))
        seen += 1
    assert seen > 200 and refused > 500, (seen, refused)


STRINGS = [
    ("Et|tL", 2, 2),
    ("Ettt|(tt|)*29tL", 62, 31),
    ("Et*3|(tt|)*2tL", 8, 4),
    ("Et*3|(tt|)*2,L", 7, 4),
    ("E|t*4|L", 4, 3),
    ("E|(t|)*6L", 6, 8),
    ("E|(t|)*6L", 6, 4),
    ("E|(t|)*6L", 6, 2),
    ("Ett||tt|tL", 5, 2),
    ("E(tt|t|)*3tL", 10, 7),
    ("(Et|)*1tL", 2, 2),
    ("Et*2,|,t*10|||L", 12, 5),
]


@pytest.mark.parametrize(("text", "num_layers", "pp"), STRINGS)
def test_a_string_is_read_as_megatron_reads_it(text: str, num_layers: int, pp: int) -> None:
    rows = PipelineParallelLayerLayout.parse_str_to_list(text)
    counts = [row.count(LayerType.decoder) for row in rows]
    assert list(listed(text)) == counts
    theirs = megatron_stages(num_layers, pp, pipeline_model_parallel_layout=text)
    assert ours(num_layers, pp, pipeline_model_parallel_layout=text) == theirs
    # as a list of numbers it means the same
    assert ours(num_layers, pp, pipeline_model_parallel_layout=counts) == theirs
    layout = resolve(Degrees(pp=pp, pipeline_model_parallel_layout=counts), 1)
    assert layout.virtual_stages == len(rows) // pp
    assert oracle.stage_of_layer(layout, num_layers) == layout.rank_of_layers(num_layers).tolist()


LETTERS = st.text(alphabet="EtLm|*()23,x", max_size=12)


@settings(max_examples=400)
@given(st.one_of(LETTERS, LETTERS.map("Et|{}|tL".format), LETTERS.map("E{}L".format)))
@example("Et|mL")
@example("tE|tL")
@example("|Et|tL")
@example("Et|tL|")
def test_what_we_read_megatron_reads_alike(text: str) -> None:
    try:
        counts = listed(text)
    except UserError:
        return
    rows = PipelineParallelLayerLayout.parse_str_to_list(text)
    assert [row.count(LayerType.decoder) for row in rows] == list(counts)
    if sum(counts):
        PipelineParallelLayerLayout(text, 1).validate_layer_layout(sum(counts), None)


@pytest.mark.parametrize("text", ["tE|tL", "Et|tx", "", "Et", "EtL|tL", "E((t|)*2)*2L"])
def test_strings_that_megatron_refuses_are_refused(text: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        PipelineParallelLayerLayout(text, 1).validate_layer_layout(text.count("t"), None)
    with pytest.raises(UserError, match="pipeline_model_parallel_layout="):
        listed(text)


@pytest.mark.parametrize("text", ["|Et|tL", "Et|tL|"])
def test_ends_that_are_not_on_the_end_stages_are_refused(text: str) -> None:
    """Megatron takes them, and its models have embedding and output on the end ranks all the same.

    So the string would not say what is built.
    """
    PipelineParallelLayerLayout(text, 1).validate_layer_layout(2, None)
    with pytest.raises(UserError, match="pipeline_model_parallel_layout="):
        listed(text)
