"""The kinds of attention, each as its families of tensors, by Megatron's names. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from refit.errors import UserError
from refit.layout.tensors import Family
from refit.model.parts import fused_norm, linear, norm
from refit.model.sizes import head_size, query_groups
from refit.model_config import Model

if TYPE_CHECKING:
    from refit.model.architecture import Convention


def _sinks(model: Model, layers: tuple[int, ...]) -> list[Family]:
    """GPT-OSS: in every head's softmax, one learnt logit that takes attention from the tokens."""
    if model.softmax_type != "learnable":
        return []
    name = "decoder.layers.{layer}.self_attention.core_attention.softmax_offset"
    return [Family(name, (model.num_attention_heads,), axis=0, layers=layers)]


def attention(model: Model, convention: Convention, layers: tuple[int, ...]) -> list[Family]:
    """Heads in groups that share a key and a value; with one group for each head, the plain kind.

    With `attention_output_gate` a group's queries have as many rows of a gate behind them.
    """
    h, heads, groups, size = (
        model.hidden_size,
        model.num_attention_heads,
        query_groups(model),
        head_size(model),
    )
    qkv_bias = model.add_bias_linear or model.add_qkv_bias
    queries = 2 * heads if model.attention_output_gate else heads
    families = linear(
        "self_attention.linear_qkv",
        ((queries + 2 * groups) * size, h),
        0,
        qkv_bias,
        layers,
        # of each group its queries, its key and its value
        fused=(queries // groups * size, size, size),
    )
    if model.qk_layernorm:
        for name, count in (("q", heads), ("k", groups)):
            over = model.qk_layernorm_over_heads
            families += norm(
                model,
                convention,
                f"self_attention.{name}_layernorm",
                count * size if over else size,
                layers,
                axis=0 if over else None,
            )
    families += _sinks(model, layers)
    proj_bias = model.add_bias_linear or model.add_proj_bias
    return families + linear("self_attention.linear_proj", (h, heads * size), 1, proj_bias, layers)


def latent_attention(model: Model, convention: Convention, layers: tuple[int, ...]) -> list[Family]:
    """Latent attention, arXiv:2405.04434, section 2.1, as Megatron's MLASelfAttention has it.

    Keys and values come from one latent of kv_lora_rank, beside qk_pos_emb_head_dim columns that
    carry the position; queries from one of q_lora_rank, or where that is null from the hidden
    state itself.
    """
    h, heads, rank = model.hidden_size, model.num_attention_heads, model.kv_lora_rank
    query = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
    down = 0 if convention.mla_down_sharded else None
    families: list[Family] = []
    if model.q_lora_rank is None:
        families += linear("self_attention.linear_q_proj", (query, h), 0, False, layers)
        if model.qk_layernorm and convention.direct_query_norm:
            families += fused_norm(model, "self_attention.linear_q_proj", h, layers)
    else:
        families += linear(
            "self_attention.linear_q_down_proj", (model.q_lora_rank, h), down, False, layers
        )
        families += linear(
            "self_attention.linear_q_up_proj", (query, model.q_lora_rank), 0, False, layers
        )
        if model.qk_layernorm:
            families += norm(
                model, convention, "self_attention.q_layernorm", model.q_lora_rank, layers
            )
    kv_down = (rank + model.qk_pos_emb_head_dim, h)
    families += linear("self_attention.linear_kv_down_proj", kv_down, down, False, layers)
    if model.qk_layernorm:
        families += norm(model, convention, "self_attention.kv_layernorm", rank, layers)
    kv_up = (heads * (model.qk_head_dim + model.v_head_dim), rank)
    families += linear("self_attention.linear_kv_up_proj", kv_up, 0, False, layers)
    families += _indexer(model, convention, layers)
    families += _sinks(model, layers)
    out = (h, heads * model.v_head_dim)
    return families + linear("self_attention.linear_proj", out, 1, model.add_bias_linear, layers)


def _indexer(model: Model, convention: Convention, layers: tuple[int, ...]) -> list[Family]:
    """DeepSeek-V3.2's indexer, which chooses the tokens that attention sees; on every rank whole.

    As Megatron's DSAIndexer has it; its norm is a LayerNorm whatever the model's is.
    """
    if model.experimental_attention_variant != "dsa":
        return []
    heads, size = model.dsa_indexer_n_heads, model.dsa_indexer_head_dim
    if heads is None or size is None:
        raise UserError(
            "model.experimental_attention_variant=dsa needs model.dsa_indexer_n_heads and"
            " model.dsa_indexer_head_dim; set them"
        )
    h, name = model.hidden_size, "self_attention.core_attention.indexer"
    layer_norm = replace(model, normalization="LayerNorm", add_norm_bias=True)
    return [
        *linear(f"{name}.linear_wq_b", (heads * size, model.q_lora_rank or h), None, False, layers),
        *linear(f"{name}.linear_wk", (size, h), None, False, layers),
        *norm(layer_norm, convention, f"{name}.k_norm", size, layers),
        *linear(f"{name}.linear_weights_proj", (heads, h), None, False, layers),
    ]
