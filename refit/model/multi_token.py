"""Layers of multi-token prediction, which the last stage has, by Megatron's names. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from refit.layout.tensors import Family
from refit.model.linear_attention import linear_layers
from refit.model.moe_layers import moe_layers
from refit.model.parts import norm
from refit.model_config import Model

if TYPE_CHECKING:
    from refit.model.architecture import Convention

Layers = Callable[[Model, "Convention"], list[Family]]


def multi_token(model: Model, convention: Convention, layers: Layers) -> list[Family]:
    """DeepSeek-V3's (arXiv:2412.19437, section 2.2), as Megatron's MultiTokenPredictionLayer.

    A layer like the model's last, in front of it a projection of two states to one. All of them
    are on the last stage, which then has a copy of the embedding too.

    Args:
        layers: makes the families of a model's layers.
    """
    one = replace(
        model,
        num_layers=1,
        moe_layer_freq=[int(moe_layers(model)[-1])],
        linear_attention_freq=[int(linear_layers(model)[-1])],
    )
    families = []
    for number in range(model.mtp_num_layers or 0):
        h, prefix = model.hidden_size, f"mtp.layers.{number}"
        for name in ("enorm", "hnorm"):
            families += norm(model, convention, f"{prefix}.{name}", h, (), "last")
        families.append(Family(f"{prefix}.eh_proj.weight", (h, 2 * h), axis=0, stage="last"))
        for family in layers(one, convention):
            name = family.name.replace("decoder.layers.{layer}", f"{prefix}.transformer_layer")
            families.append(replace(family, name=name, layers=(), stage="last"))
        families += norm(model, convention, f"{prefix}.final_layernorm", h, (), "last")
    return families
