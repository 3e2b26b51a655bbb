"""Rules about what of a model must divide by which degree of its layouts."""

from __future__ import annotations

from refit.errors import UserError
from refit.job import Job
from refit.layout.layout import Placement
from refit.model.architecture import tensors_of
from refit.model.convention import build_of
from refit.model.mamba import mamba_heads
from refit.model.moe_layers import moe_layers
from refit.model.sizes import expert_ffn_size, ffn_size, head_size, query_groups


def experts_divide(job: Job, placement: Placement) -> str | None:
    """Every expert-parallel rank has the same number of experts."""
    experts = job.model.num_moe_experts
    for name, side in placement.sides.items():
        if any(moe_layers(job.model)) and experts is not None and experts % side.ep:
            return _indivisible("model.num_moe_experts", experts, f"parallel.{name}.ep", side.ep)
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


def _indivisible(what: str, size: int, degree: str, parts: int) -> str:
    fits = next(d for d in range(min(parts - 1, size), 0, -1) if size % d == 0)
    return f"{what}={size} does not divide by {degree}={parts}; the next below that does: {fits}"
