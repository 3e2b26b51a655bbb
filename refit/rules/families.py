"""What a model's kinds of weights need of each other and of a build, and its published count."""

from __future__ import annotations

from refit.job import Job
from refit.model.linear_attention import linear_layers
from refit.model.mamba import layers_of
from refit.model.parameters import mismatch
from refit.model_config import Model
from refit.rules.values import JobRule

SHARDS_ALONE = {
    "add_proj_bias": "has no bias of linear_proj alone",
    "add_norm_bias": "has a bias in LayerNorm",
    "add_output_bias": "has no bias of the output layer",
    "post_layernorm": "has no norms behind attention and the MLP",
    "qk_layernorm_over_heads": "norms the queries and keys of each head",
    "experimental_attention_variant": "builds it by Transformer Engine on GPUs alone",
    "moe_latent_size": "builds its projections by Transformer Engine on GPUs alone",
    "hybrid_override_pattern": "builds Mamba's layers by Transformer Engine on GPUs alone",
    "attention_output_gate": "has it in a model that is built by Transformer Engine on GPUs alone",
}
"""Fields whose weights `build=megatron` does not make, and what megatron-core does instead."""

_OF_VARIANTS = {
    "gated_delta_net": ("linear_attention_freq",),
    "dsa": ("dsa_indexer_n_heads", "dsa_indexer_head_dim", "dsa_indexer_topk"),
}


def variant_is_whole(job: Job) -> str | None:
    """An attention variant says all its sizes, and without it they say nothing."""
    m, variant = job.model, job.model.experimental_attention_variant
    for name, own in _OF_VARIANTS.items():
        said = [field for field in own if getattr(m, field) is not None]
        if said and variant != name:
            return (
                f"model.{said[0]}={getattr(m, said[0])} is of"
                f" model.experimental_attention_variant={name}, which is {variant or 'null'}; set"
                " one or leave out the other"
            )
        missing = [field for field in own if field not in said]
        if variant == name and missing:
            return f"model.experimental_attention_variant={name} needs model.{missing[0]}; set it"
    linear_layers(m)
    keys, values = m.linear_num_key_heads, m.linear_num_value_heads
    if variant == "gated_delta_net" and values % keys:
        return (
            f"model.linear_num_value_heads={values} is no multiple of"
            f" model.linear_num_key_heads={keys}; choose one"
        )
    return None


def kinds_agree(job: Job) -> str | None:
    """What says something only of one kind of attention or norm."""
    m = job.model
    latent = m.multi_latent_attention
    for field, needs, there in (
        ("attention_output_gate", "model.multi_latent_attention=false", not latent),
        ("qk_layernorm_over_heads", "model.multi_latent_attention=false", not latent),
        ("qk_layernorm_over_heads", "model.qk_layernorm=true", m.qk_layernorm),
        ("add_proj_bias", "model.multi_latent_attention=false", not latent),
    ):
        if getattr(m, field) and not there:
            return f"model.{field}=true needs {needs}; set it, or leave {field} out"
    if reason := _hybrid(m):
        return reason
    if not m.add_norm_bias and m.normalization != "LayerNorm":
        return (
            f"model.add_norm_bias=false is of LayerNorm, and model.normalization is"
            f" {m.normalization}, which has no bias; leave it out"
        )
    if m.experimental_attention_variant == "dsa" and not latent:
        return (
            "model.experimental_attention_variant=dsa needs model.multi_latent_attention=true: its"
            " indexer chooses tokens for latent attention"
        )
    return None


def _hybrid(m: Model) -> str | None:
    """What a hybrid model cannot have besides."""
    if m.hybrid_override_pattern is None:
        return None
    for field in (
        "multi_latent_attention",
        "mtp_num_layers",
        "post_layernorm",
        "experimental_attention_variant",
    ):
        if value := getattr(m, field):
            return (
                f"model.hybrid_override_pattern and model.{field}={value}: no hybrid model that is"
                " modelled has both; leave one out"
            )
    if "E" in m.hybrid_override_pattern and not m.is_moe:
        return "model.hybrid_override_pattern has E, and model.num_moe_experts is null; set it"
    layers_of(m, "M")
    return None


def megatron_builds_it(job: Job) -> str | None:
    """Some public models' weights no module of megatron-core has, or none that a CPU can build."""
    peer = job.refit.method == "megatron"  # whose planner goes by such modules in mode=plan too
    if not peer and (job.build != "megatron" or job.mode == "plan"):
        return None
    out = "use another method" if peer else "use build=shards: the same tensors"
    for field, why in SHARDS_ALONE.items():
        value = getattr(job.model, field)
        if value != getattr(Model, field):
            said = str(value).lower() if isinstance(value, bool) else value
            return f"model.{field}={said}: megatron-core {why}; {out}"
    return None


def more_tokens_are_looked_at(job: Job) -> str | None:
    """Layers of multi-token prediction are proven bit by bit, by our own plans."""
    if not job.model.mtp_num_layers:
        return None
    said = f"model.mtp_num_layers={job.model.mtp_num_layers}"
    if job.verify == "logits":
        return f"{said}: verify=logits compares no predictions of more tokens; use verify=bits"
    if job.refit.method == "megatron":
        return f"{said}: refit=megatron was never tried with such layers; use another method"
    return None


def published_parameters_match(job: Job) -> str | None:
    """A model has as many parameters as its makers count, or it is another model."""
    return mismatch(job.model)


FAMILIES: tuple[JobRule, ...] = (
    variant_is_whole,
    kinds_agree,
    megatron_builds_it,
    more_tokens_are_looked_at,
    published_parameters_match,
)
