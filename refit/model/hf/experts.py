"""Model classes with experts: what each has, and what it implies without a key. Pure."""

from __future__ import annotations

from refit.errors import UserError
from refit.model.hf.blocks import (
    ACTIVATIONS,
    Fields,
    attention_bias,
    body,
    deepseek_routing,
    gated,
    heads,
    latent,
    pattern,
    routed,
    sparse_step,
)
from refit.model.hf.dense import plain
from refit.model.hf.keys import Keys


def qwen2_moe(keys: Keys) -> Fields:
    """Qwen1.5 and Qwen2 MoE: a shared expert with a gate; biases on queries, keys and values."""
    return (
        plain(keys)
        | routed(keys, "num_experts", "num_experts_per_tok", "moe_intermediate_size")
        | {
            "add_qkv_bias": keys.flag("qkv_bias"),
            "moe_layer_freq": pattern(sparse_step(keys)),
            "moe_shared_expert_intermediate_size": keys.whole("shared_expert_intermediate_size"),
            "moe_shared_expert_gate": True,
        }
    )


def qwen3_moe(keys: Keys) -> Fields:
    """Qwen3 MoE: norms on queries and keys, no shared expert. Keys of others must say nothing."""
    for key, wanted in (
        ("shared_expert_intermediate_size", 0),
        ("qkv_bias", False),
        ("use_qk_norm", True),
    ):
        if key in keys:
            keys.must(key, wanted, "the class has it otherwise")
    return _qwen3_experts(keys)


def _qwen3_experts(keys: Keys) -> Fields:
    """What Qwen3 MoE and Qwen3-Next have in common."""
    return (
        plain(keys)
        | attention_bias(keys)
        | routed(keys, "num_experts", "num_experts_per_tok", "moe_intermediate_size")
        | {"qk_layernorm": True, "moe_layer_freq": pattern(sparse_step(keys))}
    )


def _linear_layers(keys: Keys) -> int | list[int]:
    """Every Nth layer has full attention, or it is listed; a file that says both says the same."""
    layers = keys.whole("num_hidden_layers")
    if "layer_types" not in keys:
        return keys.whole("full_attention_interval")
    kinds = {"linear_attention": 1, "full_attention": 0}
    found = keys.value("layer_types")
    if not isinstance(found, list) or len(found) != layers or set(found) - set(kinds):
        raise UserError(f"layer_types is not a list of {layers} of {', '.join(kinds)}")
    freq = [kinds[kind] for kind in found]
    if "full_attention_interval" in keys:
        every = keys.whole("full_attention_interval")
        if freq != [int((n + 1) % every != 0) for n in range(layers)]:
            raise UserError(f"layer_types is not what full_attention_interval={every} says")
        keys.held.add("full_attention_interval")
    return freq


def qwen3_next(keys: Keys) -> Fields:
    """Qwen3-Next: gated delta nets, gated attention in every Nth layer; a gated shared expert."""
    return _qwen3_experts(keys) | {
        "experimental_attention_variant": "gated_delta_net",
        "attention_output_gate": True,
        "linear_attention_freq": _linear_layers(keys),
        "linear_conv_kernel_dim": keys.whole("linear_conv_kernel_dim"),
        "linear_key_head_dim": keys.whole("linear_key_head_dim"),
        "linear_value_head_dim": keys.whole("linear_value_head_dim"),
        "linear_num_key_heads": keys.whole("linear_num_key_heads"),
        "linear_num_value_heads": keys.whole("linear_num_value_heads"),
        "moe_shared_expert_intermediate_size": keys.whole("shared_expert_intermediate_size"),
        "moe_shared_expert_gate": True,
    }


def mixtral(keys: Keys) -> Fields:
    """Mixtral, Granite MoE: experts in every layer, as wide as intermediate_size says."""
    return plain(keys) | routed(
        keys, "num_local_experts", "num_experts_per_tok", "intermediate_size"
    )


def granitemoe(keys: Keys) -> Fields:
    """Granite MoE: Mixtral, with attention's biases on request."""
    return mixtral(keys) | attention_bias(keys)


def olmoe(keys: Keys) -> Fields:
    """OLMoE: norms over the queries of all heads, and over the keys, as wide as the hidden size."""
    if "head_dim" in keys:
        width = keys.whole("hidden_size") // keys.whole("num_attention_heads")
        keys.must("head_dim", width, "norms that are not as wide as all heads")
    return (
        plain(keys)
        | attention_bias(keys)
        | routed(keys, "num_experts", "num_experts_per_tok", "intermediate_size")
        | {"qk_layernorm": True, "qk_layernorm_over_heads": True}
    )


def phimoe(keys: Keys) -> Fields:
    """Phi-3.5 MoE: LayerNorm with biases; single biases of attention and of the output layer."""
    return (
        mixtral(keys)
        | attention_bias(keys)
        | {"normalization": "LayerNorm", "add_output_bias": keys.flag("lm_head_bias")}
    )


def gpt_oss(keys: Keys) -> Fields:
    """gpt-oss: biases in every linear layer, a sink in every head."""
    keys.must("attention_bias", True, "gpt-oss without biases")
    return mixtral(keys) | {
        "activation_func": "quick_gelu" if keys.word("hidden_act", ACTIVATIONS) else "",
        "glu_linear_offset": 1.0,
        "activation_func_clamp_value": 7.0,
        "add_bias_linear": True,
        "softmax_type": "learnable",
    }


def minimax_m2(keys: Keys) -> Fields:
    """MiniMax-M2: norms over the queries of all heads, and over the keys; a correction bias."""
    keys.must("use_qk_norm", True, "no norms of queries and keys")
    keys.must("qk_norm_type", "per_layer", "norms of each head")
    keys.must("shared_intermediate_size", 0, "a shared expert")
    return mixtral(keys) | {
        "qk_layernorm": True,
        "qk_layernorm_over_heads": True,
        "moe_router_enable_expert_bias": keys.flag("use_routing_bias"),
        "moe_router_score_function": keys.word("scoring_func", {"sigmoid": "sigmoid"}),
    }


def deepseek_v2(keys: Keys) -> Fields:
    """DeepSeek-V2: latent attention, no correction bias."""
    ways = dict.fromkeys(("greedy", "group_limited_greedy"), "")
    keys.word("topk_method", ways)
    return body(keys) | latent(keys) | gated(keys) | deepseek_routing(keys, biased=False)


def deepseek_v3(keys: Keys) -> Fields:
    """DeepSeek-V3, Moonlight, Kimi K2: latent attention; a correction bias, which no key says."""
    keys.word("topk_method", {"noaux_tc": ""})
    return body(keys) | latent(keys) | gated(keys) | deepseek_routing(keys, biased=True)


def deepseek_v32(keys: Keys) -> Fields:
    """DeepSeek-V3.2 and GLM-5: DeepSeek-V3 with an indexer that chooses tokens."""
    return deepseek_v3(keys) | {
        "experimental_attention_variant": "dsa",
        "dsa_indexer_n_heads": keys.whole("index_n_heads"),
        "dsa_indexer_head_dim": keys.whole("index_head_dim"),
        "dsa_indexer_topk": keys.whole("index_topk"),
    }


def glm_moe_dsa(keys: Keys) -> Fields:
    """GLM-5. The size of a query's head is said twice, and must be the same."""
    if "qk_head_dim" in keys:
        whole = keys.whole("qk_nope_head_dim") + keys.whole("qk_rope_head_dim")
        keys.must("qk_head_dim", whole, "not qk_nope_head_dim + qk_rope_head_dim")
    return deepseek_v32(keys)


def glm4_moe(keys: Keys) -> Fields:
    """GLM-4.5 to 4.7: grouped queries with biases, a correction bias, which no key says."""
    return (
        plain(keys)
        | deepseek_routing(keys, biased=True)
        | {
            "add_qkv_bias": keys.flag("attention_bias"),
            "qk_layernorm": keys.flag("use_qk_norm"),
        }
    )


def llama4_text(keys: Keys) -> Fields:
    """Llama 4's language model: a shared expert as wide as a routed one; norms without weights."""
    layers, step = keys.whole("num_hidden_layers"), keys.whole("interleave_moe_layer_step")
    has_experts = [(n + 1) % step == 0 for n in range(layers)]
    if "moe_layers" in keys:
        listed = keys.value("moe_layers")
        if not isinstance(listed, list) or not all(isinstance(x, int) for x in listed):
            raise UserError(f"moe_layers={listed!r} is not a list of layers")
        has_experts = [n in listed for n in range(layers)]
    width = keys.whole("intermediate_size")
    return (
        body(keys)
        | heads(keys)
        | attention_bias(keys)
        | gated(keys)
        | routed(keys, "num_local_experts", "num_experts_per_tok", "intermediate_size")
        | {
            "ffn_hidden_size": keys.whole("intermediate_size_mlp"),
            "moe_shared_expert_intermediate_size": width,
            "moe_layer_freq": pattern(has_experts),
            "moe_router_score_function": "sigmoid",
        }
    )


def ernie4_5_moe(keys: Keys) -> Fields:
    """ERNIE 4.5: softmax scores with a correction bias; shared experts; dense layers first."""
    keys.must("use_bias", False, "biases in all linear layers")
    layers, first = keys.whole("num_hidden_layers"), keys.count("moe_layer_start_index")
    step, last = keys.whole("moe_layer_interval"), keys.value("moe_layer_end_index")
    if not isinstance(last, int) or last < -1:
        raise UserError(f"moe_layer_end_index={last!r} is not -1 or a layer")
    last = layers - 1 if last == -1 else last
    has_experts = [(n + 1) % step == 0 and first <= n <= last for n in range(layers)]
    shared = keys.count("moe_num_shared_experts") * keys.whole("moe_intermediate_size")
    return (
        plain(keys)
        | routed(keys, "moe_num_experts", "moe_k", "moe_intermediate_size")
        | {
            "moe_shared_expert_intermediate_size": shared or None,
            "moe_layer_freq": pattern(has_experts),
            "moe_router_enable_expert_bias": True,
        }
    )
