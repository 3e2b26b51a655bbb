"""AReaL's allocation strings: `sglang:d4t8` serves, `megatron:(attn:d1p12t4|ffn:d1p12e4)` trains.

They stand in a YAML file as `rollout.backend` and `actor.backend`, or joined by + in its older
`allocation_mode`, which may also be given by itself. d replicas, p stages, t TP, c CP, e EP: the
world is d*p*t*c, of `ffn` d*p*t*e (areal/api/alloc_mode.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from refit.errors import UserError
from refit.importers import areal_stages, yaml_values
from refit.importers.pair import Pair, Side, adapters, engine, named, narrow, vllm
from refit.importers.said import Said

SERVING, TRAINING = ("sglang", "vllm"), ("megatron", "fsdp", "archon")
_ALLOCATION = re.compile(r"(?:(sglang|vllm|megatron|fsdp|archon)(?:\[\w+\])?:)?(.+)")
_HYBRID = re.compile(r"\(?attn:((?:[dptc]\d+)+)\|ffn:((?:[dpte]\d+)+)\)?")
_HARMLESS = {"sequence_parallel", "n_gpus_per_node", "n_nodes"}


def is_one(keys: Collection[str]) -> bool:
    """Whether a config with such keys at its top is of this kind."""
    return "allocation_mode" in keys or {"actor", "rollout"} <= set(keys)


def is_string(text: str) -> bool:
    """Whether a word is an allocation string: `sglang:d4t2+fsdp:d8`."""
    return re.match(rf"({'|'.join(SERVING)})(\[\w+\])?:", text) is not None


def read(path: Path, variables: Mapping[str, str], ignored: Collection[str]) -> Pair:
    """The pair of a YAML file.

    Raises:
        UserError: it cannot be read, or says what cannot be said here.
    """
    said = yaml_values.said(path, variables)
    serves, trains = said.text("rollout.backend"), said.text("actor.backend")
    if serves is None or trains is None:
        mode = said.text("allocation_mode")
        if mode is None:
            raise UserError("it has neither rollout.backend and actor.backend nor allocation_mode")
        serves, trains = _parts(mode)
    pair = of_strings(serves, trains, said)
    said.unread(("sglang.", "vllm.", "actor.megatron."), _HARMLESS, ignored)
    return pair


def of_string(text: str, model: str | None) -> Pair:
    """The pair of an allocation string.

    Args:
        model: whose layers are dealt out to stages; None: not said.

    Raises:
        UserError: it is none, or has other parts than one that serves and one that trains.
    """
    return of_strings(*_parts(text), Said({"actor.path": model}, yaml_values.WAY_OUT))


def _parts(text: str) -> tuple[str, str]:
    parts = text.split("+")
    if len(parts) != 2:
        raise UserError(f"'{text}' has {len(parts)} parts; what serves + what trains are two")
    return parts[0], parts[1]


def of_strings(serves: str, trains: str, said: Said) -> Pair:
    """The pair of what serves and what trains.

    Args:
        said: the file's other values.

    Raises:
        UserError: one is no allocation, or not of a kind that is known.
    """
    left_out: list[str] = []
    collocated = said.text("rollout.scheduling_strategy.type") == "colocation"
    source = _source(trains, said, left_out)
    return Pair(
        framework="AReaL",
        source=source,
        destinations=[_engine(serves, said)],
        mode="collocated" if collocated else "non-collocated",
        model=named(said.as_written("actor.path")),
        per_node=said.count("cluster.n_gpus_per_node") or 8,
        left_out=left_out + _left_out(said),
    )


def _kind(text: str, known: Collection[str]) -> tuple[str, str]:
    """The backend and its dimensions; without a backend it is fsdp, as AReaL had it."""
    found = _ALLOCATION.fullmatch(re.sub(r"\s", "", text))
    backend = (found[1] or "fsdp") if found else None
    if found is None or backend not in known:
        raise UserError(
            f"'{text}' is no allocation; it begins with {' or '.join(known)} and a colon"
        )
    return str(backend), found[2]


def _sizes(text: str, dimensions: str, whole: str) -> dict[str, int]:
    """`d4t8` -> {d: 4, t: 8}; 1 of what is not said."""
    found = re.findall(r"([a-z])(\d+)", text)
    names = [name for name, _ in found]
    if "".join(name + size for name, size in found) != text or not names:
        raise UserError(f"'{whole}' is no allocation: {text} is not letters with numbers")
    for name in names:
        if name not in dimensions or names.count(name) > 1:
            raise UserError(
                f"'{whole}': {name} is said twice, or not one of {', '.join(dimensions)}"
            )
    sizes = {name: int(size) for name, size in found}
    if 0 in sizes.values():
        raise UserError(f"'{whole}': each number is 1 or more")
    return dict.fromkeys(dimensions, 1) | sizes


def _engine(text: str, said: Said) -> Side:
    backend, dimensions = _kind(text, SERVING)
    sizes = _sizes(dimensions, "dpt", text)
    gpus, tp, pp = sizes["d"] * sizes["t"] * sizes["p"], sizes["t"], sizes["p"]
    config = said.below(f"{backend}.")
    for key in ("tensor_parallel_size", "pipeline_parallel_size", "tp_size", "pp_size"):
        config.raw(key)  # AReaL sets them itself
    if backend == "vllm":
        return vllm(gpus, tp, 1, pp, config.switch("enable_expert_parallel"))
    replicas = config.number("dp_size") if config.switch("enable_dp_attention") else 1
    return engine(gpus, tp, pp, config.number("ep_size"), replicas)


def _source(text: str, said: Said, left_out: list[str]) -> Side:
    backend, dimensions = _kind(text, TRAINING)
    if backend == "archon":
        raise UserError(f"'{text}': archon's layouts are not modelled; known are megatron and fsdp")
    if hybrid := _HYBRID.fullmatch(dimensions):
        attention = _sizes(hybrid[1], "dptc", text)
        experts = _sizes(hybrid[2], "dpte", text)
        world = attention["d"] * attention["p"] * attention["t"] * attention["c"]
        per_replica = experts["p"] * experts["t"] * experts["e"]
        if attention["p"] != experts["p"] or world % per_replica or (
            "d" in hybrid[2] and world != experts["d"] * per_replica
        ):  # fmt: skip
            raise UserError(f"'{text}': attn and ffn must have the same p and the same world")
        ep, etp = experts["e"], experts["t"]
    else:
        attention = _sizes(dimensions, "dptce", text)
        world = attention["d"] * attention["p"] * attention["t"] * attention["c"]
        ep, etp = attention["e"], 1
    if backend == "fsdp":
        if attention["t"] > 1 or attention["p"] > 1 or ep > 1:
            raise UserError(f"'{text}': FSDP with TP, PP or EP is not modelled")
        return {"kind": "fsdp", "gpus": world}
    sizes = {"tp": attention["t"], "cp": attention["c"], "pp": attention["p"], "ep": ep}
    side: Side = {**{name: size for name, size in sizes.items() if size > 1}, "etp": etp}
    side |= areal_stages.chosen(said.as_written("actor.path"), sizes, left_out)
    return {**side, "gpus": world}


def _left_out(said: Said) -> list[str]:
    found = []
    if said.switch("actor.use_lora"):
        rank = said.raw("actor.lora_rank")
        found.append(adapters("actor.use_lora", rank, said.raw("actor.target_modules") or "..."))
    if said.values.get("sglang.quantization") or said.values.get("vllm.quantization"):
        found.append(narrow("quantization"))
    return found
