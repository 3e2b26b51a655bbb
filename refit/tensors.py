"""Model -> logical tensors: names, whole shapes, dtypes, and how each is sharded. Pure, no torch.

A logical tensor is one weight of the whole model, under its global layer and expert number, however
ranks share it. A `Family` is the set of tensors that differ only in those two numbers, so a model of
70 000 tensors is some thirty families.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refit.job import Model, UserError
from refit.layout import IntArray, Layout

ITEMSIZE = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Family:
    """Tensors alike in all but layer and expert.

    Attributes:
        name: with `{layer}` and `{expert}` where they vary.
        shape: of the whole tensor, before any sharding.
        dtype: `bfloat16` or `float32`.
        axis: the dimension cut over TP (over ETP for experts), or None where every rank has it whole.
        chunks: equal parts of `axis` that are each cut on their own: 2 for gate and up (Megatron's
            partition_stride).
        grid: `dense` or `expert`: which of the layout's two rank grids shards it.
        layers: global layer numbers, from 0; empty for what lies outside the layers.
        stage: the pipeline stage outside the layers: `first`, `last`, or `both` for tied embeddings,
            of which a last stage that is not the first keeps its own copy.
        num_experts: 0 where there are none.
        is_buffer: a persistent buffer, not a parameter.
        base: id of its first tensor; ids go by layer, then expert.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "bfloat16"
    axis: int | None = None
    chunks: int = 1
    grid: str = "dense"
    layers: tuple[int, ...] = ()
    stage: str = "layer"
    num_experts: int = 0
    is_buffer: bool = False
    base: int = 0

    @property
    def count(self) -> int:
        """Tensors in the family."""
        return max(1, len(self.layers)) * max(1, self.num_experts)

    @property
    def elements(self) -> int:
        """Elements of one whole tensor."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def length(self) -> int:
        """Size along the cut axis; along the first where there is none."""
        return self.shape[self.axis or 0]

    @property
    def bytes_per_index(self) -> int:
        """Bytes of one index along the cut axis."""
        return self.elements // self.length * ITEMSIZE[self.dtype]

    def tensor_name(self, layer: int | None = None, expert: int | None = None) -> str:
        return self.name.format(layer=layer, expert=expert)

    def shards(self, layout: Layout) -> int:
        """Into how many shards this layout cuts one tensor."""
        if self.axis is None:
            return 1
        return layout.etp if self.grid == "expert" else layout.tp

    def segments(self, shards: int, shard: int) -> list[tuple[int, int, int]]:
        """What a shard holds, as (whole start, shard start, length) along `axis`, one per chunk.

        Raises:
            UserError: the axis does not divide.
        """
        piece, rest = divmod(self.length, self.chunks * shards)
        if rest:
            parts = f"{self.chunks} x {shards}" if self.chunks > 1 else f"{shards}"
            raise UserError(f"{self.name}: size {self.length} does not divide into {parts} shards")
        chunk = self.length // self.chunks
        return [(k * chunk + shard * piece, k * piece, piece) for k in range(self.chunks)]

    def local_shape(self, shards: int) -> tuple[int, ...]:
        """Shape of one shard."""
        if self.axis is None:
            return self.shape
        shape = list(self.shape)
        shape[self.axis] //= shards
        return tuple(shape)


@dataclass(frozen=True)
class Shard:
    """One rank's part of one logical tensor."""

    tensor: int
    name: str
    family: Family
    shards: int  # into how many the tensor is cut
    shard: int  # which of them this is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.family.local_shape(self.shards)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * ITEMSIZE[self.family.dtype]

    def global_indices(self) -> IntArray:
        """Index in the whole tensor of each index along the cut axis of this shard."""
        parts = self.family.segments(self.shards, self.shard)
        return np.concatenate([np.arange(start, start + length) for start, _, length in parts])


@dataclass(frozen=True)
class Catalogue:
    """Every logical tensor of a model."""

    families: tuple[Family, ...]
    num_layers: int

    @property
    def num_tensors(self) -> int:
        return sum(f.count for f in self.families)

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model; buffers are not counted."""
        return sum(f.count * f.elements for f in self.families if not f.is_buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole model, buffers included."""
        return sum(f.count * f.elements * ITEMSIZE[f.dtype] for f in self.families)

    @cached_property
    def bases(self) -> IntArray:
        return np.array([f.base for f in self.families], dtype=np.int64)

    def family_of(self, tensor: int) -> Family:
        return self.families[int(np.searchsorted(self.bases, tensor, side="right")) - 1]

    def name_of(self, tensor: int) -> str:
        """The full name of a tensor id."""
        family = self.family_of(tensor)
        index, expert = divmod(tensor - family.base, max(1, family.num_experts))
        layer = family.layers[index] if family.layers else None
        return family.tensor_name(layer, expert)

    def held_by(self, layout: Layout, rank: int) -> list[Shard]:
        """Every shard that a global rank holds, ordered by tensor id; empty outside the layout."""
        if rank not in layout.ranks:
            return []
        dense = np.argwhere(layout.dense == rank)[0]
        expert = np.argwhere(layout.expert == rank)[0]
        stage, tp, ep, etp = int(dense[0]), int(dense[3]), int(expert[2]), int(expert[3])
        mine = layout.stage_layers(self.num_layers)[stage]
        ends = {"first": stage == 0, "last": stage == layout.pp - 1}
        ends["both"] = ends["first"] or ends["last"]
        held = []
        for family in self.families:
            if family.layers:
                slots = [(i, n) for i, n in enumerate(family.layers) if n in mine]
            else:
                slots = [(0, -1)] if ends[family.stage] else []
            width = max(1, family.num_experts)
            per_rank = width // layout.ep
            experts = range(ep * per_rank, (ep + 1) * per_rank) if family.num_experts else range(1)
            shards = family.shards(layout)
            shard = 0 if family.axis is None else (etp if family.grid == "expert" else tp)
            for index, layer in slots:
                for e in experts:
                    name = family.tensor_name(layer, e)
                    held.append(Shard(family.base + index * width + e, name, family, shards, shard))
        return held


@dataclass(frozen=True)
class Convention:
    """How a build differs from production's tensors (Transformer Engine's), in the ways that matter here."""

    norms_dtype: str = "bfloat16"
    mla_down_sharded: bool = False  # production replicates MLA's down-projections over TP


PRODUCTION = Convention()
LOCAL_SPEC = Convention(norms_dtype="float32", mla_down_sharded=True)
"""megatron-core's own modules, without Transformer Engine: torch norms keep fp32 weights, and MLA's
down-projections are plain column-parallel layers."""


def moe_layers(model: Model) -> list[bool]:
    """For each layer, whether it has experts.

    `moe_layer_freq` is Megatron's: N means every Nth layer from the first; a list says it per layer;
    a string is such a list written as "([0]*1+[1]*60)".

    Raises:
        UserError: the value is none of these, or the list is not num_layers long.
    """
    freq = model.moe_layer_freq
    if not model.is_moe:
        return [False] * model.num_layers
    if isinstance(freq, str):
        freq = _list_expression(freq)
    if isinstance(freq, int) and not isinstance(freq, bool) and freq > 0:
        return [i % freq == 0 for i in range(model.num_layers)]
    if isinstance(freq, list) and all(x in (0, 1) for x in freq):
        if len(freq) != model.num_layers:
            raise UserError(f"moe_layer_freq lists {len(freq)} layers, the model has {model.num_layers}")
        return [bool(x) for x in freq]
    raise UserError(f"moe_layer_freq={model.moe_layer_freq!r}: give a positive int, a list of 0 and 1, or a string"
                    " such as '([0]*1+[1]*60)'")


def _list_expression(text: str) -> object:
    """Evaluate `[0]*3+[1]*58`: lists of ints, joined and repeated; nothing else."""

    def value(node: ast.expr) -> object:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.List(elts=elements):
                return [value(e) for e in elements]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                a, b = value(left), value(right)
                if isinstance(a, list) and isinstance(b, list):
                    return a + b
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                a, b = value(left), value(right)
                if isinstance(a, list) and isinstance(b, int) and b <= 10_000:
                    return a * b
        return None

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return None


def padded_vocab(model: Model, source_tp: int) -> int:
    """Vocabulary rows after Megatron's padding to a multiple of make_vocab_size_divisible_by * source TP."""
    multiple = model.make_vocab_size_divisible_by * source_tp
    return -(-model.vocab_size // multiple) * multiple


def catalogue(model: Model, source_tp: int = 1, convention: Convention = PRODUCTION, padded: bool = True) -> Catalogue:
    """The logical tensors of a model.

    Args:
        model: the architecture.
        source_tp: pads the vocabulary.
        convention: what the build at hand does otherwise than production.
        padded: False counts the published vocabulary.

    Raises:
        UserError: from `moe_layers`.
    """
    vocab = padded_vocab(model, source_tp) if padded else model.vocab_size
    h = model.hidden_size
    families: list[Family] = []
    tied = model.share_embeddings_and_output_weights
    families.append(Family("embedding.word_embeddings.weight", (vocab, h), axis=0, stage="both" if tied else "first"))
    if model.position_embedding_type == "learned_absolute":
        shape = (model.max_position_embeddings, h)
        families.append(Family("embedding.position_embeddings.weight", shape, stage="first"))
    moe = moe_layers(model)
    everywhere = tuple(range(model.num_layers))
    families += _norm(model, convention, "input_layernorm", h, everywhere)
    families += (_latent_attention if model.multi_latent_attention else _attention)(model, convention, everywhere)
    families += _norm(model, convention, "pre_mlp_layernorm", h, everywhere)
    families += _dense_mlp(model, tuple(i for i in everywhere if not moe[i]))
    families += _moe(model, tuple(i for i in everywhere if moe[i]))
    families += _norm(model, convention, "decoder.final_layernorm", h, (), "last")
    if not tied:
        families.append(Family("output_layer.weight", (vocab, h), axis=0, stage="last"))
    based, base = [], 0
    for family in families:
        based.append(Family(**{**family.__dict__, "base": base}))
        base += family.count
    return Catalogue(tuple(based), model.num_layers)


def _norm(
    model: Model, convention: Convention, name: str, size: int, layers: tuple[int, ...], stage: str = "layer"
) -> list[Family]:
    prefix = "decoder.layers.{layer}." if layers else ""
    kinds = ["weight", "bias"] if model.normalization == "LayerNorm" else ["weight"]
    return [
        Family(f"{prefix}{name}.{kind}", (size,), convention.norms_dtype, layers=layers, stage=stage) for kind in kinds
    ]


def _linear(
    name: str, shape: tuple[int, int], axis: int | None, bias: bool, layers: tuple[int, ...], chunks: int = 1
) -> list[Family]:
    """A [out, in] weight, and its bias [out] where asked: cut like the rows, whole where columns are cut."""
    families = [Family(f"decoder.layers.{{layer}}.{name}.weight", shape, axis=axis, chunks=chunks, layers=layers)]
    if bias:
        cut = 0 if axis == 0 else None
        families.append(
            Family(f"decoder.layers.{{layer}}.{name}.bias", shape[:1], axis=cut, chunks=chunks, layers=layers)
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


def _attention(model: Model, convention: Convention, layers: tuple[int, ...]) -> list[Family]:
    h, heads, groups, size = model.hidden_size, model.num_attention_heads, query_groups(model), head_size(model)
    qkv_bias = model.add_bias_linear or model.add_qkv_bias
    families = _linear("self_attention.linear_qkv", ((heads + 2 * groups) * size, h), 0, qkv_bias, layers)
    if model.qk_layernorm:
        families += _norm(model, convention, "self_attention.q_layernorm", size, layers)
        families += _norm(model, convention, "self_attention.k_layernorm", size, layers)
    return families + _linear("self_attention.linear_proj", (h, heads * size), 1, model.add_bias_linear, layers)


def _latent_attention(model: Model, convention: Convention, layers: tuple[int, ...]) -> list[Family]:
    h, heads, rank = model.hidden_size, model.num_attention_heads, model.kv_lora_rank
    query = heads * (model.qk_head_dim + model.qk_pos_emb_head_dim)
    down = 0 if convention.mla_down_sharded else None
    families: list[Family] = []
    if model.q_lora_rank is None:
        families += _linear("self_attention.linear_q_proj", (query, h), 0, False, layers)
    else:
        families += _linear("self_attention.linear_q_down_proj", (model.q_lora_rank, h), down, False, layers)
        families += _linear("self_attention.linear_q_up_proj", (query, model.q_lora_rank), 0, False, layers)
        if model.qk_layernorm:
            families += _norm(model, convention, "self_attention.q_layernorm", model.q_lora_rank, layers)
    kv_down = (rank + model.qk_pos_emb_head_dim, h)
    families += _linear("self_attention.linear_kv_down_proj", kv_down, down, False, layers)
    if model.qk_layernorm:
        families += _norm(model, convention, "self_attention.kv_layernorm", rank, layers)
    kv_up = (heads * (model.qk_head_dim + model.v_head_dim), rank)
    families += _linear("self_attention.linear_kv_up_proj", kv_up, 0, False, layers)
    out = (h, heads * model.v_head_dim)
    return families + _linear("self_attention.linear_proj", out, 1, model.add_bias_linear, layers)


def _mlp(name: str, model: Model, ffn: int, bias: bool, layers: tuple[int, ...]) -> list[Family]:
    gated = 2 if model.gated_linear_unit else 1
    return _linear(f"{name}.linear_fc1", (gated * ffn, model.hidden_size), 0, bias, layers, chunks=gated) + _linear(
        f"{name}.linear_fc2", (model.hidden_size, ffn), 1, bias, layers
    )


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
        whole = {**family.__dict__, "name": family.name + "{expert}", "grid": "expert", "num_experts": experts}
        families.append(Family(**whole))
    shared = model.moe_shared_expert_intermediate_size
    if shared:
        if model.moe_shared_expert_gate:
            name = "decoder.layers.{layer}.mlp.shared_experts.gate_weight"
            families.append(Family(name, (1, h), layers=layers))
        families += _mlp("mlp.shared_experts", model, shared, False, layers)
    return families
