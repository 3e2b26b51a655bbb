"""Casts between float formats, bit by bit: what a refit that casts is proven against.

Integer arithmetic on the bits, round to nearest with ties to even (IEEE 754, section 4.3.1). Only
for the values that `Pattern` makes where sides differ: normal numbers in every format here.
"""

from __future__ import annotations

import torch

# bits of the exponent's bias above float16's, and of a mantissa that float32 has and the other not
_BIAS = (127 - 15) << 23
_LOST = {"bfloat16": 16, "float16": 13}
_SIGN = -(1 << 31)


def cast_bits(bits: torch.Tensor, of: str, to: str) -> torch.Tensor:
    """The bits of the same values in another format.

    Args:
        bits: of int16 or int32, as wide as the format.
        of, to: bfloat16, float16 or float32.
    """
    return bits if of == to else _narrow(_widen(bits, of), to)


def _widen(bits: torch.Tensor, of: str) -> torch.Tensor:
    """As float32 has them: every value of the narrower formats is one of it."""
    if of == "float32":
        return bits
    wide = bits.to(torch.int32)
    if of == "bfloat16":
        return wide << 16
    return (wide & _SIGN) | (((wide & 0x7FFF) << 13) + _BIAS)


def _narrow(bits: torch.Tensor, to: str) -> torch.Tensor:
    """Rounded to the nearest; of two as near, the one whose last bit is 0."""
    if to == "float32":
        return bits
    lost = _LOST[to]
    magnitude = bits & 0x7FFFFFFF
    if to == "float16":
        magnitude = magnitude - _BIAS
    half = (1 << (lost - 1)) - 1
    rounded = (magnitude + half + ((magnitude >> lost) & 1)) >> lost
    return (rounded | ((bits >> 16) & -0x8000)).to(torch.int16)
