"""A model's architecture -> its logical tensors, by Megatron's names. Pure, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from refit.job import Job
from refit.layout.layout import Placement
from refit.layout.place import padded
from refit.layout.tensors import Catalogue, Family
from refit.model.attention import attention, latent_attention
from refit.model.linear_attention import gated_delta_net, linear_layers
from refit.model.lora import adapters
from refit.model.mamba import layers_of, mamba
from refit.model.moe_layers import moe_layers
from refit.model.multi_token import multi_token
from refit.model.parts import linear, norm
from refit.model.sizes import expert_ffn_size, ffn_size
from refit.model_config import Model


@dataclass(frozen=True)
class Convention:
    """How a build differs from production's tensors (Transformer Engine's), where it matters."""

    norms_dtype: str = "bfloat16"
    mla_down_sharded: bool = False  # production replicates MLA's down-projections over TP
    direct_query_norm: bool = False  # MLA's queries without q_lora_rank have a norm of their own


PRODUCTION = Convention()
LOCAL_SPEC = Convention(norms_dtype="float32", mla_down_sharded=True)
"""megatron-core's own modules, without Transformer Engine: torch norms keep fp32 weights, and MLA's
down-projections are plain column-parallel layers."""


def padded_vocab(model: Model, source_tp: int) -> int:
    """Vocabulary rows, padded as Megatron does by make_vocab_size_divisible_by * source TP."""
    return padded(model.vocab_size, model.make_vocab_size_divisible_by * source_tp)


def catalogue(
    model: Model,
    source_tp: int = 1,
    convention: Convention = PRODUCTION,
    vocab_rows: int | None = None,
) -> Catalogue:
    """The logical tensors of a model; of one with `lora` its adapters alone.

    Args:
        model: the architecture.
        source_tp: pads the vocabulary.
        convention: what the build at hand does otherwise than production.
        vocab_rows: of the vocabulary; None: padded as Megatron does.

    Raises:
        UserError: from `moe_layers`.
    """
    vocab = padded_vocab(model, source_tp) if vocab_rows is None else vocab_rows
    final = "final_layernorm" if model.hybrid_override_pattern is None else "final_norm"
    families = [
        *_embeddings(model, vocab),
        *_layers(model, convention),
        *norm(model, convention, f"decoder.{final}", model.hidden_size, (), "last"),
        *multi_token(model, convention, _layers),
        *_output_layer(model, vocab),
    ]
    if model.lora is not None:
        families = list(adapters(families, model.lora))
    return Catalogue(_numbered(families), model.num_layers)


def tensors_of(job: Job, placement: Placement, convention: Convention) -> Catalogue:
    """The logical tensors of a placed job: of the vocabulary the rows that all sides have."""
    rows = min(side.vocab_rows or job.model.vocab_size for side in placement.sides.values())
    tensors = catalogue(job.model, placement.source.tp, convention, rows)
    ties = job.model.share_embeddings_and_output_weights
    if ties and not all(side.tied for side in placement.destinations):
        return Catalogue(_numbered(_with_output_layer(tensors.families)), tensors.num_layers)
    return tensors


def _with_output_layer(families: tuple[Family, ...]) -> list[Family]:
    """Those of a model that ties its embeddings, for a side that does not: another copy."""
    of_words = "embedding.word_embeddings.weight"
    predicts_more = any(family.name.startswith("mtp.") for family in families)
    found = [
        replace(family, untied_stage="both" if predicts_more else "first")
        if family.name == of_words
        else family
        for family in families
    ]
    copies = [
        replace(family, name="output_layer.weight", untied_stage="last", copy_of=of_words)
        for family in families
        if family.name == of_words
    ]
    return found + copies


def _numbered(families: list[Family]) -> tuple[Family, ...]:
    """The families, each with the id of its first tensor."""
    numbered, base = [], 0
    for family in families:
        numbered.append(replace(family, base=base))
        base += family.count
    return tuple(numbered)


def _embeddings(model: Model, vocab: int) -> list[Family]:
    """Of words, [vocab, hidden]; and of positions where the model learns them.

    The last stage has those of words too where they are the output layer, or predict more tokens.
    """
    twice = model.share_embeddings_and_output_weights or model.mtp_num_layers
    stage = "both" if twice else "first"
    shape = (vocab, model.hidden_size)
    name = "embedding.word_embeddings.weight"
    families = [Family(name, shape, axis=0, stage=stage, is_vocabulary=True)]
    if model.position_embedding_type == "learned_absolute":
        shape = (model.max_position_embeddings, model.hidden_size)
        families.append(Family("embedding.position_embeddings.weight", shape, stage="first"))
    return families


def _output_layer(model: Model, vocab: int) -> list[Family]:
    """Its weight where the embedding of words is not shared, and its bias where there is one."""
    shape = (vocab, model.hidden_size)
    families = []
    if not model.share_embeddings_and_output_weights:
        name = "output_layer.weight"
        families.append(Family(name, shape, axis=0, stage="last", is_vocabulary=True))
    if model.add_output_bias:
        name = "output_layer.bias"
        families.append(Family(name, shape[:1], axis=0, stage="last", is_vocabulary=True))
    return families


def _layers(model: Model, convention: Convention) -> list[Family]:
    """All that a model has once per layer, in the order of a forward pass."""
    if model.hybrid_override_pattern is not None:
        return _hybrid_layers(model, convention)
    has_experts, is_linear, h = moe_layers(model), linear_layers(model), model.hidden_size
    layers = tuple(range(model.num_layers))
    full = tuple(layer for layer in layers if not is_linear[layer])
    attends = latent_attention if model.multi_latent_attention else attention
    after = layers if model.post_layernorm else ()
    return [
        *norm(model, convention, "input_layernorm", h, layers),
        *(attends(model, convention, full) if full else ()),
        *gated_delta_net(model, convention, tuple(n for n in layers if is_linear[n])),
        *(norm(model, convention, "post_self_attn_layernorm", h, after) if after else ()),
        *norm(model, convention, "pre_mlp_layernorm", h, layers),
        *_dense_mlp(model, tuple(layer for layer in layers if not has_experts[layer])),
        *_moe(model, tuple(layer for layer in layers if has_experts[layer])),
        *(norm(model, convention, "post_mlp_layernorm", h, after) if after else ()),
    ]


def _hybrid_layers(model: Model, convention: Convention) -> list[Family]:
    """Each layer is one thing alone, with a norm before it."""
    h = model.hidden_size
    attends, dense, routed = (layers_of(model, letter) for letter in ("*", "-", "E"))
    mlps = tuple(sorted(dense + routed))
    return [
        *mamba(model, convention, layers_of(model, "M")),
        *(norm(model, convention, "input_layernorm", h, attends) if attends else ()),
        *(attention(model, convention, attends) if attends else ()),
        *(norm(model, convention, "pre_mlp_layernorm", h, mlps) if mlps else ()),
        *_dense_mlp(model, dense),
        *_moe(model, routed),
    ]


def _mlp(name: str, model: Model, ffn: int, bias: bool, layers: tuple[int, ...]) -> list[Family]:
    parts = (ffn, ffn) if model.gated_linear_unit else ()
    return linear(
        f"{name}.linear_fc1", (sum(parts) or ffn, model.hidden_size), 0, bias, layers, parts
    ) + linear(f"{name}.linear_fc2", (model.hidden_size, ffn), 1, bias, layers)


def _dense_mlp(model: Model, layers: tuple[int, ...]) -> list[Family]:
    return _mlp("mlp", model, ffn_size(model), model.add_bias_linear, layers) if layers else []


def _moe(model: Model, layers: tuple[int, ...]) -> list[Family]:
    if not layers or not model.num_moe_experts:
        return []
    h, experts = model.hidden_size, model.num_moe_experts
    families = linear("mlp.router", (experts, h), None, model.add_bias_linear, layers)
    if model.moe_router_enable_expert_bias:
        name = "decoder.layers.{layer}.mlp.router.expert_bias"
        families.append(Family(name, (experts,), "float32", layers=layers, is_buffer=True))
    latent = model.moe_latent_size
    if latent:
        families += linear("mlp.fc1_latent_proj", (latent, h), None, model.add_bias_linear, layers)
        families += linear("mlp.fc2_latent_proj", (h, latent), None, model.add_bias_linear, layers)
    routed = replace(model, hidden_size=latent or h)
    width, bias = expert_ffn_size(model), model.add_bias_linear
    for family in _mlp("mlp.experts", routed, width, bias, layers):
        name = family.name + "{expert}"
        families.append(replace(family, name=name, grid="expert", num_experts=experts))
    shared = model.moe_shared_expert_intermediate_size
    if shared:
        if model.moe_shared_expert_gate:
            name = "decoder.layers.{layer}.mlp.shared_experts.gate_weight"
            families.append(Family(name, (1, h), layers=layers))
        families += _mlp("mlp.shared_experts", model, shared, False, layers)
    return families
