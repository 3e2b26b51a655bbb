"""Which layers of a model have experts: Megatron's `moe_layer_freq` in its three spellings."""

from __future__ import annotations

import ast
from itertools import groupby

from refit.errors import UserError
from refit.model.mamba import layers_of
from refit.model_config import Model

LONGEST = 10_000  # lists that a string may stand for: `refit.rules.bounds` has no more layers


def moe_layers(model: Model) -> list[bool]:
    """For each layer, whether it has experts.

    `moe_layer_freq` is Megatron's: N means every Nth layer from the first; a list says it per
    layer; a string is such a list written as "([0]*1+[1]*60)".

    A hybrid model's pattern says it in its place.

    Raises:
        UserError: the value is none of these, or the list is not num_layers long.
    """
    freq = model.moe_layer_freq
    if not model.is_moe:
        return [False] * model.num_layers
    if model.hybrid_override_pattern is not None:
        with_experts = layers_of(model, "E")
        return [layer in with_experts for layer in range(model.num_layers)]
    if isinstance(freq, str):
        freq = _list_expression(freq)
    if isinstance(freq, int) and not isinstance(freq, bool) and freq > 0:
        return [i % freq == 0 for i in range(model.num_layers)]
    if isinstance(freq, list) and all(x in (0, 1) for x in freq):
        if len(freq) != model.num_layers:
            raise UserError(_wrong_depth(freq, model.num_layers))
        return [bool(x) for x in freq]
    raise UserError(
        f"moe_layer_freq={model.moe_layer_freq!r}: give a positive int, a list of 0 and 1, or"
        " a string such as '([0]*1+[1]*60)'"
    )


def _wrong_depth(freq: list[int], num_layers: int) -> str:
    """The reason, with the way out. Nothing is cut silently, as in Megatron: the user says what."""
    fault = f"model.moe_layer_freq lists {len(freq)} layers, the model has {num_layers}"
    if num_layers > len(freq):
        return f"{fault}; say all of them"
    return f"{fault}; its first {num_layers} are model.moe_layer_freq={_shorter(freq[:num_layers])}"


def _shorter(freq: list[int]) -> str:
    """A list of 0 and 1 as a user would type it: `[0,1,1]`, or `'[0]*1+[1]*60'` where long."""
    if len(freq) <= 8:
        return f"[{','.join(str(x) for x in freq)}]"
    runs = [f"[{value}]*{len(list(run))}" for value, run in groupby(freq)]
    return f"'{'+'.join(runs)}'"


def _list_expression(text: str) -> object:
    """Evaluate `[0]*3+[1]*58`: lists of ints, joined and repeated; nothing else."""

    def value(node: ast.expr) -> object:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.List(elts=elements):
                return [value(e) for e in elements]
            case ast.BinOp(left=one, op=ast.Add(), right=other):
                a, b = value(one), value(other)
                if isinstance(a, list) and isinstance(b, list):
                    return a + b
            case ast.BinOp(left=one, op=ast.Mult(), right=factor):
                a, times = value(one), value(factor)
                if isinstance(a, list) and isinstance(times, int) and len(a) * times <= LONGEST:
                    return a * times
        return None

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
