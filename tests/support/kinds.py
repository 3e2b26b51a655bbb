"""Public models' structures in small, as their config.json says them with few and narrow layers."""

from __future__ import annotations

from refit.import_model import model_of
from refit.model.hf.read import imported
from refit.model_config import Model

NARROW = {
    "num_hidden_layers": 4,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "vocab_size": 37,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}
LATENT = {
    **{key: value for key, value in NARROW.items() if key != "head_dim"},
    "num_key_value_heads": 8,
    "q_lora_rank": 4,
    "kv_lora_rank": 4,
    "qk_nope_head_dim": 2,
    "qk_rope_head_dim": 4,
    "v_head_dim": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
}
KINDS = {
    # norms behind attention and the MLP, norms on queries and keys, tied
    "gemma3": {**NARROW, "model_type": "gemma3_text", "tie_word_embeddings": True},
    "glm4": {**NARROW, "model_type": "glm4", "attention_bias": True},
    # norms over all heads
    "olmoe": {
        **NARROW, "model_type": "olmoe", "num_experts": 8, "num_experts_per_tok": 2, "head_dim": 2,
    },
    # single biases
    "phimoe": {
        **NARROW, "model_type": "phimoe", "num_local_experts": 8, "num_experts_per_tok": 2,
        "attention_bias": True, "lm_head_bias": True,
    },
    "nemotron": {**NARROW, "model_type": "nemotron"},
    # gated delta nets in three of four layers, a gate of the others' output
    "qwen3_next": {
        **NARROW, "model_type": "qwen3_next", "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 2, "linear_value_head_dim": 4,
        "linear_num_key_heads": 4, "linear_num_value_heads": 8, "full_attention_interval": 2,
    },
    # latent attention with an indexer
    "deepseek_v32": {
        **LATENT, "model_type": "deepseek_v32", "index_n_heads": 4, "index_head_dim": 8,
        "index_topk": 2,
    },
    # Mamba-2, attention, an MLP or experts alone in each layer
    "nemotron_h": {
        **NARROW, "model_type": "nemotron_h", "hybrid_override_pattern": "M*-E",
        "mamba_num_heads": 8, "mamba_head_dim": 4, "n_groups": 4, "ssm_state_size": 2,
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
        "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 8, "moe_latent_size": 4,
    },
    # a layer of multi-token prediction, on the last stage beside a copy of the embedding
    "deepseek_v3": {**LATENT, "model_type": "deepseek_v3", "num_nextn_predict_layers": 1},
}  # fmt: skip
"""By the class that has a kind of weights."""


def small(kind: str) -> Model:
    """The model of a kind; its vocabulary is padded to a multiple of 4 * TP."""
    found = imported(KINDS[kind], more_tokens="num_nextn_predict_layers" in KINDS[kind])
    found.fields["make_vocab_size_divisible_by"] = 4
    return model_of(found, kind)
