"""NeMo-RL's recipes: YAML files that start from each other by `defaults`.

`policy.megatron_cfg` or `policy.dtensor_cfg` (PyTorch's fully_shard) train on `cluster`, less what
`policy.generation.colocated.resources` keeps for vLLM where it is not enabled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from refit.errors import UserError
from refit.importers import yaml_values
from refit.importers.pair import (
    MEGATRONS,
    OF_THE_MODEL,
    SEQUENCE_PARALLEL,
    Pair,
    Side,
    adapters,
    named,
    narrow,
    stages_of,
    vllm,
)  # fmt: skip
from refit.importers.said import Said

_HARMLESS = {
    "sequence_parallel", "make_sequence_length_divisible_by", "custom_parallel_plan",
    "data_parallel_sharding_strategy", "pipeline_dtype", "moe_parallelizer",
    "dp_openai_server_port",
}  # fmt: skip


def is_one(keys: Collection[str]) -> bool:
    """Whether a config with such keys at its top is of this kind."""
    return "policy" in keys or ("defaults" in keys and "grpo" in keys)


def read(path: Path, variables: Mapping[str, str], ignored: Collection[str]) -> Pair:
    """The pair of a recipe.

    Raises:
        UserError: it cannot be read, or says what cannot be said here.
    """
    said = yaml_values.said(path, variables, starts="defaults")
    per_node = said.number("cluster.gpus_per_node")
    gpus = said.number("cluster.num_nodes") * per_node
    generation = said.below("policy.generation.")
    if not any(key.startswith(generation.prefix) for key in said.values):
        raise UserError("it has no policy.generation: this recipe serves no weights")
    collocated = generation.raw("colocated.enabled") is None or generation.switch(
        "colocated.enabled"
    )
    serving = gpus if collocated else _apart(generation, gpus, per_node)
    training = gpus if collocated else gpus - serving
    if training < 1:
        raise UserError(f"all {gpus} GPUs serve, and none is left to train")
    source = _source(said, training)
    destination = _engine(generation, serving)
    said.unread(
        ("policy.megatron_cfg.", "policy.dtensor_cfg.", "policy.generation."), _HARMLESS, ignored
    )
    return Pair(
        framework="NeMo-RL",
        source=source,
        destinations=[destination],
        mode="collocated" if collocated else "non-collocated",
        model=named(said.as_written("policy.model_name")),
        per_node=per_node,
        left_out=_left_out(said),
        etp="policy.megatron_cfg.expert_tensor_parallel_size",
    )


def _apart(generation: Said, gpus: int, per_node: int) -> int:
    """GPUs that serve alone: whole nodes, or some of the only one."""
    nodes = generation.count("colocated.resources.num_nodes")
    each = generation.count("colocated.resources.gpus_per_node")
    if nodes is None and (each is None or gpus != per_node):
        raise UserError(
            "policy.generation.colocated.enabled=false, and its resources do not say what serves"
        )
    return (nodes or 1) * (each or per_node)


def _source(said: Said, gpus: int) -> Side:
    is_megatron = said.switch("policy.megatron_cfg.enabled")
    other = "policy.dtensor_cfg." if is_megatron else "policy.megatron_cfg."
    said.read |= {key for key in said.values if key.startswith(other)}
    if is_megatron:
        megatron = said.below("policy.megatron_cfg.")
        return dict(megatron.degrees(MEGATRONS)) | stages_of(megatron) | {"gpus": gpus}
    if not said.switch("policy.dtensor_cfg.enabled"):
        raise UserError("neither policy.megatron_cfg nor policy.dtensor_cfg is enabled")
    dtensor = said.below("policy.dtensor_cfg.")
    dtensor.count("context_parallel_size")  # fully_shard is over it too
    for key in ("tensor_parallel_size", "expert_parallel_size"):
        if (size := dtensor.number(key)) > 1:
            raise UserError(
                f"policy.dtensor_cfg.{key}={size}: fully_shard over a part of the ranks that cut"
                " tensors is not modelled"
            )
    return {"kind": "fsdp", "gpus": gpus}


def _engine(generation: Said, gpus: int) -> Side:
    backend = generation.text("backend") or "vllm"
    if backend != "vllm":
        raise UserError(f"policy.generation.backend={backend} is not known; known is vllm")
    config = generation.below("vllm_cfg.")
    tp, ep = config.number("tensor_parallel_size"), config.number("expert_parallel_size")
    if ep > 1 and ep % tp:
        raise UserError(f"vllm_cfg.expert_parallel_size={ep} is no multiple of TP {tp}")
    pp = config.number("pipeline_parallel_size")
    for key in [key for key in generation.values if key.startswith("policy.generation.")]:
        inside = key.removeprefix("policy.generation.")
        if not inside.startswith(("vllm_cfg.", "vllm_kwargs.")):
            generation.read.add(key)  # of other backends
    return vllm(gpus, tp, max(1, ep // tp), pp, ep > 1)


def _left_out(said: Said) -> list[str]:
    found = []
    if said.switch("policy.megatron_cfg.sequence_parallel"):
        found.append(SEQUENCE_PARALLEL)
    for key in ("policy.megatron_cfg.peft", "policy.dtensor_cfg.lora_cfg"):
        if said.switch(f"{key}.enabled"):
            found.append(adapters(key, said.raw(f"{key}.dim")))
    if said.switch("policy.megatron_cfg.fp8_cfg.enabled"):
        found.append("policy.megatron_cfg.fp8_cfg: weights are bfloat16 here")
    precision = said.values.get("policy.generation.vllm_cfg.precision")
    if precision not in (None, "bfloat16", "auto"):
        found.append(narrow(f"vllm_cfg.precision={precision}"))
    if str(said.values.get("policy.megatron_cfg.mtp_num_layers") or 0) != "0":
        found.append(f"mtp_num_layers: {OF_THE_MODEL}")
    return found
