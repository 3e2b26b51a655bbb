"""What makes each rule fire and what the reason then says; and jobs that pass all of them."""

from __future__ import annotations

from typing import Any

from refit.layout.place import place
from refit.model import megatron_versions as versions
from refit.rules.bounds import (
    amounts_positive,
    counts_within,
    numbers_are_finite,
    sides_within,
    sweep_counts_large_enough,
    weights_countable,
)
from refit.rules.divides import (
    cut_axes_divide,
    experts_divide,
    heads_divide,
    latent_groups_divide,
    latent_ranks_divide,
    layers_divide,
    query_groups_divide,
    vocabulary_divides,
    widths_divide,
)
from refit.rules.families import (
    kinds_agree,
    megatron_builds_it,
    more_tokens_are_looked_at,
    published_parameters_match,
    variant_is_whole,
)
from refit.rules.layout import (
    ep_needs_experts,
    expert_bias_needs_etp_1,
    experts_have_slots,
    only_a_destination_unties,
    order_has_one_pipeline,
    padding_is_there,
    pair_of_another_model,
    patterns_meet_tensors,
    said_of_sides_matters,
    too_many_gpus,
)
from refit.rules.model import (
    capacity_needs_aux_loss,
    deepep_does_not_pad,
    expert_bias_needs_sigmoid,
    expert_fields_need_experts,
    fused_permute_installed,
    groups_share_heads,
    head_size_whole,
    latent_yarn_by_rope_type,
    layer_pattern_valid,
    logits_need_float64,
    padding_needs_capacity,
    positions_cover_sequence,
    routing_groups_valid,
    shared_expert_without_bias,
    shared_overlap_needs_its_dispatchers,
    sinkhorn_without_loss,
    topk_one_needs_pre_softmax,
    topk_within_experts,
)
from refit.rules.names import are_parts_of_a_path
from refit.rules.stated_memory import weights_fit
from refit.rules.values import (
    balancing_known,
    coefficients_match,
    env_is_a_mapping,
    exclude_is_a_list,
    known_words,
    lora_valid,
    method_known,
    patterns_are_lists,
    rates_positive,
    windows_valid,
)

NO_SHARED = {"model__moe_shared_expert_intermediate_size": None}
BIASED = {**NO_SHARED, "model__add_bias_linear": True}
DENSE = {**NO_SHARED, "model__num_moe_experts": None, "parallel__source__ep": 1}
LATENT = {"model__multi_latent_attention": True}
PLANNED = {"mode": "plan"}
DELTA = {
    "model__experimental_attention_variant": "gated_delta_net",
    "model__linear_attention_freq": 4,
}
HYBRID = {"model__hybrid_override_pattern": "M*-E"}
DSA = {
    "model__experimental_attention_variant": "dsa",
    "model__dsa_indexer_n_heads": 4,
    "model__dsa_indexer_head_dim": 8,
    "model__dsa_indexer_topk": 2,
}

Case = tuple[dict[str, Any], str]

# rule: (changes of a possible job that make it fire, what its reason must say); without
# Transformer Engine
BAD: dict[Any, list[Case]] = {
    known_words: [
        ({"mode": "paln"}, "mode=paln is not one of measure, plan; did you mean plan?"),
        ({"build": "megatorn"}, "build=megatorn is not one of megatron, shards; did you mean meg"),
        ({"verify": "hash"}, "verify=hash is not one of bits, logits"),
        (
            {"sweep__mode": "again"},
            "sweep.mode=again is not one of retry, cached, force, read-only",
        ),
        ({"refit__mode": "colocated"}, "did you mean collocated?"),
        ({"parallel__mode": "auto"}, "parallel.mode=auto is not one of collocated, non-collocated"),
        (
            {"cluster__hardware__device": "tpu"},
            "cluster.hardware.device=tpu is not one of cuda, cpu",
        ),
        ({"refit__fanout": "tree"}, "refit.fanout=tree is not one of direct, hierarchical"),
        ({"model__normalization": "BatchNorm"}, "is not one of LayerNorm, RMSNorm"),
        (
            {"model__position_embedding_type": "alibi"},
            "is not one of learned_absolute, rope, yarn, none",
        ),
        ({"model__activation_func": "swiglu"}, "is not one of gelu, silu, quick_gelu"),
        ({"model__softmax_type": "sink"}, "is not one of vanilla, off-by-one, learnable"),
        ({"model__rope_type": "llama"}, "is not one of yarn, rope"),
        ({"model__moe_token_dispatcher_type": "a2a"}, "is not one of allgather, alltoall, flex"),
        ({"model__moe_flex_dispatcher_backend": "x"}, "is not one of deepep, hybridep"),
        ({"model__moe_token_drop_policy": "last"}, "is not one of probs, position"),
        ({"model__moe_router_score_function": "relu"}, "is not one of softmax, sigmoid"),
        ({"model__moe_router_dtype": "fp16"}, "is not one of null, fp32, fp64"),
    ],
    method_known: [
        ({"refit__method": "glo"}, "package.module:Class; did you mean gloo?"),
    ],
    sweep_counts_large_enough: [
        ({"sweep__repeat": 0}, "sweep.repeat=0: must be 1 or more"),
    ],
    exclude_is_a_list: [
        ({"sweep__exclude": "*gloo*"}, "sweep.exclude=*gloo* is not a list of patterns"),
    ],
    patterns_are_lists: [
        ({"refit__include": "*"}, "refit.include=* is not a list of patterns"),
        ({"refit__exclude": [3]}, "refit.exclude=[3] is not a list of patterns"),
    ],
    counts_within: [
        ({"bench__iterations": 0}, "bench.iterations=0: must be 1 or more"),
        ({"bench__warmup": -1}, "bench.warmup=-1: must be 0 or more"),
        ({"refit__in_flight": 0}, "refit.in_flight=0: must be 1 or more"),
        ({"cluster__nodes": 0}, "cluster.nodes=0: must be 1 or more"),
        ({"cluster__ranks_per_node": 0}, "cluster.ranks_per_node=0: must be 1 or more"),
        ({"model__num_layers": 0}, "model.num_layers=0: must be 1 or more"),
        ({"model__num_attention_heads": 0}, "model.num_attention_heads=0: must be 1 or more"),
        ({"model__num_moe_experts": 0}, "model.num_moe_experts=0: must be 1 or more"),
        ({"model__vocab_size": -5}, "model.vocab_size=-5: must be 1 or more"),
    ],
    amounts_positive: [
        ({"bench__deadline_s": 0.0}, "bench.deadline_s=0.0: must be more than 0"),
        ({"bench__deadline_s": float("nan")}, "bench.deadline_s=nan: must be more than 0"),
        ({"refit__bucket_mb": -1.0}, "refit.bucket_mb=-1.0: must be more than 0"),
        (
            {"model__rotary_scaling_factor": 0.0},
            "model.rotary_scaling_factor=0.0: must be more than 0",
        ),
        ({"model__activation_func_clamp_value": -7.0}, "=-7.0: must be more than 0"),
        ({"bench__deadline_s": float("inf")}, "bench.deadline_s=inf: must be 1e+06 or less"),
    ],
    are_parts_of_a_path: [
        (
            {"parallel__name": "../x"},
            "parallel.name='../x': a name is a part of a folder's name: 1",
        ),
        ({"model__name": ""}, "model.name='': a name is"),
        ({"cluster__name": "a\x1b[31m"}, "cluster.name='a\\x1b[31m': a name is"),
        ({"refit__name": "x" * 81}, f"refit.name='{'x' * 80}...': a name is"),
        ({"parallel__name": ".."}, "without a slash or spaces around it, and not . or .."),
        # a name made of what its sides are may be twice as long, and no other
        (
            {"parallel__use_case": "from 1 to 2", "parallel__name": "x" * 161},
            f"parallel.name='{'x' * 80}...': a name is",
        ),
        (
            {"parallel__use_case": "from 1 to 2", "model__name": "x" * 81},
            f"model.name='{'x' * 80}...': a name is",
        ),
    ],
    sides_within: [
        ({"parallel__source__tp": 10**7}, "parallel.source.tp=10000000: must be 262144 or less"),
        ({"parallel__destination__ep": -2}, "parallel.destination: ep=-2: a parallel degree must"),
        ({"parallel__nodes": 10**7}, "parallel.nodes=10000000: must be 262144 or less"),
    ],
    numbers_are_finite: [
        ({"model__mscale": float("nan")}, "model.mscale=nan: must be a number from -1e+12 to"),
    ],
    weights_countable: [
        ({"model__num_moe_experts": 262_144}, "are 1048576 experts, and 262144 at most can be"),
    ],
    rates_positive: [
        (
            {"cluster__hardware__nic_gbps": 0.0},
            "cluster.hardware.nic_gbps=0.0: must be more than 0",
        ),
        (
            {"cluster__hardware__nic_efficiency": 1.2},
            "nic_efficiency=1.2: must be more than 0, and 1",
        ),
        ({"cluster__hardware__latency_us": -1.0}, "cluster.hardware.latency_us=-1.0: must be 0 or"),
        ({"cluster__hardware__fitted": 3}, "cluster.hardware.fitted=3 is not a mapping of methods"),
        (
            {"cluster__hardware__fitted": {"ipc": {"speed": 1}}},
            "allowed: wire, latency_us, staging",
        ),
        ({"cluster__hardware__fitted": {"ipc": {"wire": 0.5}}}, "ipc.wire=0.5: must be 1 or more"),
    ],
    env_is_a_mapping: [
        ({"cluster__env": "A=1"}, "cluster.env='A=1' is not a mapping of environment variables"),
        ({"cluster__env": {"A B": 1}}, "cluster.env: 'A B' is no name of an environment variable"),
        ({"cluster__env": {"A": None}}, "cluster.env.A=None is not a text or a number; quote it"),
        ({"cluster__env": {"A": True}}, "cluster.env.A=True is not a text or a number; quote it"),
        (
            {"cluster__env": {"CUDA_VISIBLE_DEVICES": "0"}},
            "cluster.env.CUDA_VISIBLE_DEVICES=0: a rank sets that itself (empty on CPUs, and on",
        ),
        ({"cluster__env": {"OMP_NUM_THREADS": 4}}, "a rank sets that itself (a node's ranks"),
        ({"cluster__env": {"GLIBC_TUNABLES": "glibc.a=1"}}, "ranks are forked: set it in the"),
    ],
    windows_valid: [
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
        (
            {"model__window_size": [128, 0], "model__window_attn_skip_freq": [1, 0, 2, 1]},
            "window_attn_skip_freq=[1, 0, 2, 1] is not a positive whole number or a list",
        ),
    ],
    balancing_known: [
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
    ],
    coefficients_match: [
        (
            {"model__moe_router_load_balancing_type": ["aux_loss", "seq_aux_loss"]},
            "model.moe_aux_loss_coeff=0.0 must be a list of 2 numbers",
        ),
        ({"model__moe_aux_loss_coeff": [0.1, 0.2]}, "must be a list of 2 names; it is aux_loss"),
        ({"model__moe_aux_loss_coeff": "1e-2x"}, "is not a number or a list of numbers"),
    ],
    logits_need_float64: [
        (
            {"build": "shards", "verify": "logits"},
            "verify=logits needs a forward pass, build=shards",
        ),
        (
            {"verify": "logits", "refit__exclude": ["*router*"]},
            "verify=logits compares whole models, and refit.include and exclude leave tensors out",
        ),
        (
            {"verify": "logits", "parallel__source": {"kind": "fsdp", "shard": 2}},
            "verify=logits needs a forward pass, and parallel.source.kind=fsdp has plain shards",
        ),
        (
            {"verify": "logits", "parallel__source__dtype": "float32"},
            "sides of different dtypes round their weights apart; use verify=bits",
        ),
    ],
    lora_valid: [
        ({"model__lora": {"rank": 8}}, "does not say rank and targets, as model.lora={rank:32,"),
        ({"model__lora": 8}, "model.lora=8 does not say rank and targets"),
        ({"model__lora": {"rank": 0, "targets": ["linear_qkv"]}}, "model.lora.rank=0: must be"),
        ({"model__lora": {"rank": 1e9, "targets": ["linear_qkv"]}}, "must be a whole number from"),
        ({"model__lora": {"rank": 8, "targets": ["lm_head"]}}, "is not a list of some of linear_"),
        ({"model__lora": {"rank": 8, "targets": []}}, "model.lora.targets=[] is not a list of"),
        (
            {"model__lora": {"rank": 8, "targets": ["linear_fc1", "linear_fc1"]}},
            "is not a list of some of linear_qkv",
        ),
        ({"model__lora": {"rank": 8, "targets": ["linear_fc2"]}}, "use build=shards"),
    ],
    head_size_whole: [
        ({"model__num_attention_heads": 6}, "hidden_size=1024 does not divide by"),
    ],
    groups_share_heads: [
        ({"model__num_query_groups": 3}, "does not divide by model.num_query_groups=3"),
    ],
    positions_cover_sequence: [
        ({"model__seq_length": 8192}, "seq_length=8192 is longer than"),
    ],
    latent_yarn_by_rope_type: [
        (
            {"model__multi_latent_attention": True, "model__position_embedding_type": "yarn"},
            "say rope, and model.rope_type=yarn",
        ),
    ],
    expert_fields_need_experts: [
        (
            {"model__num_moe_experts": None, "parallel__source__ep": 1},
            "moe_shared_expert_intermediate_size=512 needs experts",
        ),
        ({**DENSE, "model__moe_ffn_hidden_size": 64}, "model.moe_ffn_hidden_size=64 needs experts"),
        (
            {**DENSE, "model__moe_router_group_topk": 2},
            "model.moe_router_group_topk=2 needs experts",
        ),
        (
            {**DENSE, "model__moe_router_enable_expert_bias": True},
            "or model.moe_router_enable_expert_bias=false",
        ),
    ],
    layer_pattern_valid: [
        ({"model__moe_layer_freq": [1, 0]}, "moe_layer_freq lists 2 layers, the model has 4"),
        (
            {"model__moe_layer_freq": "([0]*1+[1]*60)"},
            "lists 61 layers, the model has 4; its first 4 are model.moe_layer_freq=[0,1,1,1]",
        ),
        (
            {"model__moe_layer_freq": "([0]*1+[1]*60)", "model__num_layers": 20},
            "its first 20 are model.moe_layer_freq='[0]*1+[1]*19'",
        ),
        ({"model__moe_layer_freq": 0}, "moe_layer_freq=0"),
    ],
    topk_within_experts: [
        (
            {"model__moe_router_topk": 17},
            "moe_router_topk=17 is more than model.num_moe_experts=16",
        ),
    ],
    topk_one_needs_pre_softmax: [
        (
            {"model__moe_router_topk": 1},
            "moe_router_topk=1 needs model.moe_router_pre_softmax=true",
        ),
    ],
    expert_bias_needs_sigmoid: [
        (
            {"model__moe_router_enable_expert_bias": True},
            "moe_router_score_function=sigmoid, which is",
        ),
    ],
    variant_is_whole: [
        (
            {"model__linear_attention_freq": 4},
            "is of model.experimental_attention_variant=gated_delta_net, which is null",
        ),
        ({**PLANNED, "model__experimental_attention_variant": "gated_delta_net"}, "_freq; set it"),
        ({**PLANNED, **DELTA, "model__linear_num_value_heads": 40}, "=40 is no multiple of"),
        ({**PLANNED, **DELTA, "model__linear_attention_freq": [1, 0]}, "a list of 4 times 0 or 1"),
        ({**PLANNED, **LATENT, **DSA, "model__dsa_indexer_n_heads": None}, "needs model.dsa_inde"),
    ],
    kinds_agree: [
        (
            {**PLANNED, **LATENT, "model__attention_output_gate": True},
            "attention_output_gate=true needs model.multi_latent_attention=false",
        ),
        ({**PLANNED, "model__qk_layernorm_over_heads": True}, "needs model.qk_layernorm=true"),
        ({**PLANNED, "model__add_norm_bias": False}, "is RMSNorm, which has no bias"),
        ({**PLANNED, **DSA}, "dsa needs model.multi_latent_attention=true"),
        ({**PLANNED, **HYBRID, "model__mtp_num_layers": 1}, "pattern and model.mtp_num_layers=1"),
        ({**PLANNED, "model__hybrid_override_pattern": "M*x-"}, "has 'x'; letters are M for"),
        ({**PLANNED, "model__hybrid_override_pattern": "M*"}, "has 2 layers, the model has 4"),
        ({**PLANNED, **HYBRID, **DENSE}, "has E, and model.num_moe_experts is null"),
    ],
    megatron_builds_it: [
        ({"model__post_layernorm": True}, "has no norms behind attention and the MLP; use build="),
        (HYBRID, "=M*-E: megatron-core builds Mamba's layers by Transformer Engine on GPUs alone"),
        (DELTA, "=gated_delta_net: megatron-core builds it by Transformer Engine on GPUs alone"),
        (
            {"model__normalization": "LayerNorm", "model__add_norm_bias": False},
            "add_norm_bias=false: megatron-core has a bias in LayerNorm; use build=shards",
        ),
        ({**PLANNED, **HYBRID, "refit__method": "megatron"}, "GPUs alone; use another method"),
    ],
    more_tokens_are_looked_at: [
        ({"model__mtp_num_layers": 1, "verify": "logits"}, "=1: verify=logits compares no pred"),
        ({"model__mtp_num_layers": 1, "refit__method": "megatron"}, "use another method"),
    ],
    published_parameters_match: [
        ({"model__published_parameters": 7}, "is published with 7: "),
    ],
    shared_expert_without_bias: [
        ({"model__add_bias_linear": True}, "a shared expert"),
    ],
    shared_overlap_needs_its_dispatchers: [
        ({"model__moe_shared_expert_overlap": True}, f"{versions.VERSION}; it is allgather"),
    ],
    capacity_needs_aux_loss: [
        (
            {
                "model__moe_expert_capacity_factor": 1.0,
                "model__moe_router_load_balancing_type": "sinkhorn",
            },
            "moe_expert_capacity_factor=1.0 does not work with sinkhorn",
        ),
    ],
    padding_needs_capacity: [
        ({"model__moe_pad_expert_input_to_capacity": True}, "which is null"),
        (
            {
                "model__moe_pad_expert_input_to_capacity": True,
                "model__moe_expert_capacity_factor": -1.0,
            },
            "which is -1.0",
        ),
    ],
    deepep_does_not_pad: [
        (
            {
                "model__moe_pad_expert_input_to_capacity": True,
                "model__moe_expert_capacity_factor": 1.0,
                "model__moe_token_dispatcher_type": "flex",
            },
            "flex dispatcher on deepep",
        ),
    ],
    routing_groups_valid: [
        ({"model__moe_router_group_topk": 2}, "moe_router_group_topk=2 needs"),
        (
            {"model__moe_router_group_topk": 2, "model__moe_router_num_groups": 3},
            "num_moe_experts=16 does not divide into model.moe_router_num_groups=3",
        ),
        (
            {"model__moe_router_group_topk": 5, "model__moe_router_num_groups": 4},
            "moe_router_group_topk=5 is more than model.moe_router_num_groups=4",
        ),
    ],
    sinkhorn_without_loss: [
        (
            {
                "verify": "logits",
                "model__moe_router_load_balancing_type": "sinkhorn",
                "model__moe_aux_loss_coeff": 0.01,
            },
            "set model.moe_aux_loss_coeff=0, which is 0.01",
        ),
    ],
    fused_permute_installed: [
        (
            {"model__moe_permute_fusion": True},
            "moe_permute_fusion=true needs Transformer Engine 2.1",
        ),
    ],
    weights_fit: [
        (
            {"cluster__hardware": {"device": "cpu", "memory_gb": 0.01}, "cluster__device": "cpu"},
            "GB of device memory (source 0.",
        ),
    ],
    place: [
        (
            {"parallel__destination": {"tp": 1, "sequence_parallel": True}},
            "parallel.destination: sequence_parallel=true and tp=1: Megatron's config cannot use",
        ),
        (
            {"parallel__destination": {"kind": "engine", "tp": 2, "sequence_parallel": False}},
            "parallel.destination: sequence_parallel=false is Megatron's, and kind=engine has none",
        ),
        (
            {"parallel__destination": {"kind": "fsdp", "sequence_parallel": False}},
            "parallel.destination: sequence_parallel=False is Megatron's, and kind=fsdp has",
        ),
        ({"parallel__source__gpus": 5}, "the smallest that works is 2"),
        (
            {"parallel__source__num_layers_in_first_pipeline_stage": 1},
            "num_layers_in_first_pipeline_stage=1 needs pp of 2 or more",
        ),
        (
            {"parallel__source__order": "tp-dp-pp", "parallel__source__ep": 2},
            "parallel.source: order=tp-dp-pp lacks ep, whose size is 2 here",
        ),
        (
            {"parallel__source__kind": "fsdp"},
            "parallel.source: tp=2 is Megatron's, and kind=fsdp has kind, shard, gpus, offset,"
            " node_aligned, dtype, make_vocab_size_divisible_by,"
            " share_embeddings_and_output_weights, padding; set tp=1 here, or write the pair as a",
        ),
        (
            {
                "parallel__destination": {"kind": "fsdp", "etp": 1},
            },
            "parallel.destination: etp=1 is Megatron's",
        ),
        (
            {"parallel__destination": {"kind": "fsdp", "shard": 4, "gpus": 6}},
            "parallel.destination: gpus=6 must be a multiple of shard=4; use gpus=4 or 8",
        ),
        (
            {"parallel__destination__gate_up_interleaved": True},
            "parallel.destination: gate_up_interleaved=true is of kind=engine; set kind=engine",
        ),
        (
            {"parallel__source__kind": "zero"},
            "parallel.source: kind=zero is not one of megatron, fsdp, engine",
        ),
        (
            {"parallel__destination__dtype": "fp8"},
            "parallel.destination: dtype=fp8 is not one of bfloat16, float16, float32",
        ),
        (
            {"parallel__source__padding": "ones"},
            "parallel.source: padding=ones is not one of zero, unchecked",
        ),
        (
            {"parallel__source__make_vocab_size_divisible_by": 0},
            "parallel.source: make_vocab_size_divisible_by=0: must be 1 or more",
        ),
        (
            {"parallel__source__shard": 2},
            "parallel.source: shard=2 is of kind=fsdp; set kind=fsdp beside it, or leave it out",
        ),
        (
            {"parallel__destination__offset": 3},
            "these share 3 (source 0-3, destination 3-4); use parallel.destination.offset=4, or",
        ),
        (
            {"parallel__destination__pipeline_model_parallel_layout": [2, 2]},
            "parallel.destination: pipeline_model_parallel_layout asks for 2 stages per rank, and",
        ),
    ],
    pair_of_another_model: [
        ({"parallel__model": "kimi_k2"}, "the pair 'pair' is kimi_k2's, and the model is moe; use"),
    ],
    too_many_gpus: [
        (
            {"parallel__source__tp": 8, "parallel__source__ep": 1, "parallel__destination__tp": 4},
            "needs 12 GPUs (source 8 + destination 4), cluster 'local' has 8; use collocated mode",
        ),
        ({"parallel__nodes": 0}, "parallel.nodes=0: must be 1 or more, or null"),
        ({"parallel__source__tp": 8}, "needs 18 GPUs (source 16 + destination 2)"),
        (
            {"parallel__destination__node_aligned": True},
            "needs 10 GPUs (source on ranks 0-3, destination on ranks 8-9), cluster 'local' has 8;"
            " use a smaller offset, no node_aligned, smaller degrees or a larger cluster",
        ),
    ],
    order_has_one_pipeline: [
        (
            {
                "parallel__source__ep": 1,
                "parallel__source__pp": 2,
                "parallel__source__order": "tp-cp-ep-pp-dp",
            },
            "experts as of attention: here 2 and 1; use an order that ends with pp, or degrees with"
            " etp*ep = tp*cp",
        ),
        (
            {
                **DENSE,
                "parallel__destination__pp": 2,
                "parallel__destination__cp": 2,
                "parallel__destination__tp": 1,
                "parallel__destination__order": "tp-cp-ep-pp-dp",
            },
            "parallel.destination: order=tp-cp-ep-pp-dp does not end with pp, and then",
        ),
    ],
    ep_needs_experts: [
        ({**DENSE, "parallel__source__ep": 2}, "parallel.source.ep=2 needs experts"),
    ],
    expert_bias_needs_etp_1: [
        (
            {**BIASED, "parallel__source__etp": None, "parallel__destination__etp": None},
            "ETP==1: parallel.source.etp=2, by default tp=2, with",
        ),
        ({**BIASED, "parallel__destination__etp": 2}, "ETP==1: parallel.destination.etp=2, with"),
        # also where a shared expert has no bias, and where the destination does not fit
        (
            {
                "model__add_bias_linear": True,
                "parallel__source__etp": None,
                "parallel__destination": {"tp": 1},
            },
            "ETP==1: parallel.source.etp=2, by default tp=2, with",
        ),
    ],
    experts_divide: [
        ({"parallel__source__ep": 3}, "16 does not divide by parallel.source.ep=3; the next"),
    ],
    experts_have_slots: [
        ({"parallel__source__expert_slots": 8}, "have a tensor for each expert; use build=shards"),
        (
            {"parallel__source__expert_slots": 7, "build": "shards"},
            "parallel.source.expert_slots=7, and each rank has 8 experts; it must be 8 or more",
        ),
        (
            {**DENSE, "parallel__destination__expert_slots": 2},
            "parallel.destination.expert_slots=2, and model 'moe' has no experts; leave it out",
        ),
    ],
    said_of_sides_matters: [
        (
            {
                "model__gated_linear_unit": False,
                "parallel__destination": {
                    "kind": "engine",
                    "etp": 1,
                    "gate_up_interleaved": True,
                },
            },
            "parallel.destination.gate_up_interleaved=true, and model 'moe' has no gate",
        ),
        ({"refit__cast_at": "source"}, "refit.cast_at=source, and all sides have the same dtype"),
        (
            {
                "refit__cast_at": "destination",
                "parallel__source__dtype": "float32",
                "parallel__destination__dtype": "float32",
            },
            "refit.cast_at=destination, and all sides have the same dtype",
        ),
    ],
    heads_divide: [
        ({"parallel__source__tp": 3, "parallel__source__ep": 1}, "heads=8 does not divide by"),
        ({**PLANNED, **HYBRID, "model__mamba_num_groups": 3}, "mamba_num_groups=3 does not divide"),
        ({**PLANNED, **DELTA, "model__linear_num_key_heads": 1}, "key_heads=1 does not divide by"),
    ],
    query_groups_divide: [
        (
            {
                "model__num_attention_heads": 24,
                "model__kv_channels": 8,
                "model__num_query_groups": 3,
            },
            "num_query_groups=3 is neither a multiple nor a divisor of parallel.source.tp=2",
        ),
        (
            {
                "model__num_attention_heads": 6,
                "model__kv_channels": 1,
                "model__num_query_groups": 1,
                "parallel__source__tp": 6,
                "parallel__source__ep": 1,
            },
            "linear_qkv's rows, (6 heads + 2 * 1 groups) * 1=8 does not divide by"
            " parallel.source.tp=6; the next below that does: 4",
        ),
    ],
    widths_divide: [
        ({"model__ffn_hidden_size": 2689, "parallel__source__etp": 2}, "moe_ffn_hidden_size=2689"),
        (
            {"model__ffn_hidden_size": 2689, "model__moe_layer_freq": 2},
            "model.ffn_hidden_size=2689 does not divide by parallel.source.tp=2",
        ),
        (
            {"model__moe_shared_expert_intermediate_size": 511},
            "moe_shared_expert_intermediate_size=511 does not divide by parallel.source.tp=2",
        ),
    ],
    latent_ranks_divide: [
        (
            {**LATENT, "model__q_lora_rank": 1535},
            "model.q_lora_rank=1535 does not divide by parallel.source.tp=2",
        ),
        (
            {**LATENT, "model__kv_lora_rank": 511},
            "kv_lora_rank 511 + qk_pos_emb_head_dim 64=575 does not divide by parallel.source.tp=2",
        ),
        (
            {**LATENT, "parallel__destination__kind": "engine"},
            "parallel.destination.kind=engine has MLA's down-projections whole, and build=megatron",
        ),
    ],
    latent_groups_divide: [
        (
            {**LATENT, "model__num_query_groups": 1},
            "model.num_query_groups=1 means nothing to latent attention, and without Transformer",
        ),
    ],
    vocabulary_divides: [
        (
            {
                "model__make_vocab_size_divisible_by": 1,
                "model__vocab_size": 50258,
                "parallel__destination__tp": 4,
            },
            "50258 padded to 50258 (a multiple of 1 * source tp 2), does not divide by"
            " parallel.destination.tp=4",
        ),
    ],
    only_a_destination_unties: [
        (
            {"parallel__source__share_embeddings_and_output_weights": True},
            "parallel.source.share_embeddings_and_output_weights=true, and"
            " model.share_embeddings_and_output_weights is false: the source trains what the model",
        ),
        (
            {"parallel__destination__share_embeddings_and_output_weights": True},
            "is false: two tensors do not fit into one; set"
            " model.share_embeddings_and_output_weights=true, or leave the side's out",
        ),
        (
            {
                "model__share_embeddings_and_output_weights": True,
                "parallel__source__share_embeddings_and_output_weights": False,
            },
            "parallel.source.share_embeddings_and_output_weights=false, and",
        ),
    ],
    layers_divide: [
        (
            {"parallel__source__pp": 3, "parallel__source__ep": 1},
            "parallel.source: 4 layers do not",
        ),
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
        (
            {
                "parallel__source__pp": 2,
                "parallel__source__ep": 1,
                "parallel__source__pipeline_model_parallel_layout": [2, 1],
            },
            "parallel.source: pipeline_model_parallel_layout lists 2 + 1 = 3 layers, and the model",
        ),
    ],
    patterns_meet_tensors: [
        ({"refit__exclude": ["*router*", "*zzz*"]}, "refit.exclude: '*zzz*' meets no tensor"),
        ({"refit__include": ["lm_head"]}, "refit.include: 'lm_head' meets no tensor"),
        ({"refit__include": ["*fc1*"], "refit__exclude": ["*"]}, "leave nothing to move"),
    ],
    padding_is_there: [
        (
            {"parallel__destination__padding": "unchecked"},
            "parallel.destination.padding=unchecked, and no shard of TP=2, PP=1, EP=1 has padding;"
            " leave it out",
        ),
        (
            {
                "parallel__source__expert_slots": 8,
                "parallel__source__padding": "unchecked",
                "build": "shards",
            },
            "parallel.source.padding=unchecked, and no shard of",
        ),
    ],
    cut_axes_divide: [
        (
            {"model__moe_shared_expert_intermediate_size": 511},
            "parallel.source (TP=2, PP=1, EP=2): decoder.layers.{layer}.mlp.shared",
        ),
    ],
}
"""`place` is no rule, and refuses as one does."""

GOOD: list[dict[str, Any]] = [
    {},
    {"model__name": "m" * 80, "parallel__use_case": "from 1 to 2", "parallel__name": "p" * 160},
    {"parallel__nodes": 1},
    {"model__moe_router_topk": 16},
    {"parallel__destination__padding": "zero"},
    {
        "parallel__source__expert_slots": 9,
        "parallel__source__padding": "unchecked",
        "build": "shards",
    },
    {
        "parallel__destination__make_vocab_size_divisible_by": 1000,
        "parallel__destination__padding": "unchecked",
    },
    # a list that names no layer of experts: megatron-core builds both
    {**BIASED, "model__moe_layer_freq": [0, 0, 0, 0], "parallel__destination__etp": 2},
    {"model__num_moe_experts": 7, "model__moe_layer_freq": [0, 0, 0, 0]},
    {"verify": "logits"},
    {"build": "shards"},
    {"build": "shards", **DELTA, "model__attention_output_gate": True},
    {**PLANNED, **LATENT, **DSA},
    {**PLANNED, **HYBRID},
    {"model__mtp_num_layers": 1},
    # a public model's, of which no tokens are routed here
    {"build": "shards", "model__moe_router_enable_expert_bias": True},
    {"model__published_parameters": 654_552_064},
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
    {"verify": "logits", "model__moe_router_load_balancing_type": "sinkhorn"},
    {"model__moe_router_load_balancing_type": "sinkhorn", "model__moe_aux_loss_coeff": 0.01},
    {"cluster__hardware__fitted": {"ipc": {}, "gloo": dict.fromkeys(("wire", "staging"), 1)}},
    {"cluster__hardware__fitted": {"x": dict.fromkeys(("latency_us", "staging", "fixed_us"), 0)}},
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
    {"cluster__hardware": {"device": "cpu", "memory_gb": 2}, "cluster__device": "cpu"},
    {"cluster__hardware": {"device": "cuda", "memory_gb": 0.01}, "cluster__device": "cpu"},
    {"cluster__env": {"CUDA_DEVICE_MAX_CONNECTIONS": 1, "NVSHMEM_HCA": "a", "X": 0.5}},
    {"parallel__source__sequence_parallel": True},
    {"parallel__source__sequence_parallel": False},
    {**DENSE, "parallel__source__etp": 2, "parallel__destination__etp": 8},  # as Megatron
]
