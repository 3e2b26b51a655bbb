"""What Megatron refuses in a model, whatever its layout.

Each rule takes the job and returns a reason or None. Together they mirror the checks of
megatron-core, above all of `TransformerConfig.__post_init__`, without importing it.
"""

from __future__ import annotations

from importlib.util import find_spec

from refit.job import Job
from refit.model import megatron_versions
from refit.model.convention import has_transformer_engine
from refit.model.moe_layers import moe_layers
from refit.rules.families import FAMILIES
from refit.rules.values import AUX_LOSSES, JobRule


def logits_need_float64(job: Job) -> str | None:
    """Only a real model has a forward pass, and only Megatron's own layers have it in float64."""
    if job.verify != "logits":
        return None
    if job.refit.include is not None or job.refit.exclude is not None:
        return (
            "verify=logits compares whole models, and refit.include and exclude leave tensors out;"
            " use verify=bits"
        )
    if job.build != "megatron":
        return f"verify=logits needs a forward pass, build={job.build} has none; use build=megatron"
    sides = job.parallel.sides
    for name, side in sides.items():
        if side.kind in ("fsdp", "engine"):
            return (
                f"verify=logits needs a forward pass, and parallel.{name}.kind={side.kind} has"
                " plain shards, without a model; use verify=bits"
            )
    if len({side.dtype or "bfloat16" for side in sides.values()}) > 1:
        return (
            "verify=logits compares sums to 1e-9, and sides of different dtypes round their"
            " weights apart; use verify=bits, which holds every cast against its own"
        )
    if has_transformer_engine():
        return (
            "verify=logits runs in float64, which Transformer Engine's layers do not compute; use"
            " verify=bits, which is the stronger check, or an environment without that"
        )
    return None


def head_size_whole(job: Job) -> str | None:
    """Megatron's arguments: without kv_channels, the heads share the hidden size evenly."""
    m = job.model
    given = m.kv_channels is not None or m.multi_latent_attention
    if not given and m.hidden_size % m.num_attention_heads:
        return (
            f"model.hidden_size={m.hidden_size} does not divide by model.num_attention_heads="
            f"{m.num_attention_heads}; choose another, or set model.kv_channels"
        )
    return None


def groups_share_heads(job: Job) -> str | None:
    """Every query group serves the same number of heads."""
    heads, groups = job.model.num_attention_heads, job.model.num_query_groups
    if groups is not None and heads % groups:
        return (
            f"model.num_attention_heads={heads} does not divide by model.num_query_groups={groups}"
        )
    return None


def positions_cover_sequence(job: Job) -> str | None:
    """Megatron's arguments: max_position_embeddings >= seq_length."""
    positions, sequence = job.model.max_position_embeddings, job.model.seq_length
    if sequence > positions:
        return (
            f"model.seq_length={sequence} is longer than model.max_position_embeddings={positions};"
            f" set model.max_position_embeddings={sequence} too"
        )
    return None


def latent_yarn_by_rope_type(job: Job) -> str | None:
    """Megatron's MLA makes its own rotary embedding, which rope_type chooses."""
    m = job.model
    if m.multi_latent_attention and m.position_embedding_type == "yarn":
        return (
            "model.position_embedding_type=yarn is of attention other than MLA's; with"
            " model.multi_latent_attention=true say rope, and model.rope_type=yarn"
        )
    return None


def expert_fields_need_experts(job: Job) -> str | None:
    """What gives experts a shape says nothing without them (Megatron asserts it for the first)."""
    for name in (
        "moe_ffn_hidden_size",
        "moe_latent_size",
        "moe_shared_expert_intermediate_size",
        "moe_router_group_topk",
        "moe_router_enable_expert_bias",
    ):
        value = getattr(job.model, name)
        if not job.model.is_moe and value:
            off = "false" if value is True else "null"
            return (
                f"model.{name}={value} needs experts, and model.num_moe_experts is null;"
                f" set model.num_moe_experts, or model.{name}={off}"
            )
    return None


def layer_pattern_valid(job: Job) -> str | None:
    """`moe_layer_freq` says for every layer whether it has experts; raises UserError if not."""
    moe_layers(job.model)
    return None


def topk_within_experts(job: Job) -> str | None:
    """A token cannot go to more experts than there are."""
    topk, experts = job.model.moe_router_topk, job.model.num_moe_experts
    if experts is not None and topk > experts:
        return f"model.moe_router_topk={topk} is more than model.num_moe_experts={experts}"
    return None


def topk_one_needs_pre_softmax(job: Job) -> str | None:
    """A softmax over one chosen expert is constant, so Megatron wants it before the choice."""
    m = job.model
    if (
        m.moe_router_topk == 1
        and m.moe_router_score_function == "softmax"
        and not m.moe_router_pre_softmax
        and m.moe_router_load_balancing_type != "sinkhorn"
    ):
        return (
            "model.moe_router_topk=1 needs model.moe_router_pre_softmax=true, or the sigmoid score"
        )
    return None


def expert_bias_needs_sigmoid(job: Job) -> str | None:
    """Megatron: expert bias (routing without an auxiliary loss) only supports sigmoid scores.

    A public model has it with softmax; its weights can be planned, and moved as plain shards.
    """
    m = job.model
    if m.moe_router_enable_expert_bias and m.moe_router_score_function != "sigmoid":
        if job.mode == "plan" or job.build == "shards":
            return None
        return (
            "model.moe_router_enable_expert_bias=true needs model.moe_router_score_function="
            f"sigmoid, which is {m.moe_router_score_function}; where it must be that, use"
            " build=shards: no tokens are routed"
        )
    return None


def shared_expert_without_bias(job: Job) -> str | None:
    """Megatron's SharedExpertMLP: bias is not supported in the shared experts."""
    m = job.model
    if m.is_moe and m.moe_shared_expert_intermediate_size is not None and m.add_bias_linear:
        return (
            "a shared expert (model.moe_shared_expert_intermediate_size="
            f"{m.moe_shared_expert_intermediate_size}) has no bias in Megatron; set"
            " model.add_bias_linear=false, or the size to null"
        )
    return None


def shared_overlap_needs_its_dispatchers(job: Job) -> str | None:
    """Megatron: moe_shared_expert_overlap only works with some token dispatchers, by version."""
    m, dispatchers = job.model, megatron_versions.OVERLAP_DISPATCHERS
    if (
        m.moe_shared_expert_overlap
        and m.moe_shared_expert_intermediate_size is not None
        and m.moe_token_dispatcher_type not in dispatchers
    ):
        return (
            "model.moe_shared_expert_overlap=true only works with model.moe_token_dispatcher_type="
            f"{' or '.join(dispatchers)} in megatron-core {megatron_versions.VERSION}; it is"
            f" {m.moe_token_dispatcher_type}"
        )
    return None


def capacity_needs_aux_loss(job: Job) -> str | None:
    """Megatron: a capacity factor works with the auxiliary losses or none, not with sinkhorn."""
    m = job.model
    if m.moe_expert_capacity_factor is not None and m.moe_router_load_balancing_type == "sinkhorn":
        return (
            f"model.moe_expert_capacity_factor={m.moe_expert_capacity_factor} does not work with"
            f" sinkhorn load balancing, only with {', '.join((*AUX_LOSSES, 'none'))}"
        )
    return None


def padding_needs_capacity(job: Job) -> str | None:
    """Padding to a capacity needs one; Megatron reads a negative factor as none."""
    m = job.model
    factor = m.moe_expert_capacity_factor
    if m.moe_pad_expert_input_to_capacity and (factor is None or factor < 0):
        return (
            "model.moe_pad_expert_input_to_capacity=true needs model.moe_expert_capacity_factor of"
            f" 0 or more, which is {'null' if factor is None else factor}"
        )
    return None


def deepep_does_not_pad(job: Job) -> str | None:
    """Megatron: the flex dispatcher on deepep does not support padding to capacity."""
    m = job.model
    if (
        m.moe_token_dispatcher_type == "flex"
        and m.moe_flex_dispatcher_backend == "deepep"
        and m.moe_pad_expert_input_to_capacity
    ):
        return (
            "model.moe_pad_expert_input_to_capacity=true does not work with the flex dispatcher on"
            " deepep; use model.moe_flex_dispatcher_backend=hybridep or another dispatcher"
        )
    return None


def routing_groups_valid(job: Job) -> str | None:
    """Group-limited routing: groups share the experts evenly, and no more are chosen than exist."""
    m = job.model
    chosen, groups, experts = m.moe_router_group_topk, m.moe_router_num_groups, m.num_moe_experts
    if chosen is None or experts is None:
        return None
    if groups is None:
        return f"model.moe_router_group_topk={chosen} needs model.moe_router_num_groups"
    wanted = f"model.moe_router_num_groups={groups}"
    if experts % groups:
        return f"model.num_moe_experts={experts} does not divide into {wanted}"
    if chosen > groups:
        return f"model.moe_router_group_topk={chosen} is more than {wanted}"
    return None


def sinkhorn_without_loss(job: Job) -> str | None:
    """Megatron's router, in a forward pass: sinkhorn routing does not support aux loss."""
    m = job.model
    if (
        job.verify == "logits"
        and m.moe_router_load_balancing_type == "sinkhorn"
        and m.moe_aux_loss_coeff != 0
    ):
        return (
            f"verify=logits routes tokens, and sinkhorn routing has no auxiliary loss: set"
            f" model.moe_aux_loss_coeff=0, which is {m.moe_aux_loss_coeff}"
        )
    return None


def fused_permute_installed(job: Job) -> str | None:
    """Megatron takes moe_permute_fusion only where Transformer Engine is installed."""
    missing = job.build == "megatron" and find_spec("transformer_engine") is None
    if missing and job.model.moe_permute_fusion:
        return (
            "model.moe_permute_fusion=true needs Transformer Engine 2.1 or newer, which is not"
            " installed; leave it out (weights do not depend on it), or use build=shards"
        )
    return None


MODEL: tuple[JobRule, ...] = (
    logits_need_float64,
    head_size_whole,
    groups_share_heads,
    positions_cover_sequence,
    latent_yarn_by_rope_type,
    expert_fields_need_experts,
    layer_pattern_valid,
    topk_within_experts,
    topk_one_needs_pre_softmax,
    expert_bias_needs_sigmoid,
    shared_expert_without_bias,
    shared_overlap_needs_its_dispatchers,
    capacity_needs_aux_loss,
    padding_needs_capacity,
    deepep_does_not_pad,
    routing_groups_valid,
    sinkhorn_without_loss,
    fused_permute_installed,
    *FAMILIES,
)
