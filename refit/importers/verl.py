"""verl's shell scripts: Hydra overrides of verl.trainer, with its defaults where none is said.

`actor_rollout_ref.actor.megatron.*` or `.fsdp_config.*` train on `trainer.nnodes` times
`trainer.n_gpus_per_node`; `actor_rollout_ref.rollout.*` serves on the same, or where
`hybrid_engine=False` on `rollout.nnodes` of its own (verl/trainer/config, its workers' checks).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from refit.errors import UserError
from refit.importers import script
from refit.importers.pair import (
    MEGATRONS,
    Pair,
    Side,
    adapters,
    engine,
    named,
    narrow,
    stages_of,
    vllm,
)  # fmt: skip
from refit.importers.said import Said, not_read, unfilled
from refit.importers.script import unknown

WANTED = "verl's: python3 -m verl.trainer.main_ppo actor_rollout_ref.model.path=..."
WAY_OUT = (
    "put NAME=VALUE behind the file, a variable of the script, or an override such as"
    " trainer.nnodes=2"
)

_OF = "actor_rollout_ref."
_OVERRIDE = re.compile(r"\+{0,2}([A-Za-z_]\w*(?:\.[\w\[\]]+)+|model_engine)=(.*)", re.DOTALL)
_ROLLOUT_TP = 2  # of rollout.yaml
_HARMLESS = {
    "sequence_parallel", "ulysses_sequence_parallel_size", "reshard_after_forward",
    "deallocate_pipeline_outputs", "ppo_micro_batch_size_per_gpu", "ppo_max_token_len_per_gpu",
    "log_prob_micro_batch_size_per_gpu", "log_prob_max_token_len_per_gpu",
    "dist_ckpt_optim_fully_reshardable", "dynamic_context_parallel", "max_seqlen_per_dp_cp_rank",
}  # fmt: skip
_ASKED = (f"{_OF}actor.", f"{_OF}rollout.", "trainer.", "rollout.")


def is_one(text: str) -> bool:
    """Whether a script is of this kind."""
    return _OF in text


def read(text: str, variables: Mapping[str, str], ignored: Collection[str]) -> Pair:
    """The pair of a script.

    Args:
        variables: of the shell; names with dots are overrides behind the script's own.

    Raises:
        UserError: it cannot be read, or says what cannot be said here.
    """
    shell = {name: value for name, value in variables.items() if "." not in name}
    command = script.read(text, shell, lambda words: any(_OF in word for word in words), WANTED)
    values: dict[str, Any] = {}
    for word in [*command.launcher, command.program, *command.arguments]:
        if found := _OVERRIDE.fullmatch(word):
            values[found[1]] = found[2]
    values |= {name: value for name, value in variables.items() if "." in name}
    said = Said(values, WAY_OUT + unknown(command))
    words = [*command.launcher, *command.arguments]
    per_node = said.count("trainer.n_gpus_per_node") or 8
    gpus = said.number("trainer.nnodes") * per_node
    source = _megatron(said, gpus) if _is_megatron(said, words) else _fsdp(said, gpus)
    apart = str(said.raw(f"{_OF}hybrid_engine")).lower() == "false"
    left_out = [f"not in this file: {array}" for array in unfilled(words, text)]
    destination = _engine(said, _apart(said, per_node) if apart else gpus, left_out)
    said.unread(_ASKED, _HARMLESS, ignored)
    return Pair(
        framework="verl",
        source=source,
        destinations=[destination],
        mode="non-collocated" if apart else "collocated",
        model=named(said.as_written(f"{_OF}model.path")),
        per_node=per_node,
        left_out=[*left_out, *_left_out(said, source), *not_read(command)],
        etp=f"{_OF}actor.megatron.expert_tensor_parallel_size",
    )


def _apart(said: Said, per_node: int) -> int:
    """GPUs that serve alone."""
    nodes = said.count("rollout.nnodes", f"{_OF}rollout.nnodes")
    if nodes is None:
        raise UserError("hybrid_engine=False, and rollout.nnodes does not say what serves")
    return nodes * (said.count("rollout.n_gpus_per_node") or per_node)


def _is_megatron(said: Said, words: Collection[str]) -> bool:
    """Which of its trainers it is.

    Raises:
        UserError: one that is not known here.
    """
    trainer = said.text("model_engine") or said.text(f"{_OF}actor.strategy")
    if trainer is None:
        return any(word.endswith(("megatron_trainer.yaml", "megatron_trainer")) for word in words)
    if trainer not in ("megatron", "dp", "fsdp", "fsdp2"):
        raise UserError(f"model_engine={trainer} is not known; known are megatron, fsdp and fsdp2")
    return trainer == "megatron"


def _megatron(said: Said, gpus: int) -> Side:
    megatron = said.below(f"{_OF}actor.megatron.")
    inner = megatron.below("override_transformer_config.")
    side: Side = dict(megatron.degrees(MEGATRONS))
    side |= dict(inner.degrees(MEGATRONS)) | stages_of(inner)
    if megatron.switch("use_megatron_fsdp"):
        raise UserError("use_megatron_fsdp=True: Megatron's own FSDP is not modelled")
    return {**side, "gpus": gpus}


def _fsdp(said: Said, gpus: int) -> Side:
    """PyTorch's fully_shard; -1, the default, is over all GPUs."""
    config = said.below(f"{_OF}actor.fsdp_config.")
    size = config.raw("fsdp_size")
    if size in (None, "-1", -1) or config.count("fsdp_size") == gpus:
        return {"kind": "fsdp", "gpus": gpus}
    return {"kind": "fsdp", "shard": config.count("fsdp_size"), "gpus": gpus}


def _engine(said: Said, gpus: int, left_out: list[str]) -> Side:
    rollout = said.below(f"{_OF}rollout.")
    name = rollout.text("name") or "vllm"
    tp = rollout.count("tensor_model_parallel_size") or _ROLLOUT_TP
    pp, dp = rollout.number("pipeline_model_parallel_size"), rollout.number("data_parallel_size")
    ep, etp = rollout.number("expert_parallel_size"), rollout.number("moe_tensor_parallel_size")
    if name not in ("vllm", "sglang", "trtllm"):
        raise UserError(f"{_OF}rollout.name={name} is not known; known are vllm, sglang, trtllm")
    if rollout.switch("disaggregation.enabled"):
        raise UserError(
            "disaggregation.enabled=True: give prefill and decode engines as parallel.destinations"
        )
    rollout.read |= {key for key in said.values if ".disaggregation." in key}
    if name == "trtllm" or etp > 1:
        if ep * etp not in (tp, 1):
            raise UserError(
                f"expert_parallel_size={ep} times moe_tensor_parallel_size={etp} is not TP {tp}"
            )
        if name != "trtllm":
            left_out.append(
                f"rollout.name={name}: verl takes moe_tensor_parallel_size={etp} with trtllm alone"
            )
        return engine(gpus, tp, pp, ep)
    dp = _replicas(ep, tp, dp, left_out)
    return engine(gpus, tp * dp, pp, ep, dp) if name == "sglang" else vllm(gpus, tp, dp, pp, ep > 1)


def _replicas(ep: int, tp: int, dp: int, left_out: list[str]) -> int:
    """Of attention in an engine: verl demands that EP is TP times as many.

    Raises:
        UserError: it is not, and no number of replicas makes it so.
    """
    if ep in (1, tp * dp):
        return dp
    if dp > 1 or ep % tp:
        raise UserError(f"expert_parallel_size={ep} is not TP {tp} times data_parallel_size {dp}")
    left_out.append(
        f"expert_parallel_size={ep}: verl demands TP times data_parallel_size, {tp} * 1; taken as"
        f" if data_parallel_size={ep // tp} were said"
    )
    return ep // tp


def _left_out(said: Said, source: Side) -> list[str]:
    found = []
    for key, value in said.values.items():
        if str(value).lower() in ("0", "1", "null", "false", "") or ".ref." in key:
            continue
        if re.search(r"lora(_rank|\.rank)$", key):
            found.append(adapters(f"{key}={value}", value))
        if re.search(r"rollout\.quantization$|\.fp8|qat\.enable$", key):
            found.append(narrow(f"{key}={value}"))
        if key.endswith("sequence_parallel_size"):
            found.append(f"{key}={value}: activations alone; no weights depend on it")
    if source.get("kind") == "fsdp":
        found.append(
            "fsdp_config.model_dtype: verl trains in float32 where it is not said; weights are"
            " bfloat16 here, unless you add parallel.source.dtype=float32"
        )
    return found
