"""Rank grids and pipeline stages are those of megatron-core's own generators."""

from __future__ import annotations

import itertools
from math import lcm
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.parallel_state import RankGenerator
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from refit.job import UserError
from refit.layout.layout import Layout

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


def megatron_stages(num_layers: int, pp: int, first: int | None, last: int | None) -> list[range]:
    config = TransformerConfig(
        num_layers=num_layers,
        hidden_size=8,
        num_attention_heads=4,
        pipeline_model_parallel_size=pp,
        pipeline_dtype=torch.bfloat16,
        num_layers_in_first_pipeline_stage=first,
        num_layers_in_last_pipeline_stage=last,
    )
    sizes = [get_num_layers_to_build(config, pp_rank=rank) for rank in range(pp)]
    starts = [get_transformer_layer_offset(config, pp_rank=rank) for rank in range(pp)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


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
    ],
)
def test_stages_are_megatrons(
    num_layers: int, pp: int, first: int | None, last: int | None
) -> None:
    ours = Layout(pp=pp, first_stage_layers=first, last_stage_layers=last).stage_layers(num_layers)
    assert ours == megatron_stages(num_layers, pp, first, last)


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
        assert stages == megatron_stages(num_layers, pp, first, last)
        seen += 1
    assert seen > 150
