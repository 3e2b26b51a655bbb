"""Each rule fires with its numbers, and only then; the reference documents' examples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refit.layout.layout import place
from refit.model import megatron_versions as versions
from refit.rules.impossible import impossible, reasons
from refit.rules.layout import LAYOUT, cut_axes_divide
from refit.rules.model import MODEL
from refit.rules.values import VALUES, mistake
from tests.unit.jobs import make_job

# (changes that make the job impossible, what the reason must say)
BAD: list[tuple[dict[str, Any], str]] = [
    # values
    ({"mode": "paln"}, "mode=paln is not one of measure, plan; did you mean plan?"),
    ({"build": "megatorn"}, "build=megatorn is not one of megatron, shards; did you mean meg"),
    ({"verify": "hash"}, "verify=hash is not one of bits, logits"),
    ({"sweep__mode": "again"}, "sweep.mode=again is not one of retry, cached, force, read-only"),
    ({"sweep__repeat": 0}, "sweep.repeat=0: must be 1 or more"),
    ({"sweep__exclude": "*gloo*"}, "sweep.exclude=*gloo* is not a list of patterns"),
    ({"refit__mode": "colocated"}, "did you mean collocated?"),
    ({"parallel__mode": "auto"}, "parallel.mode=auto is not one of collocated, non-collocated"),
    ({"bench__iterations": 0}, "bench.iterations=0: must be 1 or more"),
    ({"bench__warmup": -1}, "bench.warmup=-1: must be 0 or more"),
    ({"bench__deadline_s": 0.0}, "bench.deadline_s=0.0: must be more than 0"),
    ({"bench__deadline_s": float("nan")}, "bench.deadline_s=nan: must be more than 0"),
    ({"refit__bucket_mb": -1.0}, "refit.bucket_mb=-1.0: must be more than 0"),
    ({"refit__in_flight": 0}, "refit.in_flight=0: must be 1 or more"),
    ({"cluster__hardware__nic_gbps": 0.0}, "cluster.hardware.nic_gbps=0.0: must be more than 0"),
    ({"cluster__hardware__nic_efficiency": 1.2}, "nic_efficiency=1.2: must be more than 0, and 1"),
    ({"cluster__hardware__latency_us": -1.0}, "cluster.hardware.latency_us=-1.0: must be 0 or"),
    ({"cluster__hardware__fitted": 3}, "cluster.hardware.fitted=3 is not a mapping of methods"),
    ({"cluster__hardware__fitted": {"ipc": {"speed": 1}}}, "allowed: wire, latency_us, staging"),
    ({"cluster__hardware__fitted": {"ipc": {"wire": 0.5}}}, "ipc.wire=0.5: must be 1 or more"),
    ({"cluster__hardware__device": "tpu"}, "cluster.hardware.device=tpu is not one of cuda, cpu"),
    ({"refit__fanout": "tree"}, "refit.fanout=tree is not one of direct, hierarchical"),
    ({"parallel__model": "kimi_k2"}, "the pair 'pair' is kimi_k2's, and the model is moe; use"),
    ({"cluster__nodes": 0}, "cluster.nodes=0: must be 1 or more"),
    ({"cluster__ranks_per_node": 0}, "cluster.ranks_per_node=0: must be 1 or more"),
    ({"model__num_layers": 0}, "model.num_layers=0: must be 1 or more"),
    ({"model__num_attention_heads": 0}, "model.num_attention_heads=0: must be 1 or more"),
    ({"model__num_moe_experts": 0}, "model.num_moe_experts=0: must be 1 or more"),
    ({"model__vocab_size": -5}, "model.vocab_size=-5: must be 1 or more"),
    ({"model__normalization": "BatchNorm"}, "is not one of LayerNorm, RMSNorm"),
    (
        {"model__position_embedding_type": "alibi"},
        "is not one of learned_absolute, rope, yarn, none",
    ),
    ({"model__activation_func": "swiglu"}, "is not one of gelu, silu, quick_gelu"),
    ({"model__softmax_type": "sink"}, "is not one of vanilla, off-by-one, learnable"),
    ({"model__rope_type": "llama"}, "is not one of yarn, rope"),
    ({"model__rotary_scaling_factor": 0.0}, "model.rotary_scaling_factor=0.0: must be more than 0"),
    ({"model__activation_func_clamp_value": -7.0}, "=-7.0: must be more than 0"),
    ({"model__window_size": 128}, "model.window_size=128 is not a list of two whole numbers"),
    ({"model__window_size": [-2, 0]}, "model.window_size=[-2, 0] is not a list of two"),
    ({"model__window_attn_skip_freq": 2}, "skips windows, and model.window_size is null"),
    (
        {"model__window_size": [128, 0], "model__window_attn_skip_freq": [1, 0]},
        "window_attn_skip_freq lists 2 layers, the model has 4",
    ),
    (
        {"model__window_size": [128, 0], "model__window_attn_skip_freq": 0},
        "window_attn_skip_freq=0 is not a positive whole number or a list",
    ),
    ({"model__moe_token_dispatcher_type": "a2a"}, "is not one of allgather, alltoall, flex"),
    ({"model__moe_flex_dispatcher_backend": "x"}, "is not one of deepep, hybridep"),
    ({"model__moe_token_drop_policy": "last"}, "is not one of probs, position"),
    ({"model__moe_router_score_function": "relu"}, "is not one of softmax, sigmoid"),
    ({"model__moe_router_dtype": "fp16"}, "is not one of null, fp32, fp64"),
    (
        {"model__moe_router_load_balancing_type": "aux_los"},
        "moe_router_load_balancing_type=aux_los is not one of aux_loss, seq_aux_loss,"
        " global_aux_loss, sinkhorn, none; did you mean aux_loss?",
    ),
    (
        {
            "model__moe_router_load_balancing_type": ["aux_loss", "sinkhorn"],
            "model__moe_aux_loss_coeff": [0.1, 0.1],
        },
        "sinkhorn is no loss",
    ),
    (
        {"model__moe_router_load_balancing_type": ["aux_loss", "seq_aux_loss"]},
        "model.moe_aux_loss_coeff=0.0 must be a list of 2 numbers",
    ),
    ({"model__moe_aux_loss_coeff": [0.1, 0.2]}, "must be a list of 2 names; it is aux_loss"),
    ({"model__moe_aux_loss_coeff": "1e-2x"}, "is not a number or a list of numbers"),
    # model
    ({"build": "shards", "verify": "logits"}, "verify=logits needs a forward pass, build=shards"),
    ({"model__num_attention_heads": 6}, "hidden_size=1024 does not divide by"),
    ({"model__num_query_groups": 3}, "does not divide by model.num_query_groups=3"),
    ({"model__seq_length": 8192}, "seq_length=8192 is longer than"),
    ({"model__moe_layer_freq": [1, 0]}, "moe_layer_freq lists 2 layers, the model has 4"),
    (
        {"model__multi_latent_attention": True, "model__position_embedding_type": "yarn"},
        "say rope, and model.rope_type=yarn",
    ),
    (
        {"model__moe_layer_freq": "([0]*1+[1]*60)"},
        "lists 61 layers, the model has 4; its first 4 are model.moe_layer_freq=[0,1,1,1]",
    ),
    (
        {"model__moe_layer_freq": "([0]*1+[1]*60)", "model__num_layers": 20},
        "its first 20 are model.moe_layer_freq='[0]*1+[1]*19'",
    ),
    ({"model__moe_layer_freq": 0}, "moe_layer_freq=0"),
    ({"model__moe_router_topk": 17}, "moe_router_topk=17 is more than model.num_moe_experts=16"),
    ({"model__moe_router_topk": 1}, "moe_router_topk=1 needs model.moe_router_pre_softmax=true"),
    ({"model__moe_router_enable_expert_bias": True}, "moe_router_score_function=sigmoid, which is"),
    ({"model__add_bias_linear": True}, "a shared expert"),
    (
        {"model__moe_shared_expert_overlap": True},
        f"{versions.VERSION}; it is allgather",
    ),
    (
        {
            "model__moe_expert_capacity_factor": 1.0,
            "model__moe_router_load_balancing_type": "sinkhorn",
        },
        "moe_expert_capacity_factor=1.0 does not work with sinkhorn",
    ),
    ({"model__moe_pad_expert_input_to_capacity": True}, "which is null"),
    (
        {
            "model__moe_pad_expert_input_to_capacity": True,
            "model__moe_expert_capacity_factor": -1.0,
        },
        "which is -1.0",
    ),
    (
        {
            "model__moe_pad_expert_input_to_capacity": True,
            "model__moe_expert_capacity_factor": 1.0,
            "model__moe_token_dispatcher_type": "flex",
        },
        "flex dispatcher on deepep",
    ),
    ({"model__moe_router_group_topk": 2}, "moe_router_group_topk=2 needs"),
    (
        {"model__moe_router_group_topk": 2, "model__moe_router_num_groups": 3},
        "num_moe_experts=16 does not divide into model.moe_router_num_groups=3",
    ),
    (
        {"model__moe_router_group_topk": 5, "model__moe_router_num_groups": 4},
        "moe_router_group_topk=5 is more than model.moe_router_num_groups=4",
    ),
    (
        {
            "verify": "logits",
            "model__moe_router_load_balancing_type": "sinkhorn",
            "model__moe_aux_loss_coeff": 0.01,
        },
        "set model.moe_aux_loss_coeff=0, which is 0.01",
    ),
    (
        {"model__num_moe_experts": None, "parallel__source__ep": 1},
        "moe_shared_expert_intermediate_size=512 needs experts",
    ),
    # layouts and the machine
    ({"parallel__source__tp": 0}, "parallel.source: tp=0: a parallel degree must be 1 or more"),
    ({"parallel__source__gpus": 5}, "the smallest that works is 2"),
    ({"parallel__source__ep": 3}, "16 does not divide by parallel.source.ep=3; the next"),
    ({"parallel__source__tp": 3, "parallel__source__ep": 1}, "heads=8 does not divide by"),
    (
        {
            "model__num_attention_heads": 24,
            "model__kv_channels": 8,
            "model__num_query_groups": 3,
        },
        "num_query_groups=3 is neither a multiple nor a divisor of parallel.source.tp=2",
    ),
    ({"model__ffn_hidden_size": 2689, "parallel__source__etp": 2}, "moe_ffn_hidden_size=2689"),
    (
        {"model__ffn_hidden_size": 2689, "model__moe_layer_freq": 2},
        "model.ffn_hidden_size=2689 does not divide by parallel.source.tp=2",
    ),
    (
        {"model__moe_shared_expert_intermediate_size": 511},
        "moe_shared_expert_intermediate_size=511 does not divide by parallel.source.tp=2",
    ),
    (
        {
            "model__make_vocab_size_divisible_by": 1,
            "model__vocab_size": 50258,
            "parallel__destination__tp": 4,
        },
        "50258 padded to 50258 (a multiple of 1 * source tp 2), does not divide by"
        " parallel.destination.tp=4",
    ),
    ({"parallel__source__pp": 3, "parallel__source__ep": 1}, "parallel.source: 4 layers do not"),
    ({"refit__method": "glo"}, "package.module:Class; did you mean gloo?"),
    (
        {"parallel__destination__pp": 8, "parallel__destination__tp": 1},
        "parallel.destination: 4 layers do not divide among 8 pipeline stages",
    ),
    (
        {
            "parallel__source__pp": 2,
            "parallel__source__ep": 1,
            "parallel__source__num_layers_in_last_pipeline_stage": 4,
        },
        "0 layers after 4 in the fixed first/last stages",
    ),
]


@pytest.mark.parametrize(("changes", "text"), BAD, ids=[text[:48] for _, text in BAD])
def test_fires(changes: dict[str, Any], text: str) -> None:
    found = reasons(make_job(**changes))
    assert any(text in reason for reason in found), found
    assert impossible(make_job(**changes)) == found[0]


GOOD: list[dict[str, Any]] = [
    {},
    {"verify": "logits"},
    {"build": "shards"},
    {"model__moe_grouped_gemm": True},
    {"model__moe_token_dropping": True},  # Megatron 0.16.1 accepts and ignores it
    {"model__moe_router_topk": 1, "model__moe_router_pre_softmax": True},
    {"model__moe_router_topk": 1, "model__moe_router_score_function": "sigmoid"},
    {"model__moe_router_load_balancing_type": "sinkhorn"},
    {"model__moe_router_load_balancing_type": "none"},
    {
        "model__moe_router_load_balancing_type": ["seq_aux_loss", "global_aux_loss"],
        "model__moe_aux_loss_coeff": [1e-2, 1],
    },
    {"model__moe_z_loss_coeff": 1e-3, "model__moe_input_jitter_eps": 1e-2},
    {
        "model__moe_expert_capacity_factor": 1.0,
        "model__moe_pad_expert_input_to_capacity": True,
        "model__moe_token_drop_policy": "position",
        "model__moe_token_dispatcher_type": "alltoall",
        "model__moe_shared_expert_overlap": True,
    },
    {"model__moe_router_group_topk": 2, "model__moe_router_num_groups": 4},
    {"model__moe_layer_freq": "([0]*1+[1]*3)"},
    {"model__softmax_type": "learnable", "model__position_embedding_type": "yarn"},
    {"model__window_size": [128, -1], "model__window_attn_skip_freq": 2},
    {"model__window_size": [128, 0], "model__window_attn_skip_freq": [1, 0, 1, 0]},
    {"model__num_query_groups": 2},
    {"model__num_query_groups": 1, "parallel__source__tp": 4, "parallel__source__ep": 1},
    {"parallel__source__pp": 2, "parallel__source__ep": 1},
    {
        "parallel__source__pp": 2,
        "parallel__source__ep": 1,
        "parallel__source__num_layers_in_last_pipeline_stage": 1,
    },
    {"parallel__source__etp": 2, "parallel__destination__etp": 2},
    {"parallel__source__gpus": 6, "parallel__source__ep": 1},
]


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_lets_pass(changes: dict[str, Any]) -> None:
    assert reasons(make_job(**changes)) == []


MISTAKEN: list[tuple[dict[str, Any], str]] = [
    ({"build": "megatorn"}, "build=megatorn is not one of megatron, shards"),
    ({"refit__method": "glo"}, "no refit method 'glo'"),
    ({"sweep__mode": "again"}, "sweep.mode=again is not one of"),
    ({"sweep__pack": 0}, "sweep.pack=0: must be 1 or more"),
    ({"sweep__repeat": 0}, "sweep.repeat=0: must be 1 or more"),
    ({"sweep__repetition": 0}, "sweep.repetition=0: must be 1 or more"),
    ({"sweep__max_attempts": 0}, "sweep.max_attempts=0: must be 1 or more"),
    ({"sweep__exclude": "*gloo*"}, "sweep.exclude=*gloo* is not a list of patterns"),
]


@pytest.mark.parametrize(("changes", "says"), MISTAKEN, ids=str)
def test_a_mistake_of_the_command_line_is_no_point(changes: dict[str, Any], says: str) -> None:
    # also of a job that has other reasons, which are a point's
    for more in ({}, {"model__num_layers": 0}, {"parallel__source": {"tp": 64}}):
        reason = mistake(make_job(**{**more, **changes}))
        assert reason is not None and says in reason


def test_what_a_point_cannot_be_is_no_mistake() -> None:
    for changes in (
        {},
        {"model__num_layers": 0},
        {"bench__iterations": 0},
        {"cluster__nodes": 0},
        {"parallel__source": {"tp": 64}},
        {"refit__method": "nomod:Cls"},
    ):
        assert mistake(make_job(**changes)) is None


def test_every_rule_has_a_case() -> None:
    fired = set()
    for changes, _ in BAD + REFERENCE_BAD:
        job = make_job(**changes)
        for rule in (*VALUES, *MODEL):
            fired |= {rule.__name__} if _answer(rule, job) else set()
        if not any(_answer(rule, job) for rule in VALUES):
            try:
                placement = place(job)
            except ValueError:
                continue
            fired |= {rule.__name__ for rule in LAYOUT if _answer(rule, job, placement)}
    wanted = {rule.__name__ for rule in (*VALUES, *MODEL, *LAYOUT)}
    # these two have tests of their own below
    assert wanted - fired == {"latent_ranks_divide", "fused_permute_installed"}


def _answer(rule: Any, *args: Any) -> str | None:
    try:
        answer: str | None = rule(*args)
        return answer
    except (ValueError, ZeroDivisionError) as error:
        return str(error)


# reference documents, expert tensor parallelism ---------------------------------------------

NO_SHARED = {"model__moe_shared_expert_intermediate_size": None}
BIASED = {**NO_SHARED, "model__add_bias_linear": True}
NO_ETP = {"parallel__source__etp": None, "parallel__destination__etp": None}
TP1 = {"parallel__source__tp": 1, "parallel__destination__tp": 1}
DENSE = {
    **NO_SHARED,
    "model__num_moe_experts": None,
    "parallel__source__ep": 1,
}
ASSERTION = "Bias in Moe is only supported when ETP==1"
# "This Fails": TP=2, EP=2, 16 experts, no ETP, no --disable-bias-linear
FAILS = {**BIASED, **NO_ETP}
REFERENCE_BAD: list[tuple[dict[str, Any], str]] = [
    (FAILS, ASSERTION),
    ({**DENSE, "parallel__source__ep": 2}, "needs experts"),
    ({"parallel__source__tp": 8, "parallel__source__ep": 1, "parallel__destination__tp": 4}, "12"),
]


def test_documented_failing_example() -> None:
    assert impossible(make_job(**FAILS)) == (
        f"{ASSERTION}: parallel.source.etp=2, by default tp=2, with"
        " model.add_bias_linear=true; set parallel.source.etp=1 (experts stay whole), or"
        " model.add_bias_linear=false"
    )


def test_documented_working_example() -> None:
    # "This Works": TP=2, EP=2, ETP=1, 16 experts, bias disabled
    assert impossible(make_job(parallel__source__etp=1, model__add_bias_linear=False)) is None


def test_documented_alternative_without_moe() -> None:
    assert impossible(make_job(**DENSE, **NO_ETP, model__add_bias_linear=True)) is None


@pytest.mark.parametrize(
    ("scenario", "changes", "possible"),
    [
        ("MoE, TP > 1, no flags", FAILS, False),
        ("MoE, TP > 1, both flags", {}, True),
        ("MoE, TP > 1, ETP=1 alone", BIASED, True),
        ("MoE, TP > 1, bias disabled alone", {**NO_SHARED, **NO_ETP}, True),
        ("MoE, TP = 1, no flags", {**BIASED, **NO_ETP, **TP1}, True),
        ("no MoE, no flags", {**DENSE, **NO_ETP, "model__add_bias_linear": True}, True),
        ("Kimi K2: 384 experts, both flags", {"model__num_moe_experts": 384}, True),
        ("Kimi K2, no flags", {**FAILS, "model__num_moe_experts": 384}, False),
    ],
)
def test_documented_quick_reference(scenario: str, changes: dict[str, Any], possible: bool) -> None:
    reason = impossible(make_job(**changes))
    assert (reason is None) is possible, (scenario, reason)
    assert reason is None or ASSERTION in reason


@pytest.mark.parametrize("source_etp", [None, 1, 2])
@pytest.mark.parametrize("destination_etp", [None, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_documented_verification_formula(
    source_etp: int | None, destination_etp: int | None, bias: bool
) -> None:
    """`ETP == 1 OR bias_disabled`, on both sides; ETP defaults to TP, at the destination to the
    source's ETP."""
    training = 2 if source_etp is None else source_etp
    inference = training if destination_etp is None else destination_etp
    works = not bias or (training == 1 and inference == 1)
    reason = impossible(
        make_job(
            **NO_SHARED,
            model__add_bias_linear=bias,
            parallel__source__etp=source_etp,
            parallel__destination__etp=destination_etp,
        )
    )
    assert (reason is None) is works
    if reason and training == 1:
        assert "parallel.destination.etp=2" in reason


# reference documents, GPUs needed -----------------------------------------------------------

TP8_TO_TP4 = {
    "parallel__source__tp": 8,
    "parallel__source__ep": 1,
    "parallel__destination__tp": 4,
    "parallel__destination__ep": 1,
}


def test_documented_pitfall() -> None:
    assert impossible(make_job(**TP8_TO_TP4)) == (
        "needs 12 GPUs (source 8 + destination 4), cluster 'local' has 8;"
        " use collocated mode (needs 8) or smaller degrees"
    )


def test_documented_pitfall_ways_out() -> None:
    fixed = {**TP8_TO_TP4, "parallel__source__tp": 4, "parallel__destination__tp": 2}
    assert impossible(make_job(**fixed)) is None
    assert impossible(make_job(**TP8_TO_TP4, refit__mode="collocated")) is None
    assert impossible(make_job(**TP8_TO_TP4, cluster__nodes=2)) is None


def test_too_many_gpus_where_collocated_is_no_way_out() -> None:
    changes = {"parallel__source__tp": 8, "parallel__source__ep": 2}
    assert impossible(make_job(**changes)) == (
        "needs 18 GPUs (source 16 + destination 2), cluster 'local' has 8;"
        " use smaller degrees or a larger cluster"
    )
    assert impossible(make_job(**changes, refit__mode="collocated")) == (
        "needs 16 GPUs (max(source 16, destination 2)), cluster 'local' has 8;"
        " use smaller degrees or a larger cluster"
    )


# what depends on the installation -----------------------------------------------------------


@pytest.mark.parametrize("engine", [False, True])
def test_latent_ranks(engine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refit.model.convention.has_transformer_engine", lambda: engine)
    latent = {"model__multi_latent_attention": True, "model__q_lora_rank": 1535}
    reason = impossible(make_job(**latent))
    if engine:
        assert reason is None
    else:
        assert reason is not None
        assert "model.q_lora_rank=1535 does not divide by parallel.source.tp=2" in reason
    assert impossible(make_job(**latent, build="shards")) is None


def test_fused_permute_needs_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = make_job(model__moe_permute_fusion=True)
    monkeypatch.setattr("refit.rules.model.find_spec", lambda name: None)
    assert "needs Transformer Engine" in (impossible(fused) or "")
    monkeypatch.setattr("refit.rules.model.find_spec", lambda name: object())
    assert impossible(fused) is None


def test_net_names_side_and_tensor() -> None:
    job = make_job(model__moe_shared_expert_intermediate_size=511)
    reason = cut_axes_divide(job, place(job))
    assert reason is not None
    assert reason.startswith(
        "parallel.source (TP=2, PP=1, EP=2): decoder.layers.{layer}.mlp.shared"
    )


def test_several_reasons_are_all_told() -> None:
    found = reasons(make_job(**TP8_TO_TP4, model__moe_router_topk=1))
    assert len(found) == 2
    assert found[0].startswith("model.moe_router_topk=1") and found[1].startswith("needs 12 GPUs")


def test_logits_are_refused_with_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    what = make_job(verify="logits")
    monkeypatch.setattr("refit.rules.model.has_transformer_engine", lambda: False)
    assert impossible(what) is None
    monkeypatch.setattr("refit.rules.model.has_transformer_engine", lambda: True)
    assert "use verify=bits, which is the stronger check" in str(impossible(what))
    assert impossible(make_job()) is None


def test_rules_do_not_import_torch() -> None:
    code = (
        "import sys; from tests.unit.jobs import make_job;"
        "from refit.rules.impossible import impossible;"
        "impossible(make_job()); print('torch' in sys.modules or 'megatron' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
