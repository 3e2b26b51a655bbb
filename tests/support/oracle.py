"""A second, slow implementation of what every rank holds, written from the formats.

Nothing here calls code of `refit.layout`: it reads degrees and model fields,
walks the model tensor by tensor, and cuts whole numpy arrays with np.split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import Layout
from refit.model_config import Model

Array = NDArray[np.int64]
ITEMSIZE = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Spec:
    """One whole tensor: how it is cut, and who holds it."""

    shape: tuple[int, ...]
    cut: (
        str  # whole | rows | columns | halves (gate and up) | 8+4+4: rows of parts, each on its own
    )
    stage: str = "layer"  # layer | first | last | ends (tied embeddings: first and last)
    layer: int = -1
    expert: int = -1
    dtype: str = "bfloat16"
    is_buffer: bool = False


def moe_pattern(model: Model) -> list[int]:
    """1 for each layer with experts, as get_gpt_decoder_block_spec does it."""
    freq = model.moe_layer_freq
    if model.hybrid_override_pattern:
        return [int(letter == "E") for letter in model.hybrid_override_pattern]
    if model.num_moe_experts is None:
        return [0] * model.num_layers
    if isinstance(freq, str):
        freq = eval(freq.strip())  # Megatron's own reading of the string form
    if isinstance(freq, int):
        return [1 if i % freq == 0 else 0 for i in range(model.num_layers)]
    return list(freq)


def specs(
    model: Model, source_tp: int = 1, local_spec: bool = False, padded: bool = True
) -> dict[str, Spec]:
    """Every whole tensor by name, in no particular order."""
    found: dict[str, Spec] = {}
    h, heads = model.hidden_size, model.num_attention_heads
    size = model.kv_channels if model.kv_channels else h // heads
    groups = model.num_query_groups if model.num_query_groups else heads
    ffn = model.ffn_hidden_size if model.ffn_hidden_size else 4 * h
    moe_ffn = model.moe_ffn_hidden_size if model.moe_ffn_hidden_size else ffn
    bias = model.add_bias_linear
    norm_dtype = "float32" if local_spec else "bfloat16"
    vocab = model.vocab_size
    while padded and vocab % (model.make_vocab_size_divisible_by * source_tp):
        vocab += 1

    def norm(name: str, n: int, stage: str = "layer", layer: int = -1, cut: str = "whole") -> None:
        found[name + ".weight"] = Spec((n,), cut, stage, layer, dtype=norm_dtype)
        if model.normalization == "LayerNorm" and model.add_norm_bias:
            found[name + ".bias"] = Spec((n,), cut, stage, layer, dtype=norm_dtype)

    def mlp(prefix: str, width: int, layer: int, with_bias: bool, expert: int = -1) -> None:
        h = (expert >= 0 and model.moe_latent_size) or model.hidden_size
        tail = "" if expert < 0 else str(expert)
        rows, cut = (2 * width, "halves") if model.gated_linear_unit else (width, "rows")
        fc1, fc2 = prefix + ".linear_fc1.", prefix + ".linear_fc2."
        found[f"{fc1}weight{tail}"] = Spec((rows, h), cut, layer=layer, expert=expert)
        found[f"{fc2}weight{tail}"] = Spec((h, width), "columns", layer=layer, expert=expert)
        if with_bias:
            found[f"{fc1}bias{tail}"] = Spec((rows,), cut, layer=layer, expert=expert)
            found[f"{fc2}bias{tail}"] = Spec((h,), "whole", layer=layer, expert=expert)

    tied = model.share_embeddings_and_output_weights
    found["embedding.word_embeddings.weight"] = Spec(
        (vocab, h), "rows", "ends" if tied or model.mtp_num_layers else "first"
    )
    for number in range(model.mtp_num_layers or 0):
        found |= mtp(model, f"mtp.layers.{number}.", local_spec)
    if not tied:
        found["output_layer.weight"] = Spec((vocab, h), "rows", "last")
    if model.add_output_bias:
        found["output_layer.bias"] = Spec((vocab,), "rows", "last")
    if model.position_embedding_type == "learned_absolute":
        shape = (model.max_position_embeddings, h)
        found["embedding.position_embeddings.weight"] = Spec(shape, "whole", "first")
    norm("decoder.final_layernorm", h, "last")
    if model.hybrid_override_pattern:
        found["decoder.final_norm.weight"] = found.pop("decoder.final_layernorm.weight")
    for n, is_moe in enumerate(moe_pattern(model)):
        layer = f"decoder.layers.{n}."
        attention = layer + "self_attention."
        norm(layer + "input_layernorm", h, layer=n)
        norm(layer + "pre_mlp_layernorm", h, layer=n)
        if model.post_layernorm:
            norm(layer + "post_self_attn_layernorm", h, layer=n)
            norm(layer + "post_mlp_layernorm", h, layer=n)
        if is_delta(model, n):
            found |= delta(model, attention, n, norm_dtype)
        elif model.multi_latent_attention:
            nope, rope, v = model.qk_head_dim, model.qk_pos_emb_head_dim, model.v_head_dim
            down = "rows" if local_spec else "whole"
            query = heads * (nope + rope)
            if model.q_lora_rank is None:
                found[attention + "linear_q_proj.weight"] = Spec((query, h), "rows", layer=n)
            else:
                rank = model.q_lora_rank
                found[attention + "linear_q_down_proj.weight"] = Spec((rank, h), down, layer=n)
                found[attention + "linear_q_up_proj.weight"] = Spec((query, rank), "rows", layer=n)
                if model.qk_layernorm:
                    norm(attention + "q_layernorm", rank, layer=n)
            rank = model.kv_lora_rank
            found[attention + "linear_kv_down_proj.weight"] = Spec((rank + rope, h), down, layer=n)
            found[attention + "linear_kv_up_proj.weight"] = Spec(
                (heads * (nope + v), rank), "rows", layer=n
            )
            if model.qk_layernorm:
                norm(attention + "kv_layernorm", rank, layer=n)
            inner = heads * v
            if model.experimental_attention_variant == "dsa":
                found |= indexer(model, attention + "core_attention.indexer.", n, norm_dtype)
        else:
            rows = heads * size * (2 if model.attention_output_gate else 1) + 2 * groups * size
            found[attention + "linear_qkv.weight"] = Spec((rows, h), "rows", layer=n)
            if bias or model.add_qkv_bias:
                found[attention + "linear_qkv.bias"] = Spec((rows,), "rows", layer=n)
            if model.qk_layernorm_over_heads:
                norm(attention + "q_layernorm", heads * size, layer=n, cut="rows")
                norm(attention + "k_layernorm", groups * size, layer=n, cut="rows")
            elif model.qk_layernorm:
                norm(attention + "q_layernorm", size, layer=n)
                norm(attention + "k_layernorm", size, layer=n)
            inner = heads * size
        if model.softmax_type == "learnable":
            found[attention + "core_attention.softmax_offset"] = Spec((heads,), "rows", layer=n)
        if not is_delta(model, n):
            found[attention + "linear_proj.weight"] = Spec((h, inner), "columns", layer=n)
        if (bias or model.add_proj_bias) and not is_delta(model, n):
            found[attention + "linear_proj.bias"] = Spec((h,), "whole", layer=n)
        if not is_moe:
            mlp(layer + "mlp", ffn, n, bias)
            continue
        experts = model.num_moe_experts or 0
        found[layer + "mlp.router.weight"] = Spec((experts, h), "whole", layer=n)
        if bias:
            found[layer + "mlp.router.bias"] = Spec((experts,), "whole", layer=n)
        if model.moe_router_enable_expert_bias:
            name = layer + "mlp.router.expert_bias"
            found[name] = Spec((experts,), "whole", layer=n, dtype="float32", is_buffer=True)
        if latent := model.moe_latent_size:
            found[layer + "mlp.fc1_latent_proj.weight"] = Spec((latent, h), "whole", layer=n)
            found[layer + "mlp.fc2_latent_proj.weight"] = Spec((h, latent), "whole", layer=n)
        for e in range(experts):
            mlp(layer + "mlp.experts", moe_ffn, n, bias, e)
        if model.moe_shared_expert_intermediate_size:
            mlp(layer + "mlp.shared_experts", model.moe_shared_expert_intermediate_size, n, False)
            if model.moe_shared_expert_gate:
                found[layer + "mlp.shared_experts.gate_weight"] = Spec((1, h), "whole", layer=n)
    return hybrid(model, found) if model.hybrid_override_pattern else found


def hybrid(model: Model, whole: dict[str, Spec]) -> dict[str, Spec]:
    """Of layers that have all their parts, the one that each letter says; a mixer for M."""
    pattern = model.hybrid_override_pattern or ""
    of = {"*": (".input_layernorm", ".self_attention"), "M": ()}
    mlp = (".pre_mlp_layernorm", ".mlp")
    found = {
        name: spec
        for name, spec in whole.items()
        if spec.layer < 0 or any(part in name for part in of.get(pattern[spec.layer], mlp))
    }
    for n, letter in enumerate(pattern):
        if letter == "M":
            norm = f"decoder.layers.{n}.norm.weight"
            found[norm] = Spec((model.hidden_size,), "whole", layer=n)
            found |= mixer(model, f"decoder.layers.{n}.mixer.", n)
    return found


def mtp(model: Model, prefix: str, local_spec: bool) -> dict[str, Spec]:
    """Two norms, a projection of both to one, a layer as the last one is, and a norm."""
    h, last = model.hidden_size, [moe_pattern(model)[-1]]
    inner = replace(model, num_layers=1, moe_layer_freq=last, mtp_num_layers=None)
    found = {prefix + "eh_proj.weight": Spec((h, 2 * h), "rows", "last")}
    for name, spec in specs(inner, 1, local_spec).items():
        if name.startswith("decoder.layers.0."):
            name = name.replace("decoder.layers.0", prefix + "transformer_layer")
            found[name] = replace(spec, stage="last", layer=-1)
        elif name.startswith("decoder.final_layernorm"):
            for norm in ("enorm", "hnorm", "final_layernorm"):
                found[name.replace("decoder.final_layernorm", prefix + norm)] = spec
    return found


def is_delta(model: Model, layer: int) -> bool:
    """Whether a layer is a gated delta net: all are, but for every Nth."""
    freq = model.linear_attention_freq
    return model.experimental_attention_variant == "gated_delta_net" and (layer + 1) % freq != 0


def mixer(model: Model, prefix: str, n: int) -> dict[str, Spec]:
    """As Megatron's MambaMixer splits what its projection and its convolution give."""
    h, heads, groups = model.hidden_size, model.mamba_num_heads or 0, model.mamba_num_groups
    d, s = heads * model.mamba_head_dim, groups * model.mamba_state_dim
    return {
        prefix + "in_proj.weight": Spec(
            (d * 2 + 2 * s + heads, h), f"{d}+{d}+{s}+{s}+{heads}", layer=n
        ),
        prefix + "conv1d.weight": Spec((d + 2 * s, 1, 4), f"{d}+{s}+{s}", layer=n),
        prefix + "conv1d.bias": Spec((d + 2 * s,), f"{d}+{s}+{s}", layer=n),
        prefix + "dt_bias": Spec((heads,), "rows", layer=n),
        prefix + "A_log": Spec((heads,), "rows", layer=n, dtype="float32"),
        prefix + "D": Spec((heads,), "rows", layer=n, dtype="float32"),
        prefix + "norm.weight": Spec((d,), "rows", layer=n),
        prefix + "out_proj.weight": Spec((h, d), "columns", layer=n),
    }


def delta(model: Model, prefix: str, n: int, norm_dtype: str) -> dict[str, Spec]:
    """As Megatron's GatedDeltaNet splits what its projection and its convolution give."""
    qk = model.linear_key_head_dim * model.linear_num_key_heads
    heads, kernel = model.linear_num_value_heads, model.linear_conv_kernel_dim
    v, h = model.linear_value_head_dim * heads, model.hidden_size
    return {
        prefix + "in_proj.weight": Spec(
            (qk * 2 + v * 2 + heads * 2, h), f"{qk}+{qk}+{v}+{v}+{heads}+{heads}", layer=n
        ),
        prefix + "conv1d.weight": Spec((qk * 2 + v, 1, kernel), f"{qk}+{qk}+{v}", layer=n),
        prefix + "dt_bias": Spec((heads,), "rows", layer=n),
        prefix + "A_log": Spec((heads,), "rows", layer=n),
        prefix + "out_norm.weight": Spec(
            (model.linear_value_head_dim,), "whole", layer=n, dtype=norm_dtype
        ),
        prefix + "out_proj.weight": Spec((h, v), "columns", layer=n),
    }


def indexer(model: Model, prefix: str, n: int, norm_dtype: str) -> dict[str, Spec]:
    """As Megatron's DSAIndexer: all of it on every rank."""
    heads, size = model.dsa_indexer_n_heads or 0, model.dsa_indexer_head_dim or 0
    shapes = {
        "linear_wq_b.weight": (heads * size, model.q_lora_rank or model.hidden_size),
        "linear_wk.weight": (size, model.hidden_size),
        "linear_weights_proj.weight": (heads, model.hidden_size),
    }
    found = {prefix + name: Spec(shape, "whole", layer=n) for name, shape in shapes.items()}
    for leaf in ("weight", "bias"):
        found[f"{prefix}k_norm.{leaf}"] = Spec((size,), "whole", layer=n, dtype=norm_dtype)
    return found


def wholes(tensors: dict[str, Spec]) -> dict[str, Array]:
    """Every tensor filled with element numbers that occur nowhere else."""
    made, start = {}, 0
    for name, spec in tensors.items():
        n = int(np.prod(spec.shape))
        made[name] = np.arange(start, start + n).reshape(spec.shape)
        start += n
    return made


def stage_of_layer(layout: Layout, num_layers: int) -> list[int]:
    """The pipeline rank of each layer, given that the counts divide.

    What counts as a layer and is none is dealt out with the layers and dropped.
    """
    if layout.listed_layers is not None:
        return [
            stage % layout.pp
            for stage, count in enumerate(layout.listed_layers)
            for _ in range(count)
        ]
    counts = [0] * layout.pp
    fixed = {0: layout.first_stage_layers, layout.pp - 1: layout.last_stage_layers}
    fixed = {stage: count for stage, count in fixed.items() if count is not None}
    dealt = num_layers + layout.counts_embedding + layout.counts_loss
    for stage in range(layout.pp):
        left = dealt - sum(c or 0 for c in fixed.values())
        counts[stage] = fixed[stage] or 0 if stage in fixed else left // (layout.pp - len(fixed))
    turn = [stage for stage, n in enumerate(counts) for _ in range(n // layout.virtual_stages)]
    ranks = turn * layout.virtual_stages
    return ranks[layout.counts_embedding : len(ranks) - layout.counts_loss]


@dataclass(frozen=True)
class Where:
    """A rank's place, by default rank = tp + TP*(cp + CP*(dp + DP*pp)); likewise for experts."""

    stage: int
    tp: int
    cp: int
    ep: int
    etp: int


def where(layout: Layout, rank: int) -> Where:
    sizes = {"tp": layout.tp, "cp": layout.cp, "dp": layout.dp, "pp": layout.pp}
    of_experts = {"tp": layout.etp, "ep": layout.ep, "dp": layout.edp, "pp": layout.pp}
    dense, expert = (digits(rank - layout.offset, layout.order, s) for s in (sizes, of_experts))
    assert dense["pp"] == expert["pp"] or layout.ep * layout.etp == 1
    return Where(dense["pp"], dense["tp"], dense["cp"], expert["ep"], expert["tp"])


def digits(number: int, order: str, sizes: dict[str, int]) -> dict[str, int]:
    """A number's digits, the fastest first in the order; each name has its own base."""
    found = dict.fromkeys(sizes, 0)
    for name in order.split("-"):
        if name in sizes:
            number, found[name] = divmod(number, sizes[name])
    assert number == 0
    return found


def cut(whole: Array, how: str, parts: int, part: int) -> Array:
    """One shard of a whole array; np.split raises where it does not divide."""
    if how == "whole":
        return whole
    if how == "halves":
        gate, up = np.split(whole, 2)
        return np.concatenate([np.split(gate, parts)[part], np.split(up, parts)[part]])
    if "+" in how:
        edges = np.cumsum([int(size) for size in how.split("+")])[:-1]
        pieces = [np.split(each, parts)[part] for each in np.split(whole, edges)]
        return np.concatenate(pieces)
    return np.split(whole, parts, axis=1 if how == "columns" else 0)[part]


def portions(
    model: Model, tensors: dict[str, Spec], layout: Layout, rank: int
) -> dict[str, tuple[int, int]]:
    """What one rank holds: by name, of how many parts which."""
    if not layout.offset <= rank < layout.offset + layout.gpus:
        return {}
    me = where(layout, rank)
    stages = stage_of_layer(layout, model.num_layers)
    first, last = me.stage == 0, me.stage == layout.pp - 1
    mine = {}
    for name, spec in tensors.items():
        here = {"first": first, "last": last, "ends": first or last}.get(spec.stage)
        if here is None:
            here = stages[spec.layer] == me.stage
        if spec.expert >= 0:
            per_rank = (model.num_moe_experts or 0) // layout.ep
            here = here and me.ep * per_rank <= spec.expert < (me.ep + 1) * per_rank
        if here:
            parts, part = (layout.etp, me.etp) if spec.expert >= 0 else (layout.tp, me.tp)
            mine[name] = (1, 0) if spec.cut == "whole" else (parts, part)
    return mine


def held(
    model: Model, tensors: dict[str, Spec], whole: dict[str, Array], layout: Layout, rank: int
) -> dict[str, Array]:
    """The shards of one rank, by name."""
    return {
        name: cut(whole[name], tensors[name].cut, parts, part)
        for name, (parts, part) in portions(model, tensors, layout, rank).items()
    }


def elements(model: Model, tensors: dict[str, Spec], layout: Layout, rank: int) -> int:
    """How many one rank holds."""
    mine = portions(model, tensors, layout, rank)
    return sum(int(np.prod(tensors[name].shape)) // parts for name, (parts, _) in mine.items())
