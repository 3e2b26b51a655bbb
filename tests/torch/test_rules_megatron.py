"""The rules against megatron-core itself: what its TransformerConfig refuses, the rules refuse."""

from __future__ import annotations

import warnings
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refit.forecast.predict import predict_point
from refit.job import Job
from refit.layout.place import place
from refit.model import megatron_versions as versions
from refit.model_config import NOT_MODELLED
from refit.record.point import Point
from refit.record.remarks import remarks
from refit.rules.impossible import impossible
from refit.rules.layout import LAYOUT
from refit.rules.model import MODEL
from refit.rules.values import VALUES
from tests.support.jobs import make_job

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig


def refused(job: Job) -> str | None:
    """What megatron-core says when it builds the configs of both sides, or None."""
    placement = place(job)
    known = {f.name for f in fields(TransformerConfig)} - {"activation_func"}
    values = {f.name: getattr(job.model, f.name) for f in fields(job.model) if f.name in known}
    try:
        for side in (placement.source, placement.destination):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                TransformerConfig(
                    **values,
                    tensor_model_parallel_size=side.tp,
                    pipeline_model_parallel_size=side.pp,
                    expert_model_parallel_size=side.ep,
                    expert_tensor_parallel_size=side.etp,
                    sequence_parallel=side.sequence_parallel,
                    num_layers_in_first_pipeline_stage=side.first_stage_layers,
                    num_layers_in_last_pipeline_stage=side.last_stage_layers,
                    pipeline_dtype=torch.bfloat16,
                    params_dtype=torch.bfloat16,
                    bf16=True,
                )
    except (AssertionError, ValueError, TypeError, ImportError) as error:
        return str(error)
    return None


NO_SHARED = {"moe_shared_expert_intermediate_size": None}
PAD = {"moe_pad_expert_input_to_capacity": True}
LISTS = {"moe_router_load_balancing_type": ["aux_loss", "seq_aux_loss"]}
BIG: dict[str, Any] = {"cluster__ranks_per_node": 64}
# (model fields, other fields, whether it can be)
CASES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    # attention against TP
    ({"num_attention_heads": 4}, {"parallel__source__tp": 8, **BIG}, False),
    ({"num_query_groups": 2}, {"parallel__source__tp": 4, **BIG}, True),
    ({"num_query_groups": 4}, {"parallel__destination__tp": 4}, True),
    (
        {"num_attention_heads": 24, "num_query_groups": 3, "kv_channels": 64},
        {"parallel__source__tp": 2},
        False,
    ),
    # experts and their parallelism
    ({"num_moe_experts": None, **NO_SHARED}, {"parallel__source__ep": 2}, False),
    ({"num_moe_experts": None, **NO_SHARED}, {"parallel__source__ep": 1}, True),
    (
        {"num_moe_experts": None, "moe_ffn_hidden_size": 64, **NO_SHARED},
        {"parallel__source__ep": 1},
        False,
    ),
    ({"moe_ffn_hidden_size": 64}, {}, True),
    ({"moe_shared_expert_intermediate_size": 0}, {}, False),
    ({"num_moe_experts": 0}, {}, False),
    ({"add_bias_linear": True, **NO_SHARED}, {"parallel__source__etp": None}, False),
    ({"add_bias_linear": True, **NO_SHARED}, {"parallel__destination__etp": 2}, False),
    ({"add_bias_linear": True, **NO_SHARED}, {}, True),
    ({"add_bias_linear": False}, {"parallel__source__etp": None}, True),
    # router
    ({"moe_router_topk": 1}, {}, False),
    ({"moe_router_topk": 1, "moe_router_pre_softmax": True}, {}, True),
    ({"moe_router_topk": 1, "moe_router_score_function": "sigmoid"}, {}, True),
    ({"moe_router_topk": 1, "moe_router_load_balancing_type": "sinkhorn"}, {}, True),
    ({"moe_router_enable_expert_bias": True}, {}, False),
    (
        {"moe_router_enable_expert_bias": True, "moe_router_score_function": "sigmoid"},
        {},
        True,
    ),
    ({"moe_router_group_topk": 2}, {}, False),
    ({"moe_router_group_topk": 2, "moe_router_num_groups": 4}, {}, True),
    ({"moe_router_group_topk": 2, "moe_router_num_groups": 3}, {}, False),
    ({"moe_router_group_topk": 5, "moe_router_num_groups": 4}, {}, False),
    ({"moe_router_dtype": "fp32", "moe_router_force_load_balancing": True}, {}, True),
    # load balancing
    ({"moe_aux_loss_coeff": 1e-2, "moe_z_loss_coeff": 1e-3}, {}, True),
    ({"moe_router_load_balancing_type": "none", "moe_input_jitter_eps": 0.1}, {}, True),
    ({**LISTS, "moe_aux_loss_coeff": [0.1, 0.2]}, {}, True),
    ({**LISTS, "moe_aux_loss_coeff": [0.1]}, {}, False),
    ({**LISTS, "moe_aux_loss_coeff": 0.1}, {}, False),
    # token dropping and capacity
    ({"moe_token_dropping": True}, {}, True),
    ({"moe_expert_capacity_factor": 1.25, **PAD}, {}, True),
    ({"moe_expert_capacity_factor": -1.0}, {}, True),
    ({"moe_expert_capacity_factor": -1.0, **PAD}, {}, False),
    (PAD, {}, False),
    (
        {"moe_expert_capacity_factor": 1.0, "moe_router_load_balancing_type": "sinkhorn"},
        {},
        False,
    ),
    ({"moe_expert_capacity_factor": 1.0, "moe_router_load_balancing_type": "none"}, {}, True),
    # dispatchers
    ({"moe_token_dispatcher_type": "alltoall", "moe_shared_expert_overlap": True}, {}, True),
    ({"moe_token_dispatcher_type": "allgather", "moe_shared_expert_overlap": True}, {}, False),
    (
        {"moe_token_dispatcher_type": "flex", "moe_shared_expert_overlap": True},
        {},
        "flex" in versions.OVERLAP_DISPATCHERS,
    ),
    ({"moe_token_dispatcher_type": "flex"}, {}, True),
    (
        {"moe_token_dispatcher_type": "flex", "moe_expert_capacity_factor": 1.0, **PAD},
        {},
        False,
    ),
    (
        {
            "moe_token_dispatcher_type": "flex",
            "moe_flex_dispatcher_backend": "hybridep",
            "moe_expert_capacity_factor": 1.0,
            **PAD,
        },
        {},
        True,
    ),
    # pipeline
    (
        {},
        {
            "parallel__source__pp": 2,
            "parallel__source__num_layers_in_last_pipeline_stage": 1,
            **BIG,
        },
        True,
    ),
    (
        {},
        {
            "parallel__source__pp": 2,
            "parallel__source__num_layers_in_last_pipeline_stage": 4,
            **BIG,
        },
        False,
    ),
    (
        {"num_layers": 6},
        {
            "parallel__source__pp": 3,
            "parallel__source__num_layers_in_first_pipeline_stage": 1,
            **BIG,
        },
        False,
    ),
]


@pytest.mark.parametrize(("model", "other", "possible"), CASES, ids=str)
def test_same_verdict(model: dict[str, Any], other: dict[str, Any], possible: bool) -> None:
    job = make_job(**{f"model__{key}": value for key, value in model.items()}, **other)
    assert (refused(job) is None) is possible
    reason = impossible(job)
    assert (reason is None) is possible, reason


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("ep", [1, 2])
@pytest.mark.parametrize("on", [True, False])
def test_same_words_on_sequence_parallelism(tp: int, ep: int, on: bool, tmp_path: Path) -> None:
    job = make_job(
        parallel__source={"tp": tp, "ep": ep, "etp": 1, "sequence_parallel": on}, mode="plan"
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            TransformerConfig(
                num_layers=2,
                hidden_size=8,
                num_attention_heads=2,
                num_moe_experts=2,
                tensor_model_parallel_size=tp,
                expert_model_parallel_size=ep,
                expert_tensor_parallel_size=1,
                sequence_parallel=on,
                add_bias_linear=False,
            )
        except ValueError as error:
            said, words = str(error), impossible(job) or ""
            assert "without tensor parallelism" in said and "without tensor parallelism" in words
            return
    assert impossible(job) is None
    must = "sequence parallelism must be used"
    warned = any(must in str(warning.message) for warning in heard)
    assert any(must in text for text in remarks(predict_point(Point.of(job, tmp_path)))) is warned


@pytest.mark.skipif(
    find_spec("transformer_engine") is not None,
    reason="Transformer Engine is installed",
)
def test_same_verdict_on_fused_permutation() -> None:
    job = make_job(model__moe_permute_fusion=True)
    # 0.16.1 means to say "fused permutation is not available", but fails at the import before it
    assert "fused" in (refused(job) or "")
    assert "moe_permute_fusion" in (impossible(job) or "")


# Rules on what TransformerConfig lets pass: Megatron's modules or arguments refuse it later, or it
# would say nothing.
STRICTER = {
    "coefficients_match",
    "expert_fields_need_experts",
    "shared_expert_without_bias",
    "groups_share_heads",
}

MOE = st.fixed_dictionaries(
    {
        "num_moe_experts": st.sampled_from([None, 16]),
        "moe_ffn_hidden_size": st.sampled_from([None, 64]),
        "moe_shared_expert_intermediate_size": st.sampled_from([None, 512]),
        "moe_shared_expert_overlap": st.booleans(),
        "moe_token_dispatcher_type": st.sampled_from(["allgather", "alltoall", "flex"]),
        "moe_flex_dispatcher_backend": st.sampled_from(["deepep", "hybridep"]),
        "moe_expert_capacity_factor": st.sampled_from([None, -1.0, 0.0, 1.5]),
        "moe_pad_expert_input_to_capacity": st.booleans(),
        "moe_router_topk": st.sampled_from([1, 2]),
        "moe_router_pre_softmax": st.booleans(),
        "moe_router_score_function": st.sampled_from(["softmax", "sigmoid"]),
        "moe_router_enable_expert_bias": st.booleans(),
        "moe_router_num_groups": st.sampled_from([None, 3, 4]),
        "moe_router_group_topk": st.sampled_from([None, 1, 5]),
        "moe_router_load_balancing_type": st.sampled_from(
            ["aux_loss", "sinkhorn", "none", ["aux_loss", "seq_aux_loss"]]
        ),
        "moe_aux_loss_coeff": st.sampled_from([0.0, [0.1], [0.1, 0.2]]),
        "add_bias_linear": st.booleans(),
        "num_query_groups": st.sampled_from([None, 1, 2, 3]),
    }
)
SIDE = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([1, 2, 4]),
        "ep": st.sampled_from([1, 2]),
        "etp": st.sampled_from([None, 1, 2]),
    }
)


@settings(max_examples=400)
@given(model=MOE, source=SIDE, destination=SIDE)
def test_never_laxer_and_stricter_only_where_known(
    model: dict[str, Any], source: dict[str, Any], destination: dict[str, Any]
) -> None:
    # 8 GPUs hold every drawn combination of the degrees
    job = make_job(
        **{f"model__{key}": value for key, value in model.items()},
        parallel__source={**source, "gpus": 8},
        parallel__destination={**destination, "gpus": 8},
        cluster__ranks_per_node=16,
    )
    placement = place(job)
    fired = {rule.__name__ for rule in (*VALUES, *MODEL) if rule(job)}
    fired |= {rule.__name__ for rule in LAYOUT if not fired & STRICTER and rule(job, placement)}
    theirs = refused(job)
    if theirs is not None:
        assert impossible(job) is not None, theirs
    else:
        assert fired <= STRICTER, fired


def test_what_is_not_modelled_are_megatrons_own_names() -> None:
    config = {field.name for field in fields(MLATransformerConfig)}
    # arguments that its programs make a model of, and a field of the newest versions
    elsewhere = {
        "hybrid_layer_pattern", "hybrid_override_pattern", "hybrid_attention_ratio",
        "hybrid_mlp_ratio", "heterogeneous_layers_config_path",
        "heterogeneous_layers_config_encoded_json", "mtp_hybrid_override_pattern",
    }  # fmt: skip
    assert NOT_MODELLED.keys() - config <= elsewhere
    assert {"is_hybrid_model", "fp8_param"} <= config & NOT_MODELLED.keys()
