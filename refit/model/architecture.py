"""A model's architecture -> its logical tensors, by Megatron's names. Pure, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from refit.job import Job, Model
from refit.layout.layout import Placement
from refit.layout.place import padded
from refit.layout.tensors import Catalogue, Family
from refit.model.lora import adapters
from refit.model.moe_layers import moe_layers


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
    families = [
        *_embeddings(model, vocab),
        *_layers(model, convention),
        *_norm(model, convention, "decoder.final_layernorm", model.hidden_size, (), "last"),
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
    found = [
        replace(family, untied_stage="first") if family.name == of_words else family
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
    """Of words, [vocab, hidden]; and of positions where the model learns them."""
    stage = "both" if model.share_embeddings_and_output_weights else "first"
    shape = (vocab, model.hidden_size)
    name = "embedding.word_embeddings.weight"
    families = [Family(name, shape, axis=0, stage=stage, is_vocabulary=True)]
    if model.position_embedding_type == "learned_absolute":
        shape = (model.max_position_embeddings, model.hidden_size)
        families.append(Family("embedding.position_embeddings.weight", shape, stage="first"))
    return families


def _output_layer(model: Model, vocab: int) -> list[Family]:
    """None of its own where the embedding of words is shared."""
    if model.share_embeddings_and_output_weights:
        return []
    shape = (vocab, model.hidden_size)
    return [Family("output_layer.weight", shape, axis=0, stage="last", is_vocabulary=True)]


def _layers(model: Model, convention: Convention) -> list[Family]:
    """All that a model has once per layer, in the order of a forward pass."""
    has_experts, h = moe_layers(model), model.hidden_size
    layers = tuple(range(model.num_layers))
    attention = _latent_attention if model.multi_latent_attention else _attention
    return [
        *_norm(model, convention, "input_layernorm", h, layers),
        *attention(model, convention, layers),
        *_norm(model, convention, "pre_mlp_layernorm", h, layers),
        *_dense_mlp(model, tuple(layer for layer in layers if not has_experts[layer])),
        *_moe(model, tuple(layer for layer in layers if has_experts[layer])),
    ]


def _norm(
    model: Model,
    convention: Convention,
    name: str,
    size: int,
    layers: tuple[int, ...],
    stage: str = "layer",
) -> list[Family]:
    prefix = "decoder.layers.{layer}." if layers else ""
    return [
        Family(
            f"{prefix}{name}.{leaf}", (size,), convention.norms_dtype, layers=layers, stage=stage
        )
        for leaf in _norm_leaves(model)
    ]


def _norm_leaves(model: Model) -> list[str]:
    return ["weight", "bias"] if model.normalization == "LayerNorm" else ["weight"]


def _fused_norm(model: Model, linear: str, size: int, layers: tuple[int, ...]) -> list[Family]:
    """A norm that exists only inside the linear layer that it feeds."""
    prefix = f"decoder.layers.{{layer}}.{linear}.layer_norm_"
    return [Family(prefix + leaf, (size,), layers=layers) for leaf in _norm_leaves(model)]


def _linear(
    name: str,
    shape: tuple[int, int],
    axis: int | None,
    bias: bool,
    layers: tuple[int, ...],
    parts: tuple[int, ...] = (),
    fused: tuple[int, ...] = (),
) -> list[Family]:
    """A [out, in] weight, and its bias [out] where asked.

    The bias is cut like the rows, and whole where columns are cut.
    """
    fused = fused or parts
    families = [
        Family(
            f"decoder.layers.{{layer}}.{name}.weight",
            shape,
            axis=axis,
            parts=parts,
            fused=fused,
            layers=layers,
        )
    ]
    if bias:
        cut = 0 if axis == 0 else None
        families.append(
            Family(
                f"decoder.layers.{{layer}}.{name}.bias",
                shape[:1],
                axis=cut,
                parts=parts,
                fused=fused,
                layers=layers,
            )
        )
    return families


def head_size(model: Model) -> int:
    """`kv_channels`, by default hidden_size / num_attention_heads."""
    return model.kv_channels or model.hidden_size // model.num_attention_heads


def query_groups(model: Model) -> int:
    """`num_query_groups`, by default one per head."""
    return model.num_query_groups or model.num_attention_heads


def ffn_size(model: Model) -> int:
    """`ffn_hidden_size`, by default 4 * hidden_size."""
    return model.ffn_hidden_size or 4 * model.hidden_size


def expert_ffn_size(model: Model) -> int:
    """`moe_ffn_hidden_size`, by default the dense size."""
    return model.moe_ffn_hidden_size or ffn_size(model)


def _sinks(model: Model, layers: tuple[int, ...]) -> list[Family]:
    """GPT-OSS: in every head's softmax, one learnt logit that takes attention from the tokens."""
    if model.softmax_type != "learnable":
        return []
    name = "decoder.layers.{layer}.self_attention.core_attention.softmax_offset"
    return [Family(name, (model.num_attention_heads,), axis=0, layers=layers)]


def _attention(model: Model, convention: Convention, layers: tuple[int, ...]) -> list[Family]:
    h, heads, groups, size = (
        model.hidden_size,
        model.num_attention_heads,
        query_groups(model),
        head_size(model),
    )
    qkv_bias = model.add_bias_linear or model.add_qkv_bias
    families = _linear(
        "self_attention.linear_qkv",
        ((heads + 2 * groups) * size, h),
        0,
        qkv_bias,
        layers,
        # of each group its queries, its key and its value
        fused=(heads // groups * size, size, size),
    )
    if model.qk_layernorm:
        families += _norm(model, convention, "self_attention.q_layernorm", size, layers)
        families += _norm(model, convention, "self_attention.k_layernorm", size, layers)
    families += _sinks(model, layers)
    return families + _linear(
        "self_attention.linear_proj", (h, heads * size), 1, model.add_bias_linear, layers
    )


def _latent_attention(
    model: Model, convention: Convention, layers: tuple[int, ...]
) -> list[Family]:
    """Latent attention, arXiv:2405.04434, section 2.1, as Megatron's MLASelfAttention has it.

    Keys and values come from one latent of kv_lora_rank, beside qk_pos_emb_head_dim columns that
    carry the position; queries from one of q_lora_rank, or where that is null from the hidden
    state itself.
    """
    h, heads, rank = model.hidden_size, model.num_attention_heads, model.kv_lora_rank
    query = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
    down = 0 if convention.mla_down_sharded else None
    families: list[Family] = []
    if model.q_lora_rank is None:
        families += _linear("self_attention.linear_q_proj", (query, h), 0, False, layers)
        if model.qk_layernorm and convention.direct_query_norm:
            families += _fused_norm(model, "self_attention.linear_q_proj", h, layers)
    else:
        families += _linear(
            "self_attention.linear_q_down_proj", (model.q_lora_rank, h), down, False, layers
        )
        families += _linear(
            "self_attention.linear_q_up_proj", (query, model.q_lora_rank), 0, False, layers
        )
        if model.qk_layernorm:
            families += _norm(
                model, convention, "self_attention.q_layernorm", model.q_lora_rank, layers
            )
    kv_down = (rank + model.qk_pos_emb_head_dim, h)
    families += _linear("self_attention.linear_kv_down_proj", kv_down, down, False, layers)
    if model.qk_layernorm:
        families += _norm(model, convention, "self_attention.kv_layernorm", rank, layers)
    kv_up = (heads * (model.qk_head_dim + model.v_head_dim), rank)
    families += _linear("self_attention.linear_kv_up_proj", kv_up, 0, False, layers)
    families += _sinks(model, layers)
    out = (h, heads * model.v_head_dim)
    return families + _linear("self_attention.linear_proj", out, 1, model.add_bias_linear, layers)


def _mlp(name: str, model: Model, ffn: int, bias: bool, layers: tuple[int, ...]) -> list[Family]:
    parts = (ffn, ffn) if model.gated_linear_unit else ()
    return _linear(
        f"{name}.linear_fc1", (sum(parts) or ffn, model.hidden_size), 0, bias, layers, parts
    ) + _linear(f"{name}.linear_fc2", (model.hidden_size, ffn), 1, bias, layers)


def _dense_mlp(model: Model, layers: tuple[int, ...]) -> list[Family]:
    return _mlp("mlp", model, ffn_size(model), model.add_bias_linear, layers) if layers else []


def _moe(model: Model, layers: tuple[int, ...]) -> list[Family]:
    if not layers or not model.num_moe_experts:
        return []
    h, experts = model.hidden_size, model.num_moe_experts
    families = _linear("mlp.router", (experts, h), None, model.add_bias_linear, layers)
    if model.moe_router_enable_expert_bias:
        name = "decoder.layers.{layer}.mlp.router.expert_bias"
        families.append(Family(name, (experts,), "float32", layers=layers, is_buffer=True))
    for family in _mlp("mlp.experts", model, expert_ffn_size(model), model.add_bias_linear, layers):
        name = family.name + "{expert}"
        families.append(replace(family, name=name, grid="expert", num_experts=experts))
    shared = model.moe_shared_expert_intermediate_size
    if shared:
        if model.moe_shared_expert_gate:
            name = "decoder.layers.{layer}.mlp.shared_experts.gate_weight"
            families.append(Family(name, (1, h), layers=layers))
        families += _mlp("mlp.shared_experts", model, shared, False, layers)
    return families
