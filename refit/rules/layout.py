"""Rules about a model in its two layouts, and about the machine that they need."""

from __future__ import annotations

from collections.abc import Callable

from refit.job import Job, UserError
from refit.layout import order as rank_order
from refit.layout.layout import Placement
from refit.layout.ranks import span
from refit.model.architecture import tensors_of
from refit.model.convention import build_of
from refit.model.mamba import mamba_heads
from refit.model.moe_layers import moe_layers
from refit.model.sizes import expert_ffn_size, ffn_size, head_size, query_groups
from refit.plan.selection import meets, names_of, selected
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


def experts_divide(job: Job, placement: Placement) -> str | None:
    """Every expert-parallel rank has the same number of experts."""
    experts = job.model.num_moe_experts
    for name, side in placement.sides.items():
        if any(moe_layers(job.model)) and experts is not None and experts % side.ep:
            return _indivisible("model.num_moe_experts", experts, f"parallel.{name}.ep", side.ep)
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


def heads_divide(job: Job, placement: Placement) -> str | None:
    """Attention is cut between heads, and what takes its place between its own."""
    m = job.model
    cut = {"num_attention_heads": m.num_attention_heads}
    if m.experimental_attention_variant == "gated_delta_net":
        cut["linear_num_key_heads"] = m.linear_num_key_heads
    if m.hybrid_override_pattern is not None:
        cut |= {"mamba_num_groups": m.mamba_num_groups, "mamba_num_heads": mamba_heads(m)}
    for name, side in placement.sides.items():
        for field, heads in cut.items():
            if heads % side.tp:
                return _indivisible(f"model.{field}", heads, f"parallel.{name}.tp", side.tp)
    return None


def query_groups_divide(job: Job, placement: Placement) -> str | None:
    """Query groups divide over TP; or TP over them, and linear_qkv's rows are cut in a group."""
    m, groups, size = job.model, query_groups(job.model), head_size(job.model)
    for name, side in placement.sides.items():
        if groups % side.tp and side.tp % groups:
            return (
                f"model.num_query_groups={groups} is neither a multiple nor a divisor of"
                f" parallel.{name}.tp={side.tp}; choose a tp that is"
            )
        queries = m.num_attention_heads * (2 if m.attention_output_gate else 1)
        rows = (queries + 2 * groups) * size
        if side.kind == "megatron" and not m.multi_latent_attention and rows % side.tp:
            of_heads = (
                f"{m.num_attention_heads} heads"
                if queries == m.num_attention_heads
                else (f"{queries} of heads and their gates")
            )
            what = f"linear_qkv's rows, ({of_heads} + 2 * {groups} groups) * {size}"
            return _indivisible(what, rows, f"parallel.{name}.tp", side.tp)
    return None


def widths_divide(job: Job, placement: Placement) -> str | None:
    """Dense and shared MLPs are cut over TP, experts over ETP."""
    m, layers = job.model, moe_layers(job.model)
    for name, side in placement.sides.items():
        cuts = []
        if not all(layers):
            cuts.append(("model.ffn_hidden_size", ffn_size(m), "tp", side.tp))
        if any(layers):
            cuts.append(("model.moe_ffn_hidden_size", expert_ffn_size(m), "etp", side.etp))
            shared = m.moe_shared_expert_intermediate_size or 0
            cuts.append(("model.moe_shared_expert_intermediate_size", shared, "tp", side.tp))
        for what, size, degree, parts in cuts:
            if size % parts:
                return _indivisible(what, size, f"parallel.{name}.{degree}", parts)
    return None


def latent_ranks_divide(job: Job, placement: Placement) -> str | None:
    """MLA's down-projections, in builds that cut them over TP (without Transformer Engine)."""
    m = job.model
    if not m.multi_latent_attention or not build_of(job).convention.mla_down_sharded:
        return None
    for name, side in placement.sides.items():
        if side.kind == "engine":
            return (
                f"parallel.{name}.kind=engine has MLA's down-projections whole, and build=megatron"
                " has them cut without Transformer Engine; use build=shards"
            )
        kv = m.kv_lora_rank + m.qk_pos_emb_head_dim
        for what, size in (
            ("model.q_lora_rank", m.q_lora_rank or 0),
            (f"kv_lora_rank {m.kv_lora_rank} + qk_pos_emb_head_dim {m.qk_pos_emb_head_dim}", kv),
        ):
            if size % side.tp:
                return _indivisible(what, size, f"parallel.{name}.tp", side.tp)
    return None


def latent_groups_divide(job: Job, placement: Placement) -> str | None:
    """MLA has no query groups; without Transformer Engine, Megatron divides them over TP though."""
    groups = query_groups(job.model)
    if not job.model.multi_latent_attention or not build_of(job).convention.mla_down_sharded:
        return None
    for name, side in placement.sides.items():
        if groups % side.tp:
            return (
                f"model.num_query_groups={groups} means nothing to latent attention, and without"
                f" Transformer Engine megatron-core still divides it over parallel.{name}.tp="
                f"{side.tp}; leave it out"
            )
    return None


def vocabulary_divides(job: Job, placement: Placement) -> str | None:
    """The source pads the vocabulary; the destination must be able to cut what came out.

    A side with a multiple of its own always can.
    """
    m = job.model
    for name, side in placement.sides.items():
        rows, tp = side.vocab_rows or m.vocab_size, side.tp
        if rows % tp == 0:
            continue
        how = f"padded to {rows} (a multiple of {m.make_vocab_size_divisible_by} * source tp"
        how = f"{how} {placement.source.tp})" if placement.source.kind == "megatron" else "as it is"
        return (
            f"the vocabulary, {m.vocab_size} {how}, does not divide by parallel.{name}.tp={tp};"
            f" set parallel.{name}.make_vocab_size_divisible_by=1, which pads it there, or"
            f" model.make_vocab_size_divisible_by to a multiple of {tp}"
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


def layers_divide(job: Job, placement: Placement) -> str | None:
    """Pipeline stages get whole layers, evenly or as the first and last stage say."""
    for name, side in placement.sides.items():
        try:
            side.stage_layers(job.model.num_layers)
        except UserError as error:
            return f"parallel.{name}: {error}"
    return None


def cut_axes_divide(job: Job, placement: Placement) -> str | None:
    """Every cut axis of every tensor divides on both sides: the net below the rules before it."""
    for family in tensors_of(job, placement, build_of(job).convention).families:
        for name, side in placement.sides.items():
            try:
                family.cut(side)
            except UserError as error:
                return f"parallel.{name} ({side.describe()}): {error}"
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
    experts_divide,
    experts_have_slots,
    said_of_sides_matters,
    heads_divide,
    query_groups_divide,
    widths_divide,
    latent_ranks_divide,
    latent_groups_divide,
    vocabulary_divides,
    only_a_destination_unties,
    layers_divide,
    cut_axes_divide,
    padding_is_there,
    patterns_meet_tensors,
)


def _indivisible(what: str, size: int, degree: str, parts: int) -> str:
    fits = next(d for d in range(min(parts - 1, size), 0, -1) if size % d == 0)
    return f"{what}={size} does not divide by {degree}={parts}; the next below that does: {fits}"
