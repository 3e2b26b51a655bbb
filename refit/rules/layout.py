"""Rules about a model in its two layouts, and about the machine that they need."""

from __future__ import annotations

from collections.abc import Callable

from refit.errors import UserError
from refit.job import Job
from refit.layout import order as rank_order
from refit.layout.layout import Placement
from refit.layout.ranks import span
from refit.model.architecture import tensors_of
from refit.model.convention import build_of
from refit.model.moe_layers import moe_layers
from refit.plan.selection import meets, names_of, selected
from refit.rules import divides
from refit.rules.values import JobRule

Rule = Callable[[Job, Placement], str | None]


def pair_of_another_model(job: Job, placement: Placement) -> str | None:
    """A public pair says whose it is, so that globbing all pairs takes only those that fit."""
    owner, name = job.parallel.model, job.model.name
    if owner in (None, name, job.model.pairs_of):
        return None
    return (
        f"the pair '{job.parallel.name}' is {owner}'s, and the model is {name}; use model={owner},"
        " or parallel.model=null to try it all the same"
    )


def too_many_gpus(job: Job, placement: Placement) -> str | None:
    """A pair needs source + destination GPUs, or the larger of both when collocated.

    Of several destinations it is their sum.
    """
    nodes, per_node = job.parallel.nodes, job.cluster.ranks_per_node
    if nodes is not None and nodes < 1:
        return f"parallel.nodes={nodes}: must be 1 or more, or null for as many as the cluster has"
    planned = job.mode == "plan"  # a planned cluster is as large as it needs
    has = job.cluster.nodes * per_node
    where, more = f"cluster '{job.cluster.name}' has {has}", "a larger cluster"
    if nodes is not None and (planned or nodes < job.cluster.nodes):
        has, more = nodes * per_node, "parallel.nodes=null"
        where = f"the pair is for {nodes} node(s) of {per_node} (parallel.nodes)"
    elif planned:
        return None
    if placement.end <= has:
        return None
    how, out = _needed(job, placement, has, more)
    return f"needs {placement.end} GPUs ({how}), {where}; use {out}"


def _needed(job: Job, placement: Placement, has: int, more: str) -> tuple[str, str]:
    """How the GPUs that a pair needs add up, and what helps where there are fewer.

    Args:
        more: what else helps.
    """
    source = placement.source.gpus
    each = [layout.gpus for layout in placement.destinations]
    larger = max(source, sum(each))
    collocated = job.placement_mode == "collocated"
    destination = "+".join(map(str, each))
    out = f"smaller degrees or {more}"
    if placement.end != (larger if collocated else source + sum(each)):
        sides = placement.sides.items()
        how = ", ".join(f"{name} on ranks {span(side.ranks)}" for name, side in sides)
        out = f"a smaller offset, no node_aligned, {out}"
    elif collocated:
        how = f"max(source {source}, destination {destination})"
    else:
        how = f"source {source} + destination {destination}"
        if larger <= has:
            out = f"collocated mode (needs {larger}) or {out}"
    return how, out


def order_has_one_pipeline(job: Job, placement: Placement) -> str | None:
    """Megatron: an order that does not end with pp gives attention and experts the same stages.

    A dense model has expert groups too, with ETP = TP, and so no context parallelism then.
    """
    for name, side in placement.sides.items():
        expert = side.expert_sizes
        if not job.model.is_moe:
            expert = {"tp": side.tp, "ep": 1, "dp": side.dp * side.cp, "pp": side.pp}
        try:
            rank_order.check_pipelines(side.order, side.dense_sizes, expert)
        except UserError as error:
            return f"parallel.{name}: {error}"
    return None


def expert_bias_needs_etp_1(job: Job) -> str | None:
    """Megatron: experts cut over ETP have no bias. The way in is mostly the default, ETP = TP."""
    if not job.model.add_bias_linear or not any(moe_layers(job.model)):
        return None  # a model whose moe_layer_freq names no layer has no expert that could have one
    for name, side in job.parallel.sides.items():
        etp = job.parallel.etp_of(side)
        if etp <= 1:
            continue
        # a destination's default is the source's ETP, so with one above 1 the source is told first
        why = f"parallel.{name}.etp={etp}" + ("" if side.etp else f", by default tp={side.tp}")
        return (
            f"Bias in Moe is only supported when ETP==1: {why}, with model.add_bias_linear=true;"
            f" set parallel.{name}.etp=1 (experts stay whole), or model.add_bias_linear=false"
        )
    return None


FIRST: tuple[JobRule, ...] = (expert_bias_needs_etp_1,)
"""Told before whatever else is wrong with the model or its layouts, which may follow from it."""


def ep_needs_experts(job: Job, placement: Placement) -> str | None:
    """Megatron: expert parallelism needs num_moe_experts. ETP without experts says nothing."""
    for name, side in placement.sides.items():
        if side.ep > 1 and not job.model.is_moe:
            return (
                f"parallel.{name}.ep={side.ep} needs experts, and model '{job.model.name}'"
                f" has none; set parallel.{name}.ep=1 or choose a model with experts"
            )
    return None


def experts_have_slots(job: Job, placement: Placement) -> str | None:
    """A tensor of all of a rank's experts has a slot for each, and no GPTModel has one."""
    for name, side in placement.sides.items():
        if side.expert_slots is None:
            continue
        said = f"parallel.{name}.expert_slots={side.expert_slots}"
        if not job.model.num_moe_experts:
            return f"{said}, and model '{job.model.name}' has no experts; leave it out"
        if side.kind == "megatron" and job.build == "megatron" and job.mode == "measure":
            return f"{said}: GPTModels have a tensor for each expert; use build=shards"
        held = job.model.num_moe_experts // side.ep
        if side.expert_slots < held:
            return f"{said}, and each rank has {held} experts; it must be {held} or more"
    return None


def said_of_sides_matters(job: Job, placement: Placement) -> str | None:
    """What would change nothing is refused, not dropped."""
    for name, side in placement.sides.items():
        if side.gate_up_interleaved and not job.model.gated_linear_unit:
            return (
                f"parallel.{name}.gate_up_interleaved=true, and model '{job.model.name}' has no"
                " gate (model.gated_linear_unit=false); leave it out"
            )
    if job.refit.cast_at != "auto" and not placement.source.casts:
        return (
            f"refit.cast_at={job.refit.cast_at}, and all sides have the same dtype; leave it out,"
            " or set the dtype of one side"
        )
    return None


def only_a_destination_unties(job: Job, placement: Placement) -> str | None:
    """What is trained the model says; a destination may keep a copy that the source does not."""
    field, model = "share_embeddings_and_output_weights", job.model
    for name, side in job.parallel.sides.items():
        said = getattr(side, field)
        if said is None or said == getattr(model, field):
            continue
        if name != "source" and model.share_embeddings_and_output_weights:
            continue
        why = (
            "the source trains what the model says"
            if name == "source"
            else "two tensors do not fit into one"
        )
        return (
            f"parallel.{name}.{field}={str(said).lower()}, and model.{field} is"
            f" {str(not said).lower()}: {why}; set model.{field}={str(said).lower()}, or leave the"
            " side's out"
        )
    return None


def padding_is_there(job: Job, placement: Placement) -> str | None:
    """Unchecked is said only of padding that a side has."""
    families = tensors_of(job, placement, build_of(job).convention).families
    for name, side in placement.sides.items():
        spare = (side.expert_slots or 0) * side.ep > (job.model.num_moe_experts or 0)
        if side.padding_is_checked or spare or any(f.cut(side).has_padding for f in families):
            continue
        return (
            f"parallel.{name}.padding=unchecked, and no shard of {side.describe()} has padding;"
            " leave it out"
        )
    return None


def patterns_meet_tensors(job: Job, placement: Placement) -> str | None:
    """A pattern that meets nothing is a mistake, and so is leaving all out."""
    if job.refit.include is None and job.refit.exclude is None:
        return None
    tensors = tensors_of(job, placement, build_of(job).convention)
    names = names_of(tensors)
    for field in ("include", "exclude"):
        for pattern in getattr(job.refit, field) or ():
            if not meets(names, [pattern]).any():
                return (
                    f"refit.{field}: '{pattern}' meets no tensor of model {job.model.name}; they"
                    f" are {names[0]} to {names[-1]}, {len(names)} in all"
                )
    travels = selected(tensors, job.refit)
    if travels is not None and not travels.any():
        return "refit.include and refit.exclude leave nothing to move"
    return None


LAYOUT: tuple[Rule, ...] = (
    pair_of_another_model,
    too_many_gpus,
    order_has_one_pipeline,
    ep_needs_experts,
    divides.experts_divide,
    experts_have_slots,
    said_of_sides_matters,
    divides.heads_divide,
    divides.query_groups_divide,
    divides.widths_divide,
    divides.latent_ranks_divide,
    divides.latent_groups_divide,
    divides.vocabulary_divides,
    only_a_destination_unties,
    divides.layers_divide,
    divides.cut_axes_divide,
    padding_is_there,
    patterns_meet_tensors,
)
