"""Hybrid models: a pattern of layers that are each one thing, and Mamba-2's tensors. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refit.errors import UserError
from refit.layout.tensors import Family
from refit.model.parts import linear, norm
from refit.model_config import Model

if TYPE_CHECKING:
    from refit.model.architecture import Convention

KINDS = {"M": "Mamba-2", "*": "attention", "-": "an MLP", "E": "experts"}
CONVOLUTION = 4  # the width of Megatron's; no public Mamba-2 has another


def layers_of(model: Model, kind: str) -> tuple[int, ...]:
    """The layers of one of `KINDS` of a hybrid model.

    Raises:
        UserError: the pattern has another letter, or is not num_layers long.
    """
    pattern = model.hybrid_override_pattern or ""
    if unknown := set(pattern) - KINDS.keys():
        said = ", ".join(f"{letter} for {what}" for letter, what in KINDS.items())
        raise UserError(
            f"model.hybrid_override_pattern={pattern} has {sorted(unknown)[0]!r}; letters"
            f" are {said}"
        )
    if len(pattern) != model.num_layers:
        raise UserError(
            f"model.hybrid_override_pattern has {len(pattern)} layers, the model has"
            f" {model.num_layers}; give a letter to each"
        )
    return tuple(layer for layer, letter in enumerate(pattern) if letter == kind)


def mamba_heads(model: Model) -> int:
    """`mamba_num_heads`, by default of a width of twice the hidden size."""
    return model.mamba_num_heads or 2 * model.hidden_size // model.mamba_head_dim


def mamba(model: Model, convention: Convention, layers: tuple[int, ...]) -> list[Family]:
    """Mamba-2 (arXiv:2405.21060, section 7) as Megatron's MambaMixer has it.

    in_proj has the rows of z, x, B, C and dt, each cut on its own; the convolution those of x, B
    and C. A_log and D are fp32 parameters.
    """
    if not layers:
        return []
    h, heads = model.hidden_size, mamba_heads(model)
    inner, state = heads * model.mamba_head_dim, model.mamba_num_groups * model.mamba_state_dim
    rows, mixed = (inner, inner, state, state, heads), (inner, state, state)
    prefix = "decoder.layers.{layer}.mixer."

    def vector(name: str, size: int, dtype: str = "bfloat16") -> Family:
        return Family(prefix + name, (size,), dtype, axis=0, layers=layers)

    kernel, bias = (sum(mixed), 1, CONVOLUTION), (sum(mixed),)
    return [
        *norm(model, convention, "norm", h, layers),
        # Hugging Face's modules have one parameter each, too
        *linear("mixer.in_proj", (sum(rows), h), 0, False, layers, rows, (sum(rows),)),
        Family(prefix + "conv1d.weight", kernel, axis=0, parts=mixed, layers=layers),
        Family(prefix + "conv1d.bias", bias, axis=0, parts=mixed, layers=layers),
        vector("dt_bias", heads),
        vector("A_log", heads, "float32"),
        vector("D", heads, "float32"),
        vector("norm.weight", inner),
        *linear("mixer.out_proj", (h, inner), 1, False, layers),
    ]
