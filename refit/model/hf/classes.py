"""Every model_type that is read: its reader, and what its class has where a file says nothing.

The defaults are those of transformers 5.24's config classes, as far as weights depend on them; of
bailing_moe_v2 those of its own repository's. A size has none, so that a file that lacks one is
refused and no other model is made of it; ERNIE's alone, whose class is the published model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from refit.model.hf import dense, experts, others
from refit.model.hf.blocks import Fields
from refit.model.hf.keys import Keys


@dataclass(frozen=True)
class ModelClass:
    """How one model_type is read.

    Attributes:
        read: the fields of a config's keys.
        implied: what the class has where the file says nothing.
        silent: keys of its own that carry no weights.
    """

    read: Callable[[Keys], Fields]
    implied: Mapping[str, Any] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()


UNTIED: Mapping[str, Any] = {"tie_word_embeddings": False}
SILU = {"hidden_act": "silu"}
PLAIN = {**UNTIED, **SILU, "head_dim": None}  # null: derived of the heads
ALONE = {**PLAIN, "num_key_value_heads": None}  # null: each head has its own
UNBIASED = {"attention_bias": False}
DEEPSEEK = {
    **UNTIED, **SILU, **UNBIASED, "moe_layer_freq": 1,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
STEPS = {"decoder_sparse_step": 1, "mlp_only_layers": []}
ERNIE = {
    "tie_word_embeddings": True, **SILU, "use_bias": False, "head_dim": None,
    "num_hidden_layers": 28, "hidden_size": 2560, "vocab_size": 103424,
    "num_attention_heads": 20, "num_key_value_heads": 4, "intermediate_size": 12288,
    "moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 1536, "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1, "moe_layer_end_index": -1, "moe_layer_interval": 1,
}  # fmt: skip

NEMOTRON_H = frozenset(
    {
        "chunk_size", "expand", "mamba_hidden_act", "mamba_ssm_cache_dtype", "num_logits_to_keep",
        "rescale_prenorm_residual", "residual_in_fp32", "time_step_floor", "time_step_limit",
        "time_step_max", "time_step_min", "time_step_rank", "use_mamba_kernels", "n_group",
        "topk_group", "moe_intermediate_size", "moe_shared_expert_intermediate_size",
        "n_routed_experts", "n_shared_experts", "num_experts_per_tok",
    }
)  # fmt: skip
"""Without E in its pattern a file's experts say nothing."""

CLASSES: Mapping[str, ModelClass] = {
    "llama": ModelClass(dense.llama, {**ALONE, **UNBIASED, "mlp_bias": False}),
    "mistral": ModelClass(dense.plain, PLAIN),
    "phi3": ModelClass(dense.plain, ALONE),
    "qwen2": ModelClass(dense.qwen2, PLAIN),
    "qwen3": ModelClass(dense.qwen3, {**PLAIN, **UNBIASED, "head_dim": 128}),
    "gemma2": ModelClass(
        dense.gemma2,
        {"tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", **UNBIASED},
        frozenset({"hidden_act"}),  # the class reads hidden_activation
    ),
    "gemma3_text": ModelClass(
        dense.gemma3,
        {"tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", **UNBIASED},
        frozenset({"hidden_act"}),
    ),
    "glm4": ModelClass(dense.glm4, {**UNTIED, **SILU, "attention_bias": True, "head_dim": 128}),
    "nemotron": ModelClass(
        dense.nemotron,
        {**ALONE, **UNBIASED, "mlp_bias": False, "hidden_act": "relu2"},
    ),
    "qwen2_moe": ModelClass(experts.qwen2_moe, {**PLAIN, **STEPS, "qkv_bias": True}),
    "qwen3_moe": ModelClass(experts.qwen3_moe, {**PLAIN, **STEPS, **UNBIASED}),
    "qwen3_next": ModelClass(
        experts.qwen3_next,
        {**UNTIED, **SILU, **STEPS, **UNBIASED, "head_dim": 256, "full_attention_interval": 4},
    ),
    "mixtral": ModelClass(experts.mixtral, PLAIN),
    "granitemoe": ModelClass(experts.granitemoe, {**ALONE, **UNBIASED}),
    "olmoe": ModelClass(experts.olmoe, {**ALONE, **UNBIASED}),
    "phimoe": ModelClass(experts.phimoe, {**PLAIN, **UNBIASED, "lm_head_bias": False}),
    "gpt_oss": ModelClass(
        experts.gpt_oss,
        {**UNTIED, **SILU, "head_dim": 64, "attention_bias": True},
        frozenset({"swiglu_limit", "initial_context_length", "experts_per_token"}),
    ),
    "minimax_m2": ModelClass(
        experts.minimax_m2,
        {
            **UNTIED,
            **SILU,
            "use_qk_norm": True,
            "qk_norm_type": "per_layer",
            "shared_intermediate_size": 0,
            "use_routing_bias": True,
            "scoring_func": "sigmoid",
        },
        frozenset({"rotary_dim"}),
    ),
    "deepseek_v2": ModelClass(
        experts.deepseek_v2,
        {**DEEPSEEK, "scoring_func": "softmax", "topk_method": "greedy"},
    ),
    "deepseek_v3": ModelClass(experts.deepseek_v3, DEEPSEEK),
    "kimi_k2": ModelClass(experts.deepseek_v3, DEEPSEEK),
    "deepseek_v32": ModelClass(experts.deepseek_v32, DEEPSEEK),
    "glm_moe_dsa": ModelClass(
        experts.glm_moe_dsa,
        DEEPSEEK,
        frozenset({"head_dim", "indexer_rope_interleave"}),  # of the rotary part of a head
    ),
    "glm4_moe": ModelClass(
        experts.glm4_moe,
        {
            **UNTIED,
            **SILU,
            **UNBIASED,
            "head_dim": None,
            "use_qk_norm": False,
            "moe_layer_freq": 1,
            "scoring_func": "sigmoid",
        },
        frozenset({"topk_method"}),
    ),
    "glm4_moe_lite": ModelClass(
        experts.deepseek_v3,
        DEEPSEEK,
        frozenset({"head_dim"}),
    ),
    "llama4_text": ModelClass(
        experts.llama4_text,
        {**PLAIN, **UNBIASED, "interleave_moe_layer_step": 1, "head_dim": 128},
        frozenset(
            {
                "use_qk_norm",
                "no_rope_layers",
                "attn_temperature_tuning",
                "floor_scale",
                "attn_scale",
                "for_llm_compressor",
                "rope",
            }
        ),
    ),
    "ernie4_5_moe": ModelClass(
        experts.ernie4_5_moe,
        ERNIE,
        frozenset(
            {"moe_norm_min", "moe_capacity", "moe_gate", "moe_use_aux_free", "compression_ratio"}
        ),
    ),
    "dbrx": ModelClass(others.dbrx, UNTIED, frozenset({"resid_pdrop", "emb_pdrop"})),
    "hunyuan_v1_moe": ModelClass(
        others.hunyuan_v1_moe,
        {
            "tie_word_embeddings": False,
            **SILU,
            **UNBIASED,
            "num_key_value_heads": None,
            "head_dim": None,
        },
        frozenset(
            {
                "use_mixed_mlp_moe",
                "moe_drop_tokens",
                "moe_random_routing_dropped_token",
                "capacity_factor",
                "group_limited_greedy",
                "norm_type",
                "cla_share_factor",
                "moe_layer_num_skipped",
                "attention_head_dim",
                "routed_scaling_factor",
                "n_group",
                "topk_group",
                "use_rotary_pos_emb",
                "class_num",
                "pool_type",
            }
        ),
    ),
    "nemotron_h": ModelClass(
        others.nemotron_h,
        {
            **UNTIED,
            **UNBIASED,
            "use_bias": False,
            "mamba_proj_bias": False,
            "mlp_bias": False,
            "use_conv_bias": True,
            "conv_kernel": 4,
            "mlp_hidden_act": "relu2",
            "moe_latent_size": None,
        },
        NEMOTRON_H,
    ),
    "bailing_moe_v2": ModelClass(
        others.bailing_moe_v2,
        {
            **UNTIED,
            **SILU,
            "head_dim": None,
            "use_bias": False,
            "use_qkv_bias": False,
            "use_qk_norm": True,
            "moe_router_enable_expert_bias": True,
            "score_function": "sigmoid",
            "moe_shared_expert_intermediate_size": None,
        },
        frozenset(
            {
                "norm_head",
                "norm_softmax",
                "embedding_dropout",
                "output_dropout",
                "router_dtype",
                "use_rmsnorm",
                "mtp_loss_scaling_factor",
                "rotary_dim",
                "routed_scaling_factor",
            }
        ),
    ),
}

KNOWN_TO_DIFFER: Mapping[str, str] = {
    "deepseek_v4": "compressed attention, hyper-connections and a latent of the output",
    "gemma4": "head sizes by kind of layer, keys that are values, an MLP beside the experts",
    "gemma4_text": "head sizes by kind of layer, keys that are values, an MLP beside the experts",
    "jamba": "Mamba layers",
    "kimi_linear": "KDA layers",
    "mimo_v2_flash": "heads by kind of layer, value heads of another size, sinks in some layers",
    "nemotron-nas": "blocks that differ (block_configs)",
    "qwen3_5": "gated delta nets with projections of their own, and a vision tower",
    "qwen3_5_moe": "gated delta nets with projections of their own, and a vision tower",
}
"""Types whose weights are not modelled, and what they have."""
