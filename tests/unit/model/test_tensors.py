"""Model to tensors: published counts, a closed form, and a slow walk over every rank's shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from refit.errors import UserError
from refit.layout.layout import Layout
from refit.layout.tensors import Catalogue, Family
from refit.model.architecture import LOCAL_SPEC, PRODUCTION, Convention, catalogue, padded_vocab
from refit.model.moe_layers import moe_layers
from refit.model.parameters import active_parameters
from refit.model.weight_bytes import per_rank_bytes, weight_bytes
from refit.model_config import Model
from tests.support import oracle
from tests.support.composed import PUBLIC, PUBLISHED, composed

# ---- the public models

KIMI_K2, DEEPSEEK_V3 = (composed(f"model={name}").model for name in ("kimi_k2", "deepseek_v3"))


def closed_form(model: Model, moe_count: int) -> int:
    """Parameters of a gated RMSNorm model with untied embeddings, from its published config."""
    h, heads = model.hidden_size, model.num_attention_heads
    norms = 2 * h
    if model.multi_latent_attention:
        ql, kl = model.q_lora_rank or 0, model.kv_lora_rank
        dn, dr, dv = model.qk_head_dim, model.qk_pos_emb_head_dim, model.v_head_dim
        attention = h * ql + ql + ql * heads * (dn + dr) + h * (kl + dr) + kl
        attention += kl * heads * (dn + dv) + heads * dv * h
    else:
        size = model.kv_channels or h // heads
        groups = model.num_query_groups or heads
        attention = h * heads * size + 2 * h * groups * size + heads * size * h
        attention += 2 * size if model.qk_layernorm else 0
        biased = model.add_bias_linear or model.add_qkv_bias
        attention += (heads + 2 * groups) * size if biased else 0
        attention += h if model.add_bias_linear else 0
        attention += heads if model.softmax_type == "learnable" else 0
    ffn = model.ffn_hidden_size or 0
    experts = model.num_moe_experts or 0
    width = model.moe_ffn_hidden_size or ffn
    expert = 3 * h * width + (2 * width + h if model.add_bias_linear else 0)
    shared = 3 * h * (model.moe_shared_expert_intermediate_size or 0)
    moe = h * experts + experts * expert + shared + (experts if model.add_bias_linear else 0)
    dense = 3 * h * ffn
    layers = model.num_layers
    total = layers * (norms + attention) + moe_count * moe + (layers - moe_count) * dense
    return total + 2 * model.vocab_size * h + h


@pytest.mark.parametrize("name", PUBLIC)
def test_parameters_are_the_published(name: str) -> None:
    total, active, active_without_input, per_expert, moe_count = PUBLISHED[name]
    model = composed(f"model={name}").model
    tensors = catalogue(model, source_tp=8, vocab_rows=model.vocab_size)
    assert tensors.num_parameters == total
    assert closed_form(model, moe_count) == total
    assert active_parameters(model, tensors) == active
    assert active_parameters(model, tensors, input_embedding=False) == active_without_input
    assert sum(moe_layers(model)) == moe_count
    routed = [f for f in tensors.families if f.grid == "expert"]
    assert sum(f.elements for f in routed) == per_expert
    assert sum(f.count * f.elements for f in routed) == (
        per_expert * moe_count * (model.num_moe_experts or 0)
    )


def test_a_tied_embedding_is_active_as_the_output_layer() -> None:
    tensors = catalogue(TINY, vocab_rows=TINY.vocab_size)
    assert active_parameters(TINY, tensors, input_embedding=False) == tensors.num_parameters


@pytest.mark.parametrize(
    ("model", "layers", "experts"), [(KIMI_K2, 60, 384), (DEEPSEEK_V3, 58, 256)]
)
def test_expert_bias_is_a_buffer_that_travels_in_fp32(
    model: Model, layers: int, experts: int
) -> None:
    tensors = catalogue(model, vocab_rows=model.vocab_size)
    without = catalogue(
        replace(model, moe_router_enable_expert_bias=False), vocab_rows=model.vocab_size
    )
    assert tensors.num_parameters == without.num_parameters
    assert tensors.num_tensors == without.num_tensors + layers
    assert tensors.nbytes == without.nbytes + layers * experts * 4
    assert without.nbytes == 2 * without.num_parameters


def test_local_spec_keeps_norms_in_fp32_and_cuts_mla_down_projections() -> None:
    production, local = catalogue(DEEPSEEK_V3), catalogue(DEEPSEEK_V3, convention=LOCAL_SPEC)
    # per layer two norms of 7168, q 1536, kv 512; and the final one
    norms = 61 * (2 * 7168 + 1536 + 512) + 7168
    assert local.nbytes - production.nbytes == 2 * norms
    assert local.num_parameters == production.num_parameters
    for tensors, axis in ((production, None), (local, 0)):
        down = [f for f in tensors.families if "down_proj" in f.name]
        assert len(down) == 2 and {f.axis for f in down} == {axis}


# ---- tiny models, walked over every rank

TINY = Model(
    name="tiny",
    num_layers=4,
    hidden_size=8,
    ffn_hidden_size=16,
    num_attention_heads=4,
    num_query_groups=4,
    kv_channels=2,
    vocab_size=29,
    make_vocab_size_divisible_by=4,
    max_position_embeddings=6,
)
TINY_MOE = replace(
    TINY,
    name="tiny_moe",
    num_moe_experts=8,
    moe_ffn_hidden_size=8,
    moe_layer_freq=[0, 1, 0, 1],
    gated_linear_unit=True,
    add_bias_linear=False,
    add_qkv_bias=True,
    qk_layernorm=True,
    normalization="RMSNorm",
    position_embedding_type="rope",
    share_embeddings_and_output_weights=False,
    moe_router_enable_expert_bias=True,
    moe_shared_expert_intermediate_size=12,
    moe_shared_expert_gate=True,
)
TINY_MLA = replace(
    TINY_MOE,
    name="tiny_mla",
    multi_latent_attention=True,
    q_lora_rank=4,
    kv_lora_rank=4,
    qk_head_dim=2,
    qk_pos_emb_head_dim=4,
    v_head_dim=2,
    num_layers=5,
    moe_layer_freq="[0]*2+[1]*3",
    gated_linear_unit=False,
)
TINY_BIASED_MOE = replace(
    TINY, name="tiny_biased", num_moe_experts=4, gated_linear_unit=True, num_layers=3
)
WALKED = [
    (TINY, Layout(), PRODUCTION),
    (TINY, Layout(tp=2, cp=2, pp=2, offset=3), PRODUCTION),
    (TINY, Layout(tp=4, pp=4, gpus=32), LOCAL_SPEC),
    (TINY, Layout(pp=3, first_stage_layers=1, last_stage_layers=2, gpus=6), PRODUCTION),
    (TINY_MOE, Layout(tp=2, ep=4, etp=1), PRODUCTION),
    (TINY_MOE, Layout(tp=4, ep=2, etp=2, offset=5), PRODUCTION),
    (TINY_MOE, Layout(tp=1, ep=2, etp=4, pp=2, gpus=32), LOCAL_SPEC),
    (TINY_MOE, Layout(tp=2, cp=2, ep=8, etp=1, pp=2, gpus=16), PRODUCTION),
    (TINY_MLA, Layout(tp=4, ep=8, etp=1, gpus=8), PRODUCTION),
    (TINY_MLA, Layout(tp=4, ep=2, etp=4, pp=2, last_stage_layers=2, gpus=32), LOCAL_SPEC),
    (replace(TINY_MLA, q_lora_rank=None), Layout(tp=2, ep=2, etp=1), LOCAL_SPEC),
    (TINY_BIASED_MOE, Layout(tp=2, ep=4, etp=1, pp=3), PRODUCTION),
    (TINY_MOE, Layout(tp=2, pp=2, ep=2, gpus=16, order="tp-cp-ep-pp-dp"), PRODUCTION),
    (TINY_MOE, Layout(tp=2, pp=2, ep=4, gpus=16, order="dp-ep-tp-cp-pp", offset=2), PRODUCTION),
    (TINY_MLA, Layout(pp=3, gpus=6, listed_layers=(3, 0, 2), order="pp-dp-tp-cp-ep"), PRODUCTION),
    (TINY_MLA, Layout(tp=2, pp=2, listed_layers=(1, 0, 2, 2)), LOCAL_SPEC),
    (TINY_MLA, Layout(pp=3, counts_embedding=True), PRODUCTION),
]
LABELS = [f"{m.name}-{lay.describe()}-{lay.gpus}" for m, lay, _ in WALKED]


@pytest.mark.parametrize(("model", "layout", "convention"), WALKED, ids=LABELS)
def test_shards_of_all_ranks_cover_every_element_as_often_as_they_should(
    model: Model, layout: Layout, convention: Convention
) -> None:
    tensors = catalogue(model, layout.tp, convention)
    copies = {name: np.zeros(s.shape, np.int64) for name, s in specs_of(model, layout).items()}
    for rank in layout.ranks:
        for shard in tensors.held_by(layout, rank):
            whole = copies[shard.name]
            mask = np.zeros(whole.shape, dtype=bool)
            if shard.family.axis is None:
                assert shard.shape == whole.shape
                mask[...] = True
            else:
                np.moveaxis(mask, shard.family.axis, 0)[shard.global_indices()] = True
            assert int(mask.sum()) == int(np.prod(shard.shape))
            whole += mask
    for name, spec in specs_of(model, layout).items():
        # ranks that hold the tensor's stage, over the shards that it is cut into
        in_stage = layout.gpus // layout.pp
        if spec.expert >= 0:
            parts = layout.ep * (1 if spec.cut == "whole" else layout.etp)
        else:
            parts = 1 if spec.cut == "whole" and not sharded_down(name, convention) else layout.tp
        stages = 2 if spec.stage == "ends" and layout.pp > 1 else 1
        assert np.unique(copies[name]).tolist() == [stages * in_stage // parts], name


def specs_of(model: Model, layout: Layout) -> dict[str, oracle.Spec]:
    return oracle.specs(model, layout.tp)


def sharded_down(name: str, convention: Convention) -> bool:
    return "down_proj" in name and convention.mla_down_sharded


@pytest.mark.parametrize(("model", "layout", "convention"), WALKED, ids=LABELS)
def test_every_rank_holds_what_the_slow_walk_says(
    model: Model, layout: Layout, convention: Convention
) -> None:
    tensors = catalogue(model, layout.tp, convention)
    expected = oracle.specs(model, layout.tp, local_spec=convention == LOCAL_SPEC)
    whole = oracle.wholes(expected)
    for rank in layout.ranks:
        slow = oracle.held(model, expected, whole, layout, rank)
        fast = tensors.held_by(layout, rank)
        assert sorted(s.name for s in fast) == sorted(slow)
        assert [s.tensor for s in fast] == sorted(s.tensor for s in fast)
        for shard in fast:
            spec, piece = expected[shard.name], slow[shard.name]
            assert shard.shape == piece.shape and shard.family.shape == spec.shape
            assert shard.nbytes == piece.size * oracle.ITEMSIZE[spec.dtype]
            axis = shard.family.axis or 0
            mine = whole[shard.name].take(shard.global_indices(), axis=axis)
            assert np.array_equal(mine, piece), shard.name
            assert tensors.name_of(shard.tensor) == shard.name
            assert tensors.family_of(shard.tensor) is shard.family
    assert tensors.held_by(layout, layout.ranks.stop) == []
    assert tensors.held_by(layout, layout.offset - 1) == []


@pytest.mark.parametrize(("model", "layout", "convention"), WALKED, ids=LABELS)
def test_bytes_of_ranks_are_those_of_their_shards(
    model: Model, layout: Layout, convention: Convention
) -> None:
    tensors = catalogue(model, layout.tp, convention)
    found = per_rank_bytes(tensors, layout).tolist()
    assert found == [weight_bytes(tensors, layout, rank) for rank in layout.ranks]


@pytest.mark.parametrize("model", [TINY, TINY_MOE, TINY_MLA, TINY_BIASED_MOE])
def test_ids_are_dense_and_names_unique(model: Model) -> None:
    tensors = catalogue(model, 2)
    expected = oracle.specs(model, 2)
    names = [tensors.name_of(i) for i in range(tensors.num_tensors)]
    assert len(set(names)) == len(names) == tensors.num_tensors
    assert sorted(names) == sorted(expected)
    assert [tensors.family_of(i).base for i in range(tensors.num_tensors)] == [
        f.base for f in tensors.families for _ in range(f.count)
    ]
    assert tensors.num_parameters == sum(
        int(np.prod(s.shape)) for s in expected.values() if not s.is_buffer
    )
    assert tensors.nbytes == sum(
        int(np.prod(s.shape)) * oracle.ITEMSIZE[s.dtype] for s in expected.values()
    )


def test_ids_of_experts_go_by_layer_then_expert() -> None:
    tensors = catalogue(TINY_MOE, 2)
    fc1 = next(f for f in tensors.families if "experts.linear_fc1.weight" in f.name)
    assert [tensors.name_of(fc1.base + i) for i in (0, 7, 8, 15)] == [
        f"decoder.layers.{layer}.mlp.experts.linear_fc1.weight{expert}"
        for layer, expert in ((1, 0), (1, 7), (3, 0), (3, 7))
    ]
    assert fc1.count == 16


# ---- cuts, worked by hand


def held(tensors: Catalogue, layout: Layout, rank: int, name: str) -> list[int]:
    shard = next(s for s in tensors.held_by(layout, rank) if s.name == name)
    return [int(i) for i in shard.global_indices()]


def test_gate_and_up_are_each_cut_on_their_own() -> None:
    model = replace(TINY_MOE, moe_ffn_hidden_size=8)
    tensors = catalogue(model, 2)
    fc1 = "decoder.layers.0.mlp.linear_fc1.weight"  # gate rows 0-15, up rows 16-31
    assert held(tensors, Layout(tp=2), 0, fc1) == [*range(8), *range(16, 24)]
    assert held(tensors, Layout(tp=2), 1, fc1) == [*range(8, 16), *range(24, 32)]
    expert = "decoder.layers.1.mlp.experts.linear_fc1.weight5"  # gate rows 0-7, up rows 8-15
    layout = Layout(tp=1, ep=2, etp=4, gpus=8)  # experts 4-7 on ranks 4-7, etp = rank - 4
    assert held(tensors, layout, 6, expert) == [4, 5, 12, 13]
    shared = "decoder.layers.1.mlp.shared_experts.linear_fc1.weight"  # gate 0-11, up 12-23
    assert held(tensors, Layout(tp=4), 3, shared) == [9, 10, 11, 21, 22, 23]


def test_an_ungated_fc1_is_cut_once() -> None:
    tensors = catalogue(TINY, 2)
    name = "decoder.layers.0.mlp.linear_fc1.weight"
    assert held(tensors, Layout(tp=4), 1, name) == [4, 5, 6, 7]


def test_segments_that_do_not_divide_are_refused_with_the_size() -> None:
    family = Family("fc1", (12, 8), axis=0, parts=(6, 6))
    assert family.cut(Layout(tp=2)).runs[1] == ((3, 0, 3, 1), (9, 3, 3, 1))
    with pytest.raises(UserError, match=r"fc1: size 6, a part of 6\+6, does not divide into 4"):
        family.cut(Layout(tp=4))
    with pytest.raises(UserError, match=r"proj: size 8 does not divide into 3"):
        Family("proj", (12, 8), axis=1).cut(Layout(tp=3))


@pytest.mark.parametrize(
    ("vocab", "divisible", "tp", "expected"),
    [
        (29, 4, 1, 32),
        (29, 4, 4, 32),
        (33, 4, 4, 48),
        (32, 4, 8, 32),
        (50257, 128, 1, 50304),  # GPT-2, as Megatron prints it
        (50257, 128, 8, 51200),
        (163840, 1280, 8, 163840),  # Kimi K2: 16 * 10240
        (129280, 1280, 8, 133120),  # DeepSeek-V3: 12.6 -> 13 times 10240
    ],
)
def test_vocabulary_padding(vocab: int, divisible: int, tp: int, expected: int) -> None:
    model = replace(TINY, vocab_size=vocab, make_vocab_size_divisible_by=divisible)
    assert padded_vocab(model, tp) == expected
    embedding = catalogue(model, tp).families[0]
    assert embedding.name == "embedding.word_embeddings.weight"
    assert embedding.shape == (expected, 8)
    assert catalogue(model, tp, vocab_rows=vocab).families[0].shape == (vocab, 8)


@pytest.mark.parametrize("pp", [1, 2, 4])
def test_tied_embeddings_live_on_both_ends_once_each(pp: int) -> None:
    tensors = catalogue(TINY, 2)
    layout = Layout(tp=2, pp=pp)
    names = [s.name for r in layout.ranks for s in tensors.held_by(layout, r)]
    assert Counter(names)["embedding.word_embeddings.weight"] == 2 * min(pp, 2)
    assert "output_layer.weight" not in names
    holders = [
        rank
        for rank in layout.ranks
        if any(s.name.startswith("embedding.word") for s in tensors.held_by(layout, rank))
    ]
    assert holders == sorted({0, 1, 2 * pp - 2, 2 * pp - 1})


@pytest.mark.parametrize("pp", [1, 2, 4])
def test_untied_embeddings_are_two_tensors_one_per_end(pp: int) -> None:
    tensors = catalogue(replace(TINY, share_embeddings_and_output_weights=False), 2)
    layout = Layout(tp=2, pp=pp)
    for name, ranks in (
        ("embedding.word_embeddings.weight", [0, 1]),
        ("output_layer.weight", [2 * pp - 2, 2 * pp - 1]),
        ("embedding.position_embeddings.weight", [0, 1]),
        ("decoder.final_layernorm.bias", [2 * pp - 2, 2 * pp - 1]),
    ):
        holders = [r for r in layout.ranks if name in {s.name for s in tensors.held_by(layout, r)}]
        assert holders == ranks, name


# ---- which layers have experts


@pytest.mark.parametrize(
    ("freq", "expected"),
    [
        (1, [1, 1, 1, 1, 1]),
        (2, [1, 0, 1, 0, 1]),
        (3, [1, 0, 0, 1, 0]),
        (7, [1, 0, 0, 0, 0]),
        ([0, 1, 1, 0, 1], [0, 1, 1, 0, 1]),
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
        ("([0]*1+[1]*4)", [0, 1, 1, 1, 1]),
        ("[0]*3+[1]*2", [0, 0, 0, 1, 1]),
        (" ([0]+[1])*2+[0] ", [0, 1, 0, 1, 0]),
        ("[1,0,1,0,0]", [1, 0, 1, 0, 0]),
    ],
)
def test_moe_layer_freq(freq: object, expected: list[int]) -> None:
    model = replace(TINY_MOE, num_layers=5, moe_layer_freq=freq)
    assert moe_layers(model) == [bool(x) for x in expected]
    assert oracle.moe_pattern(model) == expected
    layers = {n for f in catalogue(model).families if f.grid == "expert" for n in f.layers}
    assert layers == {i for i, x in enumerate(expected) if x}


@pytest.mark.parametrize(
    "freq",
    [
        0,
        -1,
        True,
        None,
        1.0,
        [0, 1, 2, 0, 1],
        [0, 1],
        "[0]*3",
        "([0]*1+[1]*60)",
        "[0]*1+",
        "[0]+1",
        "",
        "__import__('os').getcwd()",
        "[0]*100000000",
        "[x for x in (0,1,0,1,0)]",
    ],
)
def test_bad_moe_layer_freq_is_refused(freq: object) -> None:
    with pytest.raises(UserError, match="moe_layer_freq"):
        moe_layers(replace(TINY_MOE, num_layers=5, moe_layer_freq=freq))


def test_a_dense_model_has_no_moe_layers_whatever_the_frequency() -> None:
    assert moe_layers(replace(TINY, moe_layer_freq="nonsense")) == [False] * 4


# ---- Megatron's derived defaults


def test_missing_sizes_are_derived_as_megatron_does() -> None:
    model = Model(name="m", num_layers=1, hidden_size=64, num_attention_heads=8, vocab_size=128)
    shapes = {f.name: f.shape for f in catalogue(model).families}
    layer = "decoder.layers.{layer}."
    assert shapes[layer + "self_attention.linear_qkv.weight"] == (3 * 64, 64)
    assert shapes[layer + "self_attention.linear_qkv.bias"] == (3 * 64,)
    assert shapes[layer + "self_attention.linear_proj.weight"] == (64, 64)
    assert shapes[layer + "mlp.linear_fc1.weight"] == (256, 64)
    assert shapes[layer + "mlp.linear_fc2.bias"] == (64,)
    moe = {f.name: f.shape for f in catalogue(replace(model, num_moe_experts=4)).families}
    assert moe[layer + "mlp.experts.linear_fc1.weight{expert}"] == (256, 64)
    assert layer + "mlp.linear_fc1.weight" not in moe
    grouped = {f.name: f.shape for f in catalogue(replace(model, num_query_groups=2)).families}
    assert grouped[layer + "self_attention.linear_qkv.weight"] == ((8 + 2 * 2) * 8, 64)
