"""Megatron's flags: which field of a job each is, and what becomes of those that are none."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from refit.errors import UserError
from refit.model_config import NOT_MODELLED


@dataclass(frozen=True)
class Field:
    """A flag that is a field.

    Attributes:
        field: its name in `Model` or `Degrees`.
        form: of the value: int, float, str, words (one or more), numbers (the same), layers (a
            number, or a list of 0 and 1 as Megatron writes it), pair, or on and off: no value.
        of: which models it says something of: all, latent (attention), yarn.
    """

    field: str
    form: str
    of: str = "all"


def _same(form: str, names: str, of: str = "all") -> dict[str, Field]:
    """Flags that are called as their fields are."""
    return {n: Field(n.replace("-", "_"), form, of) for n in names.split()}


MODEL: Mapping[str, Field] = {
    **_same("int", "num-layers hidden-size num-attention-heads ffn-hidden-size kv-channels"),
    "encoder-num-layers": Field("num_layers", "int"),
    **_same("float", "glu-linear-offset activation-func-clamp-value"),
    "disable-bias-linear": Field("add_bias_linear", "off"),
    **_same("on", "add-qkv-bias qk-layernorm"),
    **_same("str", "softmax-type normalization"),
    **_same("pair", "window-size"),
    **_same("layers", "window-attn-skip-freq"),
    "norm-epsilon": Field("layernorm_epsilon", "float"),
    **_same("on", "multi-latent-attention"),
    **_same("int", "q-lora-rank kv-lora-rank qk-head-dim qk-pos-emb-head-dim v-head-dim", "latent"),
    **_same("str", "rope-type", "latent"),
    **_same("int", "vocab-size make-vocab-size-divisible-by seq-length max-position-embeddings"),
    "encoder-seq-length": Field("seq_length", "int"),
    "untie-embeddings-and-output-weights": Field("share_embeddings_and_output_weights", "off"),
    **_same("str", "position-embedding-type"),
    **_same("int", "rotary-base"),
    **_same("float", "rotary-percent rope-scaling-factor"),
    "use-rope-scaling": Field("rope_scaling", "on"),
    **_same("float", "rotary-scaling-factor mscale mscale-all-dim", "yarn"),
    "yarn-original-max-position-embeddings": Field(
        "original_max_position_embeddings", "int", "yarn"
    ),
    "yarn-beta-fast": Field("beta_fast", "float", "yarn"),
    "yarn-beta-slow": Field("beta_slow", "float", "yarn"),
    "num-experts": Field("num_moe_experts", "int"),
    **_same("layers", "moe-layer-freq"),
    **_same("int", "moe-ffn-hidden-size moe-shared-expert-intermediate-size moe-router-topk"),
    **_same("int", "moe-router-num-groups moe-router-group-topk"),
    **_same("on", "moe-shared-expert-gate moe-shared-expert-overlap moe-grouped-gemm"),
    **_same("words", "moe-router-load-balancing-type"),
    **_same("numbers", "moe-aux-loss-coeff"),
    **_same("float", "moe-z-loss-coeff moe-input-jitter-eps moe-expert-capacity-factor"),
    **_same("float", "moe-router-topk-scaling-factor moe-router-bias-update-rate"),
    **_same("on", "moe-token-dropping moe-pad-expert-input-to-capacity moe-permute-fusion"),
    **_same("str", "moe-token-drop-policy moe-token-dispatcher-type moe-flex-dispatcher-backend"),
    **_same("str", "moe-router-score-function moe-router-dtype"),
    **_same("on", "moe-router-pre-softmax moe-router-enable-expert-bias"),
    **_same("on", "moe-router-force-load-balancing"),
    **_same("int", "mtp-num-layers moe-latent-size"),
    **_same("str", "hybrid-override-pattern"),
    **_same("int", "mamba-state-dim mamba-head-dim mamba-num-groups mamba-num-heads"),
    **_same("str", "experimental-attention-variant"),
    **_same("on", "attention-output-gate"),
    **_same("layers", "linear-attention-freq"),
    **_same("int", "linear-conv-kernel-dim linear-key-head-dim linear-value-head-dim"),
    **_same("int", "linear-num-key-heads linear-num-value-heads"),
    **_same("int", "dsa-indexer-n-heads dsa-indexer-head-dim dsa-indexer-topk"),
}
"""Flags that are one field of `Model`. `moe-token-dropping` is of Megatron before 0.17."""

ALIASES = {"encoder-num-layers", "encoder-seq-length"}
"""Second names, which are read and never written."""

IN_PARTS: Mapping[str, str] = {
    "swiglu": "on",
    "quick-geglu": "on",
    "group-query-attention": "on",
    "num-query-groups": "int",
    "use-rotary-position-embeddings": "on",
    "padded-vocab-size": "int",
    "no-pad-vocab-size": "on",
    "disable-pad-vocab-size": "on",
    "bf16": "on",
    "fp16": "on",
    "use-tp-pp-dp-mapping": "on",
    "num-layers-per-virtual-pipeline-stage": "int",
    "refit-mode": "str",
    "refit-method": "str",
    "num-benchmark-iterations": "int",
    "num-benchmark-warmup": "int",
}
"""Flags that are no one field, or are one only together: `read` knows what each is."""

SOURCE: Mapping[str, Field] = {
    "tensor-model-parallel-size": Field("tp", "int"),
    "context-parallel-size": Field("cp", "int"),
    "pipeline-model-parallel-size": Field("pp", "int"),
    "expert-model-parallel-size": Field("ep", "int"),
    "expert-tensor-parallel-size": Field("etp", "int"),
    "decoder-first-pipeline-num-layers": Field("num_layers_in_first_pipeline_stage", "int"),
    "decoder-last-pipeline-num-layers": Field("num_layers_in_last_pipeline_stage", "int"),
    **_same("str", "pipeline-model-parallel-layout"),
    "num-virtual-stages-per-pipeline-rank": Field("virtual_pipeline_model_parallel_size", "int"),
    **_same("on", "account-for-embedding-in-pipeline-split account-for-loss-in-pipeline-split"),
}
"""Flags of the side that trains."""

DESTINATION: Mapping[str, Field] = {
    "rl-inference-tensor-model-parallel-size": Field("tp", "int"),
    "rl-inference-pipeline-model-parallel-size": Field("pp", "int"),
    "rl-inference-expert-model-parallel-size": Field("ep", "int"),
    "rl-inference-expert-tensor-model-parallel-size": Field("etp", "int"),
}
"""Flags of the side that serves; what they leave open is as the source has it."""

MEANT: Mapping[str, str] = {
    **{name: flag.form for name, flag in {**MODEL, **SOURCE, **DESTINATION}.items()},
    **IN_PARTS,
}
"""Every flag that has a bearing, and the form of its value."""

MEGATRONS_OWN: Mapping[str, Any] = {"kv_lora_rank": 32, "rotary_scaling_factor": 1.0}
"""Defaults of its parser that are not those of its config, which `Model` has."""

BENCHMARKS_VOCABULARY = 50257
"""What examples/rl/benchmark_refit.py takes where no --vocab-size is given."""


@cache
def _listed() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Reasons of refused flags, and kinds of those without bearing, by name."""
    table = yaml.safe_load((Path(__file__).parent / "megatron_flags.yaml").read_text())
    kinds = {n: kind for kind, names in table["no_bearing"].items() for n in names.split()}
    return table["refused"], kinds


_OTHERWISE_CALLED = {"fp8-param-gather": "fp8_param", "fp4-param-gather": "fp4_param"}


def refusal(name: str) -> str | None:
    """Why a flag of Megatron's, without its dashes, is refused, or None."""
    field = _OTHERWISE_CALLED.get(name, name.replace("-", "_"))
    if field in NOT_MODELLED:
        return f"{NOT_MODELLED[field].removesuffix(',')} are not modelled here"
    return _listed()[0].get(name)


def kind(name: str) -> str | None:
    """The kind of a flag without bearing on a refit, or None."""
    return _listed()[1].get(name)


def known(name: str) -> bool:
    """Whether Megatron has such a flag, in any of the versions that are known."""
    return name in MEANT or refusal(name) is not None or kind(name) is not None


def every() -> list[str]:
    """All flags that are known, without their dashes; of refused ones those that are listed."""
    modelled = [name.replace("_", "-") for name in NOT_MODELLED if not name.startswith("fp")]
    return [*MEANT, *_listed()[0], *_listed()[1], *modelled, *_OTHERWISE_CALLED]


def checked(name: str) -> None:
    """That a flag is known and not refused.

    Raises:
        UserError: it is not; of an unknown one the nearest is named.
    """
    if reason := refusal(name):
        raise UserError(f"--{name}: {reason}")
    if not known(name):
        close = get_close_matches(name, every(), 1)
        hint = f"did you mean --{close[0]}?" if close else "leave it out"
        raise UserError(
            f"--{name} is no flag of Megatron's that is known (megatron-core 0.17 to 0.19); {hint}"
        )


def foreign(words: Sequence[str]) -> str | None:
    """What to say of Megatron's flags among the words of `refit.run`, or None."""
    for word in words:
        if word.startswith("--") and known(word[2:].partition("=")[0]):
            return (
                f"{word.partition('=')[0]} is a flag of Megatron-LM, and this takes overrides"
                " (field=value); python -m refit.megatron_args -- FLAGS translates a whole command"
            )
    return None


def value(name: str, words: Sequence[str]) -> Any:
    """A flag's value as its field has it.

    Raises:
        UserError: it is missing, one too many, or not of the flag's form.
    """
    form = MEANT[name]
    if form in ("on", "off"):
        if words:
            raise UserError(f"--{name} takes no value, and {words[0]} follows it")
        return form == "on"
    if not words or (len(words) > 1 and form not in ("words", "numbers")):
        raise UserError(f"--{name} takes one value, and {' '.join(words) or 'none'} follows it")
    for word in words:
        if "$" in word:
            unknown = word[word.index("$") :]
            raise UserError(
                f"--{name} {word}: the script does not say what {unknown} is; put NAME=VALUE before"
                " the flags, or give this flag again behind them"
            )
    try:
        values = [_FORMS[form](word) for word in words]
    except (ValueError, SyntaxError):
        raise UserError(f"--{name} {' '.join(words)}: not {_SAID[form]}") from None
    return values if len(values) > 1 else values[0]


def _layers(text: str) -> Any:
    """`2`, `[0,1,1]`, or a product such as `([0]*1+[1]*60)`, which stays text."""
    if "[" not in text:
        return int(text)
    if "*" in text or "+" in text:
        return text
    return [int(number) for number in ast.literal_eval(text.strip("()"))]


def _pair(text: str) -> list[int]:
    return [int(number) for number in text.strip("()").split(",")]


_FORMS: Mapping[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "words": str,
    "numbers": float,
    "layers": _layers,
    "pair": _pair,
}
_SAID = {
    "int": "a whole number",
    "float": "a number",
    "numbers": "numbers",
    "layers": "a whole number, or a list of 0 and 1 such as ([0]*1+[1]*60)",
    "pair": "two whole numbers such as 128,0",
}
