"""Sizes of a model that Megatron derives where nothing is said. Pure."""

from __future__ import annotations

from refit.model_config import Model


def head_size(model: Model) -> int:
    """`kv_channels`, by default hidden_size / num_attention_heads."""
    return model.kv_channels or model.hidden_size // model.num_attention_heads


def query_groups(model: Model) -> int:
    """`num_query_groups`, by default one per head."""
    return model.num_query_groups or model.num_attention_heads


def ffn_size(model: Model) -> int:
    """`ffn_hidden_size`, by default 4 * hidden_size."""
    return model.ffn_hidden_size or 4 * model.hidden_size


def expert_ffn_size(model: Model) -> int:
    """`moe_ffn_hidden_size`, by default the dense size."""
    return model.moe_ffn_hidden_size or ffn_size(model)
