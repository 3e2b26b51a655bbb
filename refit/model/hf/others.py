"""Model classes whose keys are called otherwise: DBRX, Hunyuan, Ling, Nemotron-H. Pure."""

from __future__ import annotations

from typing import Any

from refit.errors import UserError
from refit.model.hf.blocks import (
    ACTIVATIONS,
    Fields,
    attention_bias,
    body,
    gated,
    heads,
    pattern,
    routed,
)
from refit.model.hf.keys import Keys
from refit.model.mamba import CONVOLUTION, KINDS


def nemotron_h(keys: Keys) -> Fields:
    """Nemotron-H and Nemotron 3: each layer is Mamba-2, attention, an MLP or experts alone."""
    for key in ("use_bias", "mamba_proj_bias", "mlp_bias"):
        keys.must(key, False, "biases of linear layers")
    keys.must("use_conv_bias", True, "a convolution without a bias")
    keys.must("conv_kernel", CONVOLUTION, "another width of the convolution")
    pattern = keys.value("hybrid_override_pattern")
    if not isinstance(pattern, str) or set(pattern) - KINDS.keys():
        raise UserError(f"hybrid_override_pattern={pattern!r} is not letters of {''.join(KINDS)}")
    count = keys.whole("num_attention_heads")
    size = "attention_head_dim" if "attention_head_dim" in keys else "head_dim"
    fields: Fields = {
        **body(keys, "layer_norm_epsilon"),
        **attention_bias(keys),
        "num_attention_heads": count,
        "num_query_groups": keys.maybe("num_key_value_heads") or count,
        "kv_channels": keys.whole(size),
        "hybrid_override_pattern": pattern,
        "mamba_state_dim": keys.whole("ssm_state_size"),
        "mamba_head_dim": keys.whole("mamba_head_dim"),
        "mamba_num_groups": keys.whole("n_groups"),
        "mamba_num_heads": keys.whole("mamba_num_heads"),
        "ffn_hidden_size": keys.whole("intermediate_size"),
        "gated_linear_unit": False,
        "activation_func": keys.word("mlp_hidden_act", ACTIVATIONS),
        "position_embedding_type": "none",
    }
    return fields | _hybrid_experts(keys) if "E" in pattern else fields


def _hybrid_experts(keys: Keys) -> Fields:
    """Nemotron 3's: a correction bias, which no key says, and one shared expert."""
    shared = keys.count("n_shared_experts") * keys.whole("moe_shared_expert_intermediate_size")
    return {
        "moe_latent_size": keys.maybe("moe_latent_size"),
        **routed(keys, "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"),
        "moe_shared_expert_intermediate_size": shared or None,
        "moe_router_enable_expert_bias": True,
        "moe_router_score_function": "sigmoid",
    }


_SILENT_OF_DBRX = {
    "clip_qkv",
    "rope_theta",
    "attn_pdrop",
    "model_type",
    "moe_jitter_eps",
    "moe_loss_weight",
    "moe_normalize_expert_weights",
    "uniform_expert_assignment",
}


def dbrx(keys: Keys) -> Fields:
    """DBRX: gated experts in every layer, LayerNorm without biases, which no key says."""
    attention = keys.inner("attn_config", {"kv_n_heads": 1})
    experts = keys.inner("ffn_config", {"ffn_act_fn": {"name": "silu"}})
    activation = experts.inner("ffn_act_fn", {})
    count, width = keys.whole("n_heads"), keys.whole("d_model")
    if width % count:
        raise UserError(f"d_model={width} is not whole heads of n_heads={count}")
    hidden = experts.whole("ffn_hidden_size")
    fields: Fields = {
        "num_layers": keys.whole("n_layers"),
        "hidden_size": width,
        "num_attention_heads": count,
        "num_query_groups": attention.whole("kv_n_heads"),
        "kv_channels": width // count,
        "ffn_hidden_size": hidden,
        "vocab_size": keys.whole("vocab_size"),
        "share_embeddings_and_output_weights": keys.flag("tie_word_embeddings"),
        "normalization": "LayerNorm",
        "add_norm_bias": False,
        "add_bias_linear": False,
        "position_embedding_type": "rope",
        "gated_linear_unit": True,
        "activation_func": activation.word("name", ACTIVATIONS),
        "num_moe_experts": experts.whole("moe_num_experts"),
        "moe_router_topk": experts.whole("moe_top_k"),
        "moe_ffn_hidden_size": hidden,
        "moe_grouped_gemm": True,
        "moe_token_dispatcher_type": "alltoall",
    }
    if "max_seq_len" in keys:
        length = keys.whole("max_seq_len")
        fields |= {"max_position_embeddings": length, "seq_length": min(length, 4096)}
    for name, inner in (("attn_config", attention), ("ffn_config", experts)):
        if unknown := [key for key in inner.left() if key not in _SILENT_OF_DBRX]:
            raise UserError(f"'{name}.{unknown[0]}' is not known of dbrx, and may carry weights")
    keys.taken |= {f"attn_config.{key}": value for key, value in attention.taken.items()}
    keys.taken |= {f"ffn_config.{key}": value for key, value in experts.taken.items()}
    return fields


def _of_all_layers(keys: Keys, key: str, layers: int) -> int:
    """A number that is given once, or for each layer the same."""
    found: Any = keys.value(key)
    if isinstance(found, list):
        if len(found) < layers or len(set(found[:layers])) != 1:
            raise UserError(f"{key} differs by layer, which is not modelled")
        found = found[0]
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise UserError(f"{key}={found!r} is not a whole number of 1 or more")
    return found


def hunyuan_v1_moe(keys: Keys) -> Fields:
    """Hunyuan-A13B: experts and a shared one in every layer, all as wide as intermediate_size."""
    keys.must("attention_bias", False, "biases in attention")
    for key, wanted in (("use_cla", False), ("mlp_bias", False), ("use_qk_norm", True)):
        if key in keys:
            keys.must(key, wanted, "the class has it otherwise")
    layers, width = keys.whole("num_hidden_layers"), keys.whole("intermediate_size")
    for key in ("moe_intermediate_size", "num_shared_expert"):
        if key in keys:
            found = _of_all_layers(keys, key, layers)
            if found != (width if key.startswith("moe") else 1):
                raise UserError(
                    f"{key}={found} is not modelled: the class has one shared expert, and all are"
                    f" as wide as intermediate_size={width}"
                )
            keys.held.add(key)
    return (
        body(keys)
        | heads(keys)
        | gated(keys)
        | {
            "num_moe_experts": keys.whole("num_experts"),
            "moe_router_topk": _of_all_layers(keys, "moe_topk", layers),
            "moe_ffn_hidden_size": width,
            "moe_shared_expert_intermediate_size": width,
            "moe_grouped_gemm": True,
            "moe_token_dispatcher_type": "alltoall",
            "qk_layernorm": True,
        }
    )


def bailing_moe_v2(keys: Keys) -> Fields:
    """Ling 2.0: grouped queries, norms of them, shared experts, a correction bias."""
    keys.must("use_bias", False, "biases in all linear layers")
    layers, dense = keys.whole("num_hidden_layers"), keys.count("first_k_dense_replace")
    width = keys.whole("moe_intermediate_size")
    shared_width = keys.maybe("moe_shared_expert_intermediate_size") or width
    shared = keys.count("num_shared_experts") * shared_width
    fields = (
        body(keys)
        | heads(keys)
        | gated(keys)
        | routed(keys, "num_experts", "num_experts_per_tok", "moe_intermediate_size")
    )
    fields |= {
        "add_qkv_bias": keys.flag("use_qkv_bias"),
        "qk_layernorm": keys.flag("use_qk_norm"),
        "moe_shared_expert_intermediate_size": shared or None,
        "moe_layer_freq": pattern([n >= dense for n in range(layers)]),
        "moe_router_enable_expert_bias": keys.flag("moe_router_enable_expert_bias"),
        "moe_router_score_function": keys.word(
            "score_function", {"sigmoid": "sigmoid", "softmax": "softmax"}
        ),
    }
    for theirs, ours in (("n_group", "num_groups"), ("topk_group", "group_topk")):
        if theirs in keys:
            fields[f"moe_router_{ours}"] = keys.maybe(theirs)
    return fields
