"""What many model classes have in common, read from their keys. Pure."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from refit.errors import UserError
from refit.model.hf.keys import Keys

Fields = dict[str, Any]
"""Fields of `Model` with their values."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu2": "squared_relu",
}
"""Names of `ACT2FN`, and ours; the kinds of gelu differ in their rounding, not in weights."""

SIZES = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "vocab_size": "vocab_size",
}
SEQUENCE = 4096


def body(keys: Keys, epsilon: str = "rms_norm_eps") -> Fields:
    """Depth, width, vocabulary; RMSNorm, rotary positions, no biases; and numbers without weights.

    The last are read where the file has them: lengths, the norms' epsilon, the rotary base.
    """
    fields: Fields = {ours: keys.whole(theirs) for theirs, ours in SIZES.items()}
    fields |= {
        "share_embeddings_and_output_weights": keys.flag("tie_word_embeddings"),
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "position_embedding_type": "rope",
    }
    if "max_position_embeddings" in keys:
        length = keys.whole("max_position_embeddings")
        fields["max_position_embeddings"] = length
        fields["seq_length"] = min(length, SEQUENCE)
    if epsilon in keys:
        fields["layernorm_epsilon"] = keys.number(epsilon)
    if "rope_theta" in keys:
        base = keys.number("rope_theta")
        if base < 1 or base != int(base):
            raise UserError(f"rope_theta={base} is not a whole number of 1 or more")
        fields["rotary_base"] = int(base)
    return fields


def heads(keys: Keys) -> Fields:
    """Heads, their groups and their size; null or absent where the class derives them."""
    count = keys.whole("num_attention_heads")
    groups = keys.maybe("num_key_value_heads") or count
    size = keys.maybe("head_dim")
    if size is None:
        width = keys.whole("hidden_size")
        if width % count:
            raise UserError(f"hidden_size={width} is not whole heads of {count}, and no head_dim")
        size = width // count
    return {"num_attention_heads": count, "num_query_groups": groups, "kv_channels": size}


def gated(keys: Keys, activation: str = "hidden_act") -> Fields:
    """An MLP with a gate, as wide as intermediate_size."""
    return {
        "ffn_hidden_size": keys.whole("intermediate_size"),
        "gated_linear_unit": True,
        "activation_func": keys.word(activation, ACTIVATIONS),
    }


def attention_bias(keys: Keys, key: str = "attention_bias") -> Fields:
    """One flag for the biases of queries, keys, values and of the projection behind them."""
    biased = keys.flag(key)
    return {"add_qkv_bias": biased, "add_proj_bias": biased}


def routed(keys: Keys, experts: str, topk: str, width: str) -> Fields:
    """Experts alike in all layers that have them.

    Args:
        experts, topk, width: the keys of how many there are, how many a token meets, how wide.
    """
    return {
        "num_moe_experts": keys.whole(experts),
        "moe_router_topk": keys.whole(topk),
        "moe_ffn_hidden_size": keys.whole(width),
        "moe_grouped_gemm": True,
        "moe_token_dispatcher_type": "alltoall",
    }


def pattern(has_experts: list[bool]) -> Any:
    """`moe_layer_freq`: 1 where all have experts, runs such as `([0]*1+[1]*60)`, or a list."""
    if all(has_experts):
        return 1
    runs = [f"[{int(value)}]*{len(list(run))}" for value, run in groupby(has_experts)]
    return f"({'+'.join(runs)})" if len(runs) < 5 else [int(x) for x in has_experts]


def sparse_step(keys: Keys) -> list[bool]:
    """Qwen's: every Nth layer has experts, but for those that are listed."""
    layers, step = keys.whole("num_hidden_layers"), keys.whole("decoder_sparse_step")
    dense = keys.value("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(x, int) for x in dense):
        raise UserError(f"mlp_only_layers={dense!r} is not a list of layers")
    return [(n + 1) % step == 0 and n not in dense for n in range(layers)]


def after_first(keys: Keys) -> list[bool]:
    """DeepSeek's: the first layers are dense, of the others every Nth has experts."""
    layers, dense = keys.whole("num_hidden_layers"), keys.count("first_k_dense_replace")
    step = keys.whole("moe_layer_freq")
    return [n >= dense and n % step == 0 for n in range(layers)]


def deepseek_routing(keys: Keys, biased: bool) -> Fields:
    """Routed experts, shared ones as one, groups of experts; with or without a correction bias."""
    shared = keys.count("n_shared_experts") * keys.whole("moe_intermediate_size")
    fields = routed(keys, "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
    fields |= {
        "moe_shared_expert_intermediate_size": shared or None,
        "moe_layer_freq": pattern(after_first(keys)),
        "moe_router_enable_expert_bias": biased,
        "moe_router_score_function": keys.word(
            "scoring_func", {"sigmoid": "sigmoid", "softmax": "softmax"}
        ),
    }
    for theirs, ours in (("n_group", "num_groups"), ("topk_group", "group_topk")):
        if theirs in keys:
            fields[f"moe_router_{ours}"] = keys.maybe(theirs)
    if "routed_scaling_factor" in keys:
        fields["moe_router_topk_scaling_factor"] = keys.number("routed_scaling_factor")
    return fields


def latent(keys: Keys) -> Fields:
    """Latent attention, with norms of both latents."""
    why = "latent attention with biases, or heads that share keys"
    keys.must("attention_bias", False, why)
    count = keys.whole("num_attention_heads")
    keys.must("num_key_value_heads", count, why)
    return {
        "num_attention_heads": count,
        "num_query_groups": count,
        "multi_latent_attention": True,
        "q_lora_rank": keys.maybe("q_lora_rank"),
        "kv_lora_rank": keys.whole("kv_lora_rank"),
        "qk_head_dim": keys.whole("qk_nope_head_dim"),
        "qk_pos_emb_head_dim": keys.whole("qk_rope_head_dim"),
        "v_head_dim": keys.whole("v_head_dim"),
        "qk_layernorm": True,
        "rope_type": "rope",
    }
