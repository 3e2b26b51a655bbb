"""Model classes without experts: what each has, and what it implies without a key. Pure."""

from __future__ import annotations

from refit.errors import UserError
from refit.model.hf.blocks import ACTIVATIONS, Fields, attention_bias, body, gated, heads
from refit.model.hf.keys import Keys


def llama(keys: Keys) -> Fields:
    """Llama: biases on request, of attention or of all linear layers."""
    fields = body(keys) | heads(keys) | gated(keys) | attention_bias(keys)
    if keys.flag("mlp_bias"):
        if not fields["add_qkv_bias"]:
            raise UserError("mlp_bias=True is not modelled where attention_bias=False")
        fields |= {"add_bias_linear": True, "add_qkv_bias": False, "add_proj_bias": False}
    return fields


def plain(keys: Keys) -> Fields:
    """Mistral and Phi-3: no biases at all."""
    return body(keys) | heads(keys) | gated(keys)


def qwen2(keys: Keys) -> Fields:
    """Qwen2 and 2.5: biases on queries, keys and values, which no key says."""
    return plain(keys) | {"add_qkv_bias": True}


def qwen3(keys: Keys) -> Fields:
    """Qwen3: norms on queries and keys, which no key says."""
    return plain(keys) | attention_bias(keys) | {"qk_layernorm": True}


def gemma2(keys: Keys) -> Fields:
    """Gemma 2: GELU with a gate, norms before and behind attention and the MLP."""
    fields = body(keys) | heads(keys) | gated(keys, "hidden_activation") | attention_bias(keys)
    return fields | {"post_layernorm": True}


def gemma3(keys: Keys) -> Fields:
    """Gemma 3's language model: Gemma 2 with norms on queries and keys."""
    return gemma2(keys) | {"qk_layernorm": True}


def glm4(keys: Keys) -> Fields:
    """GLM-4: norms behind attention and the MLP; biases on queries, keys and values alone."""
    return plain(keys) | {"add_qkv_bias": keys.flag("attention_bias"), "post_layernorm": True}


def nemotron(keys: Keys) -> Fields:
    """Nemotron-4: squared ReLU without a gate, LayerNorm with biases, which no key says."""
    keys.must("mlp_bias", False, "biases in the MLP alone")
    return (
        body(keys, "norm_eps")
        | heads(keys)
        | attention_bias(keys)
        | {
            "ffn_hidden_size": keys.whole("intermediate_size"),
            "gated_linear_unit": False,
            "activation_func": keys.word("hidden_act", ACTIVATIONS),
            "normalization": "LayerNorm",
        }
    )
