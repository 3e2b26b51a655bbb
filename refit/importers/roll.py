"""ROLL's YAML configs: `actor_train` and `actor_infer`, each on its `device_mapping`'s GPUs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from refit.errors import UserError
from refit.importers import yaml_values
from refit.importers.pair import (
    MEGATRONS,
    SEQUENCE_PARALLEL,
    Pair,
    Side,
    adapters,
    engine,
    named,
    narrow,
    stages_of,
    vllm,
)  # fmt: skip
from refit.importers.said import Said

_HARMLESS = {
    "sequence_parallel", "ulysses_size", "reshard_after_forward", "deallocate_pipeline_outputs",
    "param_dtype", "pipeline_dtype", "tiled_num_shards",
}  # fmt: skip
_RANGE = re.compile(r"list\(range\((?:(\d+),)?(\d+)\)\)")
_LISTED = re.compile(r"(?:list\()?\[(\d+(?:,\d+)*)\]\)?")


def is_one(keys: Collection[str]) -> bool:
    """Whether a config with such keys at its top is of this kind."""
    return "actor_train" in keys or "actor_infer" in keys


def read(path: Path, variables: Mapping[str, str], ignored: Collection[str]) -> Pair:
    """The pair of a config.

    Raises:
        UserError: it cannot be read, or says what cannot be said here.
    """
    said = yaml_values.said(path, variables)
    train, infer = (_devices(said, role) for role in ("actor_train", "actor_infer"))
    collocated = bool(set(train) & set(infer))
    source = _source(said, len(train))
    destination = _engine(said, len(infer))
    first = min(train[0], infer[0])
    if train[0] != first:
        source["offset"] = train[0] - first
    if infer[0] - first != (source.get("offset", 0) if collocated else train[-1] + 1 - first):
        destination["offset"] = infer[0] - first
    begins = tuple(f"{role}.strategy_args." for role in ("actor_train", "actor_infer"))
    said.unread(begins, _HARMLESS, ignored)
    return Pair(
        framework="ROLL",
        source=source,
        destinations=[destination],
        mode="collocated" if collocated else "non-collocated",
        model=named(said.as_written("pretrain")),
        per_node=said.count("num_gpus_per_node") or 8,
        left_out=_left_out(said),
        etp="actor_train.strategy_args.strategy_config.expert_tensor_parallel_size",
    )


def _devices(said: Said, role: str) -> range:
    """GPUs of a role: `list(range(0,8))`, several of them joined by +, or a list of numbers.

    Raises:
        UserError: they are not said so, or are not one after another.
    """
    value = said.raw(f"{role}.device_mapping")
    if value is None:
        raise UserError(f"{role}.device_mapping does not say on which GPUs it is")
    found: list[int] = []
    if isinstance(value, list):
        found = [int(str(number)) for number in value if str(number).isdecimal()]
    else:
        for part in re.sub(r"\s", "", str(value)).split("+"):
            if one := _RANGE.fullmatch(part):
                found += range(int(one[1] or 0), int(one[2]))
            elif one := _LISTED.fullmatch(part):
                found += map(int, one[1].split(","))
            else:
                raise UserError(f"{role}.device_mapping={value} is no list(range(FIRST, END))")
    if not found or found != list(range(found[0], found[0] + len(found))):
        raise UserError(f"{role}.device_mapping={value} are not GPUs one after another")
    return range(found[0], found[-1] + 1)


def _source(said: Said, gpus: int) -> Side:
    name = said.text("actor_train.strategy_args.strategy_name")
    config = said.below("actor_train.strategy_args.strategy_config.")
    if name == "megatron_train":
        return dict(config.degrees(MEGATRONS)) | stages_of(config) | {"gpus": gpus}
    if name == "fsdp2_train":
        if (ep := config.number("ep_size", "expert_parallel_size")) > 1:
            raise UserError(f"fsdp2_train with ep_size={ep}: FSDP with EP is not modelled")
        shard = config.count("fsdp_size") or gpus
        return {"kind": "fsdp", **({"shard": shard} if shard != gpus else {}), "gpus": gpus}
    raise UserError(
        f"actor_train's strategy {name} is not known; known are megatron_train and fsdp2_train"
    )


def _engine(said: Said, gpus: int) -> Side:
    name = said.text("actor_infer.strategy_args.strategy_name")
    config = said.below("actor_infer.strategy_args.strategy_config.")
    of_worker = said.number("actor_infer.num_gpus_per_worker")
    tp = config.count("tensor_parallel_size") or (of_worker if name == "sglang" else 1)
    pp, dp = config.number("pipeline_parallel_size"), config.number("data_parallel_size")
    if name == "vllm":
        return vllm(gpus, tp, dp, pp, config.switch("enable_expert_parallel"))
    if name == "sglang":
        ep = config.number("ep_size", "expert_parallel_size")
        replicas = config.number("dp_size") if config.switch("enable_dp_attention") else 1
        return engine(gpus, tp, pp, ep, replicas)
    raise UserError(f"actor_infer's strategy {name} is not known; known are vllm and sglang")


def _left_out(said: Said) -> list[str]:
    found = []
    if said.switch("actor_train.strategy_args.strategy_config.sequence_parallel"):
        found.append(SEQUENCE_PARALLEL)
    rank: Any = said.values.get("lora_rank") or said.values.get("actor_train.model_args.lora_rank")
    if rank:
        found.append(adapters(f"lora_rank={rank}", rank))
    for key, value in said.values.items():
        if key.startswith("actor_infer.") and re.search(r"quantization$|fp8", key) and value:
            found.append(narrow(f"{key}={value}"))
    return found
