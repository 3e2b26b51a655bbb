"""Layers of linear attention: which there are, and a gated delta net's tensors. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refit.errors import UserError
from refit.layout.tensors import Family
from refit.model.parts import linear
from refit.model_config import Model

if TYPE_CHECKING:
    from refit.model.architecture import Convention


def linear_layers(model: Model) -> list[bool]:
    """For each layer, whether it has linear attention in place of full.

    `linear_attention_freq` is Megatron's: N means that every Nth layer has full attention; a list
    says it per layer, 1 for linear.

    Raises:
        UserError: the value is neither, or the list is not num_layers long.
    """
    freq, count = model.linear_attention_freq, model.num_layers
    if model.experimental_attention_variant != "gated_delta_net":
        return [False] * count
    if isinstance(freq, int) and not isinstance(freq, bool) and freq > 0:
        return [(layer + 1) % freq != 0 for layer in range(count)]
    if isinstance(freq, list) and all(x in (0, 1) for x in freq) and len(freq) == count:
        return [bool(x) for x in freq]
    raise UserError(
        f"model.linear_attention_freq={freq!r}: give a positive whole number N, for full attention"
        f" in every Nth layer, or a list of {count} times 0 or 1 (1: linear)"
    )


def gated_delta_net(model: Model, convention: Convention, layers: tuple[int, ...]) -> list[Family]:
    """A gated delta net (arXiv:2412.06464) as Megatron's GatedDeltaNet has it, gate included.

    in_proj has the rows of queries, keys, values, gate, beta and alpha, each cut on its own; the
    convolution those of the first three.
    """
    if not layers:
        return []
    h, heads = model.hidden_size, model.linear_num_value_heads
    keys = model.linear_num_key_heads * model.linear_key_head_dim
    values = heads * model.linear_value_head_dim
    rows, mixed = (keys, keys, values, values, heads, heads), (keys, keys, values)
    prefix = "decoder.layers.{layer}.self_attention."
    kernel = (sum(mixed), 1, model.linear_conv_kernel_dim)
    # Hugging Face's modules have two parameters where Megatron's have one
    fused = (2 * keys + 2 * values, 2 * heads)
    return [
        *linear("self_attention.in_proj", (sum(rows), h), 0, False, layers, rows, fused),
        Family(prefix + "conv1d.weight", kernel, axis=0, parts=mixed, layers=layers),
        Family(prefix + "dt_bias", (heads,), axis=0, layers=layers),
        Family(prefix + "A_log", (heads,), axis=0, layers=layers),
        Family(
            prefix + "out_norm.weight",
            (model.linear_value_head_dim,),
            convention.norms_dtype,
            layers=layers,
        ),
        *linear("self_attention.out_proj", (h, values), 1, False, layers),
    ]
