"""Jobs as the command line composes them, for tests about the shipped config files."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from refit import compose
from refit.job import Job, Model
from refit.schema import CONF

PUBLIC = (
    "kimi_k2",
    "deepseek_v3",
    "qwen3_30b_a3b",
    "qwen3_235b_a22b",
    "mixtral_8x7b",
    "mixtral_8x22b",
    "gpt_oss_20b",
    "gpt_oss_120b",
    "glm45_355b",
    "glm45_air_106b",
    "llama31_8b",
    "llama31_70b",
)
"""The models whose parameter counts are published."""


@cache
def composed(*overrides: str) -> Job:
    """The job of some command-line overrides."""
    with compose.configs():
        return compose.job(overrides)


def family_layouts(model: str) -> list[str]:
    """The options of `parallel` that are this model's own: `<model>_<gpus>_...`."""
    return sorted(p.stem for p in (CONF / "parallel" / "public").glob(f"{model}_[0-9]*.yaml"))


def miniature(name: str) -> Model:
    """A public model's kinds of weight with few and narrow layers."""
    model = composed(f"model={name}").model
    layers = [0, 1, 1] if model.moe_layer_freq != 1 and model.is_moe else 1
    return replace(
        model,
        num_layers=3,
        moe_layer_freq=layers,
        hidden_size=8,
        ffn_hidden_size=8,
        num_attention_heads=8,
        num_query_groups=8 if model.multi_latent_attention else 4,
        kv_channels=4,
        q_lora_rank=4,
        kv_lora_rank=4,
        qk_head_dim=2,
        qk_pos_emb_head_dim=4,
        v_head_dim=2,
        vocab_size=37,
        make_vocab_size_divisible_by=4,
        num_moe_experts=8 if model.is_moe else None,
        moe_ffn_hidden_size=4 if model.moe_ffn_hidden_size else None,
        moe_shared_expert_intermediate_size=(
            4 if model.moe_shared_expert_intermediate_size else None
        ),
    )
