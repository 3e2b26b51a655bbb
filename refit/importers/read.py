"""Megatron's flags -> what they say of a job: a model, two sides, a mode, a method, iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Any

from refit.errors import UserError
from refit.importers import flags, read_model

Given = Mapping[str, Any]
"""Flags without their dashes, with their values."""

WARMUP, ITERATIONS = 2, 10
"""Defaults of examples/rl/benchmark_refit.py."""

STAGES = (
    "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage",
    "pipeline_model_parallel_layout",
    "virtual_pipeline_model_parallel_size",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
)
"""Fields of a side that share out layers."""


@dataclass
class Reading:
    """What a command says.

    Attributes:
        model: fields of `Model`; without vocab_size where only a tokenizer knows it.
        whole: it is a whole model, and what is not said is Megatron's default.
        source, destination: fields of `Degrees` that are not null.
        mode: collocated or non-collocated.
        method: of the refit.
        bench: fields of `Bench`; empty where the command is no benchmark.
        left_out: flags without bearing, as they were written, by kind.
        notes: what was taken for granted, or cannot be carried over.
    """

    model: dict[str, Any]
    whole: bool
    source: dict[str, Any]
    destination: dict[str, Any]
    mode: str
    method: str
    bench: dict[str, int]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def split(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag without its dashes, and the words that follow it.

    Raises:
        UserError: a word stands before the first flag.
    """
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found.append((name, [value] if equals else []))
        elif not found:
            raise UserError(f"{word} is no flag; --help says what is read")
        else:
            found[-1][1].append(word)
    return found


def read(words: Sequence[str], world: int | None = None) -> Reading:
    """What the flags say.

    Args:
        world: GPUs that the command is started on, where that is known.

    Raises:
        UserError: a flag is unknown, refused, or its value is wrong.
    """
    given: dict[str, Any] = {}
    left_out: dict[str, list[str]] = {}
    for name, values in split(words):
        flags.checked(name)
        if name in flags.MEANT:
            given[name] = flags.value(name, values)
        else:
            kind = flags.kind(name)
            assert kind is not None
            left_out.setdefault(kind, []).append(" ".join([f"--{name}", *values]))
    notes: list[str] = []
    is_benchmark = any(n.startswith(("refit-mode", "num-benchmark")) for n in given)
    source, destination = _sides(given, notes)
    mode = _mode(given, notes)
    _world(source, destination, mode, world, notes)
    return Reading(
        model=read_model.fields(given, left_out, notes),
        whole=read_model.is_whole(given),
        source=source,
        destination=destination,
        mode=mode,
        method=_method(given, notes),
        bench=_bench(given, notes) if is_benchmark else {},
        left_out=left_out,
        notes=notes,
    )


# -- the sides


def _sides(given: Given, notes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both sides; what the destination's flags leave open is as the source has it."""
    source: dict[str, Any] = {"tp": 1, "cp": 1, "pp": 1, "ep": 1}
    source |= {one.field: given[n] for n, one in flags.SOURCE.items() if n in given}
    _virtual(given, source)
    said = {one.field: given[n] for n, one in flags.DESTINATION.items() if n in given}
    destination = {name: source[name] for name in ("tp", "cp", "pp", "ep")} | said
    stages = {name: source[name] for name in STAGES if name in source}
    if destination["pp"] == source["pp"]:
        destination |= stages
    elif stages:
        notes.append(
            f"{', '.join(stages)}: the source's alone; Megatron's benchmark gives the destination"
            " the same, which does not fit its pipeline size"
        )
    if destination["pp"] != source["pp"]:
        notes.append(
            "Megatron's benchmark never sets the destination's pipeline size in its config, and"
            " builds another number of layers; here the whole model arrives"
        )
    if given.get("use-tp-pp-dp-mapping"):
        source["order"] = destination["order"] = "tp-cp-ep-pp-dp"
    if given.get("fp16"):
        source["dtype"] = destination["dtype"] = "float16"
    elif not given.get("bf16"):
        notes.append(
            "neither --bf16 nor --fp16 is given, and Megatron alone would hold float32; weights"
            " are bfloat16 here, unless you add parallel.source.dtype=float32 and"
            " parallel.destination.dtype=float32"
        )
    return source, destination


def _virtual(given: Given, source: dict[str, Any]) -> None:
    """--num-layers-per-virtual-pipeline-stage as a number of virtual stages.

    Raises:
        UserError: the layers do not divide.
    """
    each = given.get("num-layers-per-virtual-pipeline-stage")
    if each is None:
        return
    layers = given.get("num-layers", given.get("encoder-num-layers"))
    if layers is None:
        raise UserError("--num-layers-per-virtual-pipeline-stage needs --num-layers")
    layers += sum(bool(source.get(name)) for name in STAGES if name.startswith("account_for"))
    if each < 1 or layers % (source["pp"] * each):
        raise UserError(
            f"--num-layers-per-virtual-pipeline-stage {each}: {layers} layers do not divide among"
            f" {source['pp']} stages of {each} layers each"
        )
    if (virtual := layers // (source["pp"] * each)) > 1:
        source["virtual_pipeline_model_parallel_size"] = virtual


def _world(
    source: dict[str, Any],
    destination: dict[str, Any],
    mode: str,
    world: int | None,
    notes: list[str],
) -> None:
    """GPUs of each side, as the benchmark has them.

    Collocated, each side lies on the whole world, in as many replicas as fit. Non-collocated, a
    side is one replica of tp*pp*ep ranks, and what is left of the world is idle.
    """
    sides = {"source": source, "destination": destination}
    needed = {n: s["tp"] * s["cp"] * s["pp"] * s["ep"] for n, s in sides.items()}
    if mode == "non-collocated":
        if source["cp"] > 1:
            notes.append("Megatron's benchmark forgets context parallelism where it counts GPUs")
        if world is not None and world < sum(needed.values()):
            total = sum(needed.values())
            notes.append(f"the command is started on {world} GPUs, and {total} are needed")
        return
    if world is None:
        return
    fails = {}
    for name, side in sides.items():
        etp = side.get("etp", source.get("etp", source["tp"]))
        least = side["pp"] * lcm(side["tp"] * side["cp"], etp * side["ep"])
        if world % least:
            fails[name] = least
        elif world != needed[name]:
            side["gpus"] = world
    if fails:
        said = " and ".join(f"the {name}'s degrees need {n}" for name, n in fails.items())
        notes.append(
            f"the command is started on {world} GPUs, and {said}, or a multiple; --gpus N before"
            " the flags says how many there are"
        )


# -- how, and how often


def _mode(given: Given, notes: list[str]) -> str:
    mode = given.get("refit-mode")
    if mode is None:
        notes.append(
            "no --refit-mode: collocated, as Megatron's training with RL has it; its benchmark"
            " demands the flag"
        )
        return "collocated"
    if mode not in ("collocated", "non-collocated"):
        raise UserError(f"--refit-mode {mode} is not collocated or non-collocated")
    return str(mode)


def _method(given: Given, notes: list[str]) -> str:
    method = given.get("refit-method")
    if method is None:
        notes.append("no --refit-method: gloo, Megatron's default")
        return "gloo"
    if method not in ("gloo", "nccl", "nvshmem", "nixl"):
        raise UserError(f"--refit-method {method} is not gloo, nccl or nvshmem")
    return str(method)


def _bench(given: Given, notes: list[str]) -> dict[str, int]:
    """Timed refits, and those before them; the cold one, which is Megatron's first, is no warm-up.

    Raises:
        UserError: there is no refit to time.
    """
    warmup = given.get("num-benchmark-warmup", WARMUP)
    iterations = given.get("num-benchmark-iterations", ITERATIONS)
    if warmup < 0 or iterations < 1:
        raise UserError(
            f"--num-benchmark-warmup {warmup} --num-benchmark-iterations {iterations}: 0 or more,"
            " and 1 or more"
        )
    if warmup == 0:
        notes.append(
            "--num-benchmark-warmup 0 times the first refit with the others; here it is timed by"
            " itself (seconds.cold)"
        )
    return {"iterations": iterations, "warmup": max(0, warmup - 1)}
