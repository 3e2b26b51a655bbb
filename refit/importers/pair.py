"""What a launch script comes to: two sides, or a source and several destinations. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from refit.errors import UserError
from refit.importers import options
from refit.importers.said import Said

MEGATRONS: Mapping[str, str] = {
    "tensor_model_parallel_size": "tp",
    "context_parallel_size": "cp",
    "pipeline_model_parallel_size": "pp",
    "expert_model_parallel_size": "ep",
    "expert_tensor_parallel_size": "etp",
    "num_layers_in_first_pipeline_stage": "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage": "num_layers_in_last_pipeline_stage",
    "virtual_pipeline_model_parallel_size": "virtual_pipeline_model_parallel_size",
}
"""Counts of Megatron's config, by the fields of `Degrees` that they are."""

ACCOUNTS = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")
SEQUENCE_PARALLEL = "sequence parallel: no weights depend on it"
OF_THE_MODEL = "the model's; python -m refit.import_model has --with-mtp"

Side = dict[str, Any]


@dataclass
class Pair:
    """A script's pair.

    Attributes:
        framework: whose script it is.
        source, destinations: fields of `Degrees`.
        mode: collocated or non-collocated.
        model: as the script calls it; None: it does not say.
        per_node: GPUs of a node.
        left_out: what of the script is not in the pair, and why.
        etp: how to say the source's ETP behind the file; empty: only the script itself can.
    """

    framework: str
    source: Side
    destinations: list[Side]
    mode: str
    model: str | None = None
    per_node: int = 8
    left_out: list[str] = field(default_factory=list)
    etp: str = ""

    def __post_init__(self) -> None:
        for side in (self.source, *self.destinations):
            for name in ("cp", "pp", "ep"):
                if side.get(name) == 1:
                    del side[name]


def engine(
    gpus: int, tp: int = 1, pp: int = 1, ep: int = 1, attention_dp: int = 1, experts_tp: int = 0
) -> Side:
    """An engine's side, or several of them on so many GPUs.

    Args:
        tp: ranks of a stage that share experts, and attention too but for `attention_dp`.
        attention_dp: replicas of attention in one engine.
        experts_tp: ranks that share one expert; 0: tp over ep.

    Raises:
        UserError: degrees do not divide.
    """
    if tp % attention_dp:
        raise UserError(
            f"{attention_dp} replicas of attention do not divide the {tp} ranks of an engine"
        )
    if tp % ep:
        raise UserError(f"EP {ep} does not divide the {tp} ranks of an engine")
    if gpus % (tp * pp):
        raise UserError(
            f"{gpus} GPUs are no whole number of engines of {tp * pp}: TP {tp} times PP {pp}"
        )
    attention = tp // attention_dp
    side: Side = {"kind": "engine", "tp": attention}
    side |= {name: size for name, size in (("pp", pp), ("ep", ep)) if size > 1}
    etp = experts_tp or tp // ep
    if etp != (attention if ep == 1 else 1):  # what an engine's is where nothing is said
        side["etp"] = etp
    return {**side, "gpus": gpus}


def vllm(gpus: int, tp: int, dp: int = 1, pp: int = 1, expert_parallel: bool = False) -> Side:
    """vLLM's engine: with expert parallelism over all its TP and DP, or cut over as many.

    Raises:
        UserError: see `engine`.
    """
    return engine(gpus, tp * dp, pp, tp * dp if expert_parallel else 1, dp)


def stages_of(said: Said) -> Side:
    """What says of stages, as both true or false and a layout."""
    side: Side = {name: True for name in ACCOUNTS if said.switch(name)}
    layout = said.raw("pipeline_model_parallel_layout")
    if layout is not None:
        text = isinstance(layout, str)
        side["pipeline_model_parallel_layout"] = layout.strip("'\"") if text else layout
    return side


# -- what is left out


def narrow(what: str) -> str:
    """Of weights in fewer bits."""
    return f"{what}: engines hold less than bfloat16; bytes here are bfloat16's"


def adapters(what: str, rank: Any = "...", targets: Any = "...") -> str:
    """Of LoRA."""
    listed = ",".join(map(str, targets)) if isinstance(targets, list) else targets
    return (
        f"{what}: this is the pair of the whole model; of the adapters alone with"
        f" model.lora={{rank:{rank},targets:[{listed}]}}"
    )


# -- the model


_OTHERWISE = {
    "deepseekr1": "deepseek_v3", "deepseekv30324": "deepseek_v3", "deepseekv31": "deepseek_v3",
    "llama3370b": "llama31_70b", "glm45": "glm45_355b", "glm45air": "glm45_air_106b",
    "mixtral8x7bv01": "mixtral_8x7b", "mixtral8x22bv01": "mixtral_8x22b",
}  # fmt: skip
"""Names of models with the weights of one that is shipped under another name."""

_TAIL = re.compile(
    r"[-_](instruct|base|chat|it|thinking|fp8|bf16|int4|hf|torch[-_]dist|\d{4})$", re.IGNORECASE
)


def shipped(model: str) -> str | None:
    """The option of a model that a script calls so, or None."""
    name = model.rstrip("/").rpartition("/")[2]
    while (shorter := _TAIL.sub("", name)) != name:
        name = shorter
    squeezed = _squeezed(name).removeprefix("meta")
    return _OTHERWISE.get(squeezed) or _by_name().get(squeezed)


@cache
def _by_name() -> Mapping[str, str]:
    return {_squeezed(name): name for name in options.models()}


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def option_name(model: str) -> str:
    """What to call the option of a model that is not shipped: `glm_5`."""
    name = model.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "imported"


def named(path: str | None) -> str | None:
    """A model's name, where a script's path says it: not `$HF_MODEL`, and no sentence."""
    if path is None or not (last := path.rstrip("/").rpartition("/")[2]):
        return None
    return path if re.fullmatch(r"[\w.-]+", last) and " " not in path else None
