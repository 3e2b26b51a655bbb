"""Jobs for tests: the table's first row and model, with any field said otherwise by its name."""

from __future__ import annotations

from typing import Any

from refit.job import Job


def make_job(**changes: Any) -> Job:
    """A possible job; `make_job(model__num_moe_experts=8)` sets `model.num_moe_experts`."""
    values: dict[str, Any] = {
        "model": {
            "name": "moe",
            "num_layers": 4,
            "hidden_size": 1024,
            "num_attention_heads": 8,
            "ffn_hidden_size": 2688,
            "gated_linear_unit": True,
            "add_bias_linear": False,
            "normalization": "RMSNorm",
            "position_embedding_type": "rope",
            "share_embeddings_and_output_weights": False,
            "vocab_size": 50257,
            "num_moe_experts": 16,
            "moe_shared_expert_intermediate_size": 512,
        },
        "parallel": {
            "name": "pair",
            "source": {"tp": 2, "ep": 2, "etp": 1},
            "destination": {"tp": 2, "ep": 1, "etp": 1},
        },
        "refit": {"name": "auto"},
        "cluster": {"name": "local"},
    }
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        node = values
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return Job.from_dict(values)
