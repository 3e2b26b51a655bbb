"""slime's and miles' shell scripts: Megatron's flags to train, SGLang's behind --sglang-.

Their own flags say on how many GPUs: --actor-num-nodes and --actor-num-gpus-per-node train;
--rollout-num-gpus serve, or the same GPUs with --colocate, in engines of
--rollout-num-gpus-per-engine (slime/utils/arguments.py, slime/backends/sglang_utils).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from refit.errors import UserError
from refit.importers import flags, script
from refit.importers.pair import (
    OF_THE_MODEL,
    SEQUENCE_PARALLEL,
    Pair,
    Side,
    adapters,
    engine,
    named,
    narrow,
)  # fmt: skip
from refit.importers.said import ARRAY, Said, not_read, unfilled

WANTED = "slime's: python3 train.py --actor-num-nodes 2 --rollout-num-gpus-per-engine 8 ..."
WAY_OUT = "put NAME=VALUE behind the file: a variable of the script, or 1=VALUE for its argument $1"

_KNOWS = ("--actor-num-nodes", "--actor-num-gpus-per-node", "--rollout-num-gpus-per-engine")
_HARMLESS = {
    "data-pad-size-multiplier", "update-weight-buffer-size", "prefill-num-servers",
    "sglang-router-dp-aware", "sglang-disaggregation-transfer-backend",
    "sglang-disaggregation-ib-device",
}  # fmt: skip
_DP_HEAD = (
    "--sglang-enable-dp-attention without --sglang-enable-dp-lm-head: SGLang cuts the output layer"
    " over the whole engine, and here it is cut as attention"
)


def is_one(text: str) -> bool:
    """Whether a script is of this kind."""
    return any(flag in text for flag in _KNOWS)


def read(text: str, variables: Mapping[str, str], ignored: Collection[str]) -> Pair:
    """The pair of a script.

    Raises:
        UserError: it cannot be read, or says what cannot be said here.
    """
    command = script.read(text, variables, lambda words: any(w in _KNOWS for w in words), WANTED)
    said = _flags(command)
    arrays = unfilled([*command.launcher, *command.arguments], text)
    source = _source(said)
    training_per_node = said.count("actor-num-gpus-per-node") or 8
    source["gpus"] = said.number("actor-num-nodes") * training_per_node
    if said.switch("debug-train-only"):
        raise UserError("--debug-train-only: this script serves no weights")
    collocated = said.switch("colocate")
    serving = source["gpus"] if collocated else said.count("rollout-num-gpus")
    if serving is None:
        raise UserError("it has neither --colocate nor --rollout-num-gpus, which say what serves")
    said.read.add("rollout-num-gpus")
    destinations = _engines(said, serving, command.documents)
    said.unread(("",), _HARMLESS | _without_bearing(said), ignored)
    return Pair(
        framework="miles" if "miles" in text.lower() else "slime",
        source=source,
        destinations=destinations,
        mode="collocated" if collocated else "non-collocated",
        model=named(said.as_written("hf-checkpoint")),
        per_node=said.count("num-gpus-per-node") or (training_per_node if collocated else 8),
        left_out=[*_left_out(said, arrays), *not_read(command)],
    )


def _flags(command: script.Command) -> Said:
    """Flags with their values."""
    values: dict[str, Any] = {}
    name = ""
    for word in [*command.launcher, *command.arguments]:
        if ARRAY.fullmatch(word):
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values[name] = value if equals else "true"
        elif name:
            values[name] = word if values[name] == "true" else f"{values[name]} {word}"
    return Said(values, WAY_OUT + script.unknown(command))


def _source(said: Said) -> Side:
    """What Megatron's flags say of the side that trains."""
    side: Side = {}
    for name, one in flags.SOURCE.items():
        if one.form == "int":
            side |= dict(said.degrees({name: one.field}))
        elif one.form == "on":
            side |= {one.field: True} if said.switch(name) else {}
        elif value := said.text(name):
            side[one.field] = value
    each = said.count("num-layers-per-virtual-pipeline-stage")
    if each is not None:
        raise UserError(
            f"--num-layers-per-virtual-pipeline-stage {each}: how many stages that makes depends on"
            " the model's layers; say --num-virtual-stages-per-pipeline-rank instead"
        )
    if said.switch("use-tp-pp-dp-mapping"):
        side["order"] = "tp-cp-ep-pp-dp"
    return side


def _engines(said: Said, gpus: int, documents: Sequence[str]) -> list[Side]:
    """The side that serves; several where --sglang-config says so in the script itself."""
    of_engine = said.number("rollout-num-gpus-per-engine")
    groups = _groups(said, documents)
    if groups is None:
        return [_engine(said.below("sglang-"), gpus, of_engine)]
    sides = []
    for group in groups:
        over = {f"sglang-{k}": v for k, v in _dashed(group.get("overrides") or {}).items()}
        own = Said({**said.values, **over}, said.way_out, "sglang-", said.read)
        of_group = Said(_dashed(group), said.way_out)
        each = of_group.count("num-gpus-per-engine") or of_engine
        sides.append(_engine(own, of_group.number("num-gpus"), each))
    if sum(side["gpus"] for side in sides) != gpus:
        raise UserError(
            f"--sglang-config: its groups have {sum(side['gpus'] for side in sides)} GPUs, and"
            f" {gpus} serve"
        )
    alike = all({**side, "gpus": 0} == {**sides[0], "gpus": 0} for side in sides)
    return [{**sides[0], "gpus": gpus}] if alike else sides


def _dashed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).replace("_", "-"): value for key, value in values.items()}


def _groups(said: Said, documents: Sequence[str]) -> list[dict[str, Any]] | None:
    """Groups of engines of --sglang-config's file, where the script writes it itself."""
    if said.values.get("sglang-config") is None:
        return None
    said.read.add("sglang-config")
    for text in documents:
        try:
            models = yaml.safe_load(text)["sglang"]
            (model,) = models
            groups = [dict(group) for group in model["server_groups"]]
            return [{**group, "overrides": dict(group.get("overrides") or {})} for group in groups]
        except (yaml.YAMLError, KeyError, TypeError, ValueError):
            continue
    raise UserError(
        "--sglang-config: the engines are in a file that this script does not write; give each"
        " kind of engine as one of parallel.destinations"
    )


def _engine(said: Said, gpus: int, of_engine: int) -> Side:
    pp = said.number("pp-size", "pipeline-parallel-size")
    if of_engine % pp:
        raise UserError(f"{of_engine} GPUs of an engine do not divide by {pp} stages")
    replicas = said.number("dp-size", "data-parallel-size")
    if replicas > 1 and not said.switch("enable-dp-attention"):
        raise UserError(
            f"--sglang-dp-size {replicas} without --sglang-enable-dp-attention is not known here"
        )
    ep = said.number("ep-size", "expert-parallel-size", "ep")
    said.read |= {f"sglang-{name}" for name in ("moe-dense-tp-size", "enable-dp-lm-head")}
    return engine(gpus, of_engine // pp, pp, ep, replicas)


def _without_bearing(said: Said) -> set[str]:
    """Megatron's flags that are known to have none on a refit."""
    return {name for name in said.values if flags.kind(name) is not None}


def _left_out(said: Said, arrays: Sequence[str]) -> list[str]:
    found = []
    if said.switch("sequence-parallel"):
        found.append(SEQUENCE_PARALLEL)
    if arrays:
        found.append(f"not in this file: {', '.join(arrays)}; the model is given by model=")
    model = said.as_written("hf-checkpoint") or ""
    bits = [f"--{name}" for name in said.values if re.search("fp8|int4|quant", name)]
    if bits or re.search("fp8|int4", model.lower()):
        found.append(narrow(", ".join(bits) or model.rpartition("/")[2]))
    if rank := said.values.get("lora-rank"):
        found.append(adapters(f"--lora-rank {rank}", rank))
    for name in ("mtp-num-layers", "enable-mtp-training"):
        if name in said.values:
            found.append(f"--{name}: {OF_THE_MODEL}")
    if said.switch("sglang-enable-dp-attention"):
        if not said.switch("sglang-enable-dp-lm-head"):
            found.append(_DP_HEAD)
        if dense := said.count("sglang-moe-dense-tp-size"):
            found.append(
                f"--sglang-moe-dense-tp-size {dense}: dense layers' own TP; here they are cut as"
                " attention"
            )
    return found
