"""Messages of training, each worked out by hand on a model of small round sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refit.forecast import traffic
from refit.layout.layout import Layout
from refit.model_config import Model

# 8 experts of 3 matrices of 100 * 30, in two of four layers
MOE = Model(
    name="m", num_layers=4, hidden_size=100, num_attention_heads=4, vocab_size=8,
    gated_linear_unit=True, num_moe_experts=8, moe_ffn_hidden_size=30, moe_router_topk=3,
    moe_layer_freq=[0, 1, 0, 1],
)  # fmt: skip
DENSE = replace(MOE, num_moe_experts=None, moe_ffn_hidden_size=None, moe_layer_freq=1)
HIDDEN = 2 * 5 * 7 * 100  # bytes of 5 * 7 tokens


def test_hidden_states() -> None:
    assert traffic.hidden_bytes(MOE, 5, 7) == HIDDEN == 7000


@pytest.mark.parametrize(
    ("model", "layout", "tensor", "dispatch", "expert_tensor", "metadata"),
    [
        (MOE, Layout(), 0, 0, 0, 0),
        (MOE, Layout(tp=2, etp=1), 7000, 0, 0, 0),
        (MOE, Layout(tp=2, etp=2), 7000, 0, 21000, 32),
        (MOE, Layout(ep=4), 0, 21000, 0, 64),
        (MOE, Layout(tp=4, ep=2, etp=1), 7000, 5250, 0, 32),
        (MOE, Layout(tp=4, ep=4, etp=2), 7000, 5250, 10500, 128),
        (DENSE, Layout(tp=2, ep=2, etp=2), 7000, 0, 0, 0),
    ],
)
def test_messages(
    model: Model, layout: Layout, tensor: int, dispatch: int, expert_tensor: int, metadata: int
) -> None:
    assert traffic.tensor_parallel_bytes(model, layout, 5, 7) == tensor
    assert traffic.dispatch_bytes(model, layout, 5, 7) == dispatch
    assert traffic.expert_tensor_parallel_bytes(model, layout, 5, 7) == expert_tensor
    assert traffic.metadata_bytes(model, layout) == metadata


@pytest.mark.parametrize(
    ("layout", "parameters", "replicated"),
    [
        (Layout(), 2 * 8 * 9000, False),
        (Layout(gpus=2), 2 * 8 * 9000, True),
        (Layout(ep=4), 2 * 2 * 9000, False),
        (Layout(ep=4, gpus=8), 2 * 2 * 9000, True),
        (Layout(tp=2, ep=2, etp=2), 2 * 4 * 4500, False),
        (Layout(pp=2, ep=2), 4 * 9000, False),
        (Layout(pp=2, tp=2, etp=1, ep=2, gpus=8), 4 * 9000, True),
    ],
)
def test_expert_weights(layout: Layout, parameters: int, replicated: bool) -> None:
    assert traffic.expert_parameters(MOE, layout) == parameters
    assert traffic.expert_gather_bytes(MOE, layout) == 2 * parameters * replicated
    assert traffic.expert_reduce_bytes(MOE, layout) == 4 * parameters * replicated


@pytest.mark.parametrize(
    ("layout", "nbytes"),
    [(Layout(tp=2), 0), (Layout(pp=2), 7000), (Layout(pp=2, tp=2, etp=1), 3500)],
)
def test_what_a_stage_hands_on(layout: Layout, nbytes: int) -> None:
    assert traffic.pipeline_bytes(MOE, layout, 5, 7) == nbytes


def test_an_ungated_expert_has_two_matrices_and_a_dense_model_none() -> None:
    plain = replace(MOE, gated_linear_unit=False)
    assert traffic.expert_parameters(plain, Layout()) == 2 * 8 * 2 * 3000
    assert traffic.expert_parameters(DENSE, Layout(gpus=2)) == 0
    assert traffic.expert_gather_bytes(DENSE, Layout(gpus=2)) == 0
