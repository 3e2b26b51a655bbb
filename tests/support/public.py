"""Public models by their config.json, with their counts, and which of them are refused.

`tests/data/public_models.json` has the files as published, long lists cut, with counts by
transformers 5.24 on its meta device, or where that has no such class in closed form.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refit.model.hf.classes import CLASSES, KNOWN_TO_DIFFER

PUBLIC: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "public_models.json").read_text()
)
REFUSED = {
    "XiaomiMiMo/MiMo-V2-Flash": "has heads by kind of layer",
    "ai21labs/Jamba-v0.1": "has Mamba layers",
    "deepseek-ai/DeepSeek-V4-Flash": "has compressed attention",
    "google/gemma-4-26B-A4B": "has head sizes by kind of layer",
    "moonshotai/Kimi-Linear-48B-A3B": "has KDA layers",
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1": "has blocks that differ",
}
EXACT = sorted(PUBLIC.keys() - REFUSED.keys())


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = PUBLIC[name]["config"]
    return found


def language(values: dict[str, Any]) -> dict[str, Any]:
    """The part of a config with the language model's keys."""
    inside: dict[str, Any] = values.get("text_config", values)
    return inside


def tables() -> list[str]:
    """The rows of docs/models.md: of each class the public models that are exact, and the rest."""
    rows = []
    for kind, known in CLASSES.items():
        names = [n for n in EXACT if language(config(n))["model_type"] == kind]
        implied = [f"{k}={json.dumps(v)}" for k, v in known.implied.items() if k not in SIZES]
        rows.append(f"| `{kind}` | {', '.join(names)} | {' '.join(f'`{i}`' for i in implied)} |")
    return rows + [f"| `{kind}` | {what} |" for kind, what in KNOWN_TO_DIFFER.items()]


SIZES = {
    "num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "intermediate_size",
    "moe_num_experts", "moe_k", "moe_intermediate_size", "moe_num_shared_experts",
}  # fmt: skip


if __name__ == "__main__":  # what the page must have
    print("\n".join(tables()))
