"""A model -> Megatron's flags, and what of a model they have no words for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from refit.importers import flags
from refit.model_config import Model

OURS = (
    "add_norm_bias",
    "add_proj_bias",
    "add_output_bias",
    "post_layernorm",
    "qk_layernorm_over_heads",
)
"""Fields that Megatron has not at all."""


def words(model: Model) -> list[str]:
    """Flags of every field that is not what Megatron's parser has by default."""
    silent = replace(
        Model(name="", num_layers=0, hidden_size=0, num_attention_heads=0, vocab_size=0,
              seq_length=0, max_position_embeddings=0),
        **flags.MEGATRONS_OWN,
    )  # fmt: skip
    found: list[str] = []
    latent = model.multi_latent_attention
    yarn = latent or model.position_embedding_type == "yarn"
    for name, one in flags.MODEL.items():
        value = getattr(model, one.field)
        idle = (one.of == "latent" and not latent) or (one.of == "yarn" and not yarn)
        if idle or name in flags.ALIASES or value == getattr(silent, one.field):
            continue
        if name.startswith("yarn-") and latent:
            continue  # of other attention than MLA
        found += [f"--{name}", *_value(one.form, value)]
    if model.gated_linear_unit:
        found.append("--swiglu" if model.activation_func == "silu" else "--quick-geglu")
        if model.activation_func == "silu" and model.ffn_hidden_size is None:
            found += ["--ffn-hidden-size", str(4 * model.hidden_size)]  # with it 8/3 by default
    if model.num_query_groups is not None:
        found += ["--group-query-attention", "--num-query-groups", str(model.num_query_groups)]
    return found


def _value(form: str, value: Any) -> list[str]:
    """A value as the parser reads it."""
    if form in ("on", "off"):
        return []
    if form == "pair":
        return [f"({value[0]},{value[1]})"]  # -1,0 would be taken for a flag
    if form in ("words", "numbers") and isinstance(value, list):
        return [str(one) for one in value]
    return [str(value).replace(" ", "")]


def unsaid(model: Model) -> Iterator[str]:
    """Fields of a model for which the parser has no flag."""
    activation = (model.activation_func, model.gated_linear_unit)
    if activation not in (("gelu", False), ("silu", True), ("quick_gelu", True)):
        yield (
            f"model.activation_func={activation[0]} with gated_linear_unit="
            f"{str(activation[1]).lower()}: --swiglu, --quick-geglu or neither"
        )
    for key in ("lora", "moe_token_dropping", *OURS):
        if (value := getattr(model, key)) != getattr(Model, key):
            yield f"model.{key}={str(value).lower() if isinstance(value, bool) else value}"
    if model.multi_latent_attention:
        for key in ("original_max_position_embeddings", "beta_fast", "beta_slow"):
            if (value := getattr(model, key)) != getattr(Model(), key):
                yield f"model.{key}={value} of latent attention"
