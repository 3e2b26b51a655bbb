"""What layers are made of: norms, and linear layers with their biases. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refit.layout.tensors import Family
from refit.model_config import Model

if TYPE_CHECKING:
    from refit.model.architecture import Convention


def norm(
    model: Model,
    convention: Convention,
    name: str,
    size: int,
    layers: tuple[int, ...],
    stage: str = "layer",
    axis: int | None = None,
) -> list[Family]:
    """A norm of so many elements, in each of these layers or, with none, outside of them."""
    prefix = "decoder.layers.{layer}." if layers else ""
    return [
        Family(
            f"{prefix}{name}.{leaf}",
            (size,),
            convention.norms_dtype,
            axis=axis,
            layers=layers,
            stage=stage,
        )
        for leaf in norm_leaves(model)
    ]


def norm_leaves(model: Model) -> list[str]:
    """What a norm learns."""
    biased = model.normalization == "LayerNorm" and model.add_norm_bias
    return ["weight", "bias"] if biased else ["weight"]


def fused_norm(model: Model, linear: str, size: int, layers: tuple[int, ...]) -> list[Family]:
    """A norm that exists only inside the linear layer that it feeds."""
    prefix = f"decoder.layers.{{layer}}.{linear}.layer_norm_"
    return [Family(prefix + leaf, (size,), layers=layers) for leaf in norm_leaves(model)]


def linear(
    name: str,
    shape: tuple[int, int],
    axis: int | None,
    bias: bool,
    layers: tuple[int, ...],
    parts: tuple[int, ...] = (),
    fused: tuple[int, ...] = (),
) -> list[Family]:
    """A [out, in] weight, and its bias [out] where asked.

    The bias is cut like the rows, and whole where columns are cut.
    """
    fused = fused or parts
    families = [
        Family(
            f"decoder.layers.{{layer}}.{name}.weight",
            shape,
            axis=axis,
            parts=parts,
            fused=fused,
            layers=layers,
        )
    ]
    if bias:
        cut = 0 if axis == 0 else None
        families.append(
            Family(
                f"decoder.layers.{{layer}}.{name}.bias",
                shape[:1],
                axis=cut,
                parts=parts,
                fused=fused,
                layers=layers,
            )
        )
    return families
