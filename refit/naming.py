"""A point whose degrees or mode are not those of its row is named after what it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from refit.job import Degrees, Job, Parallel

_LAYOUT = re.compile(r"(\+\+?|~)?(parallel\.(source|destinations?|mode|name)\b|refit\.mode\b)")


NAMED = 4
"""Destinations that a name says each; the identity, which follows, tells the others apart."""


def composed(compose: Callable[[tuple[str, ...]], Job], overrides: Sequence[str]) -> Job:
    """The job of some overrides, `named` where these change the layout of its row.

    Args:
        compose: overrides -> job; asked for the row itself too, whose answer it may keep.
    """
    job = compose(tuple(overrides))
    of_row = tuple(override for override in overrides if not _LAYOUT.match(override))
    return job if len(of_row) == len(overrides) else named(job, compose(of_row).parallel)


def named(job: Job, row: Parallel) -> Job:
    """The job under its row's name, or where it differs from the row under one of its own.

    `parallel=noncollocated_4_tp2ep1_to_tp1ep1 parallel.source.tp=4` is `tp4ep1_to_tp1ep1`, and its
    use case says from which row it started. Several destinations are `tp4_to_tp2_and_tp1`, a fifth
    and later ones `and_1_more`. A name that was given stays.

    Args:
        job: as composed.
        row: the pair as its file has it.
    """
    pair = job.parallel
    sides, of_row = (_resolved(sided, job.model.is_moe) for sided in (pair, row))
    same_mode = job.placement_mode == row.mode
    if (sides == of_row and same_mode) or pair.name != row.name:
        return job
    source, *destinations = [_in_words(side, job.model.is_moe) for side in sides]
    if more := destinations[NAMED:]:
        destinations[NAMED:] = [f"{len(more)}_more"]
    name = f"{source}_to_{'_and_'.join(destinations)}"
    if not same_mode:
        name += f"_{job.placement_mode.replace('-', '')}"
    return replace(job, parallel=replace(pair, name=name, use_case=f"from {row.name}"))


def _resolved(pair: Parallel, is_moe: bool) -> list[Degrees]:
    """All sides with the ETP and the GPUs that they have where nothing is said."""
    sides = pair.sides.values()
    return [_sized(replace(side, etp=pair.etp_of(side) if is_moe else 1)) for side in sides]


def _sized(side: Degrees) -> Degrees:
    return replace(side, gpus=_default_gpus(side) if side.gpus is None else side.gpus)


def _default_gpus(side: Degrees) -> int:
    return side.tp * side.cp * side.pp * side.ep


def _in_words(side: Degrees, is_moe: bool) -> str:
    """`tp4pp2ep2`: TP, and of a model with experts EP, always; other degrees where they are not 1.

    The rows of the table are named so too. They never say ETP or GPUs, which tell two points apart
    here.
    """
    if side.kind == "fsdp":
        return f"fsdp{side.shard or side.gpus}{_of_its_own(side)}"
    degrees = {"tp": side.tp, "pp": side.pp, "cp": side.cp, "ep": side.ep}
    if is_moe:
        degrees["etp"] = side.etp or 1
    always = ("tp", "ep") if is_moe else ("tp",)
    name = "".join(f"{key}{size}" for key, size in degrees.items() if key in always or size != 1)
    if side.gpus != _default_gpus(side):
        name += f"_{side.gpus}gpus"
    for end in ("first", "last"):
        layers = getattr(side, f"num_layers_in_{end}_pipeline_stage")
        name += "" if layers is None else f"_{end}{layers}"
    return name + _of_its_own(side)


def _of_its_own(side: Degrees) -> str:
    """What is said of a side besides degrees."""
    said = {
        "kind": side.kind if side.kind == "engine" else None,
        "interleaved": side.gate_up_interleaved,
        "as": side.dtype,
        "vocab": side.make_vocab_size_divisible_by,
        "sp": side.sequence_parallel,
        "slots": side.expert_slots,
        "tied": side.share_embeddings_and_output_weights,
        "padding": side.padding,
        "layers": side.pipeline_model_parallel_layout,
        "vpp": side.virtual_pipeline_model_parallel_size,
        "embedding": side.account_for_embedding_in_pipeline_split,
        "loss": side.account_for_loss_in_pipeline_split,
        "order": side.order,
        "from": side.offset,
        "aligned": side.node_aligned,
    }
    return "".join(f"_{key}{_plain(v)}" for key, v in said.items() if v is not None)


def _plain(value: object) -> str:
    """A value as a part of a file's name: `3-1` of `[3, 1]`; of true nothing, as it is named.

    A long one is cut off: the point's identity, which follows, tells it from others.
    """
    return "" if value is True else "-".join(re.findall(r"[A-Za-z0-9]+", str(value)))[:40]
