"""Megatron's flags of a model -> fields of `Model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refit.errors import UserError
from refit.importers import flags

Given = Mapping[str, Any]
"""Flags without their dashes, with their values."""

NEEDED = {
    "num_layers": "--num-layers",
    "hidden_size": "--hidden-size",
    "num_attention_heads": "--num-attention-heads",
}
"""What a model cannot be without; Megatron has no default of them."""


def is_whole(given: Given) -> bool:
    """Whether the flags give a whole model."""
    return all(name in _fields(given) for name in NEEDED)


def _fields(given: Given) -> dict[str, Any]:
    """What flags of one field say."""
    return {flags.MODEL[name].field: value for name, value in given.items() if name in flags.MODEL}


def fields(given: Given, left_out: Mapping[str, Sequence[str]], notes: list[str]) -> dict[str, Any]:
    """Fields of `Model` that are said, or that follow from what is."""
    model = _fields(given) | _activation(given) | _attention(given) | _positions(given)
    whole = is_whole(given)
    if not whole and model:
        missing = ", ".join(flag for name, flag in NEEDED.items() if name not in model)
        notes.append(
            f"without {missing} this is no whole model: what is not said of it is that of"
            " refit.run's own"
        )
    if whole:
        model = {**flags.MEGATRONS_OWN, **model}
    _drop_what_says_nothing(model, given, notes)
    if whole and given.get("swiglu") and "ffn_hidden_size" not in model:
        # Megatron's arguments, not its config: as many parameters as 4 * hidden_size without a gate
        model["ffn_hidden_size"] = int((4 * model["hidden_size"] * 2 / 3) / 64) * 64
    if given.keys() & {"padded-vocab-size", "no-pad-vocab-size", "disable-pad-vocab-size"}:
        model["make_vocab_size_divisible_by"] = 1
        if "padded-vocab-size" in given:
            model["vocab_size"] = given["padded-vocab-size"]
    if whole and "vocab_size" not in model:
        _vocabulary(model, left_out, notes)
    return model


def _vocabulary(
    model: dict[str, Any], left_out: Mapping[str, Sequence[str]], notes: list[str]
) -> None:
    """The benchmark's, unless a tokenizer has one of its own, which is not read."""
    named = [f for f in left_out.get("tokenizer", ()) if f.startswith(("--tokenizer", "--vocab-f"))]
    if named and "NullTokenizer" not in " ".join(named):
        notes.append(
            "vocab_size is the tokenizer's, which is not read here: the model's below has its own;"
            " set model.vocab_size"
        )
    else:
        model["vocab_size"] = flags.BENCHMARKS_VOCABULARY


def _activation(given: Given) -> dict[str, Any]:
    if given.get("swiglu"):
        return {"activation_func": "silu", "gated_linear_unit": True}
    if given.get("quick-geglu"):
        return {"activation_func": "quick_gelu", "gated_linear_unit": True}
    return {}


def _attention(given: Given) -> dict[str, Any]:
    """--num-query-groups says something only with --group-query-attention, and is 1 without it."""
    if given.get("group-query-attention"):
        return {"num_query_groups": given.get("num-query-groups", 1)}
    return {}


def _positions(given: Given) -> dict[str, Any]:
    """The kinds of position embeddings that are modelled.

    Raises:
        UserError: another kind.
    """
    kind = given.get("position-embedding-type")
    if kind in ("relative", "mrope"):
        raise UserError(
            f"--position-embedding-type {kind} is not modelled; learned_absolute, rope, yarn and"
            " none are"
        )
    return (
        {"position_embedding_type": "rope"} if given.get("use-rotary-position-embeddings") else {}
    )


def _drop_what_says_nothing(model: dict[str, Any], given: Given, notes: list[str]) -> None:
    """MLA's sizes without MLA, YaRN's numbers without YaRN, groups without grouped attention."""
    latent = model.get("multi_latent_attention", False)
    yarn = latent or model.get("position_embedding_type") == "yarn"
    idle = {"latent": not latent, "yarn": not yarn, "all": False}
    for name, one in flags.MODEL.items():
        if idle[one.of]:
            model.pop(one.field, None)
            if name in given:
                needs = "--multi-latent-attention"
                needs += "" if one.of == "latent" else " or --position-embedding-type yarn"
                notes.append(f"--{name} says nothing without {needs}")
    if "num-query-groups" in given and "num_query_groups" not in model:
        notes.append("--num-query-groups says nothing without --group-query-attention")
