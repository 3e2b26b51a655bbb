"""GPTModel names -> logical names, and what a build says of itself; both without torch."""

import subprocess
import sys
from dataclasses import replace

import pytest

from refit.errors import UserError
from refit.job import Degrees, Job, Parallel, Refit
from refit.layout.layout import Layout
from refit.model import megatron_versions as versions
from refit.model.architecture import LOCAL_SPEC, PRODUCTION, catalogue
from refit.model.convention import Build, build_of, logical_name
from refit.model_config import Model
from tests.support.composed import composed

ATTENTION, EXPERTS = "self_attention.", "mlp.experts."


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("2.input_layernorm.weight", "12.input_layernorm.weight"),
        ("0.mlp.router.expert_bias", "10.mlp.router.expert_bias"),
        ("0.mlp.shared_experts.linear_fc1.weight", "10.mlp.shared_experts.linear_fc1.weight"),
        # SequentialMLP
        (f"1.{EXPERTS}local_experts.3.linear_fc1.weight", f"11.{EXPERTS}linear_fc1.weight67"),
        (f"1.{EXPERTS}local_experts.0.linear_fc2.bias", f"11.{EXPERTS}linear_fc2.bias64"),
        # TEGroupedMLP
        (f"1.{EXPERTS}linear_fc2.weight15", f"11.{EXPERTS}linear_fc2.weight79"),
        (f"1.{EXPERTS}linear_fc1.bias0", f"11.{EXPERTS}linear_fc1.bias64"),
        # norms that Transformer Engine fuses
        (f"0.{ATTENTION}linear_qkv.layer_norm_weight", "10.input_layernorm.weight"),
        ("0.mlp.linear_fc1.layer_norm_bias", "10.pre_mlp_layernorm.bias"),
        (f"0.{ATTENTION}linear_q_up_proj.layer_norm_weight", f"10.{ATTENTION}q_layernorm.weight"),
        (f"0.{ATTENTION}linear_kv_up_proj.layer_norm_weight", f"10.{ATTENTION}kv_layernorm.weight"),
    ],
)
def test_names_inside_layers(local: str, expected: str) -> None:
    name = logical_name(f"decoder.layers.{local}", first_layer=10, first_expert=64)
    assert name == f"decoder.layers.{expected}"


@pytest.mark.parametrize(
    "name",
    ["embedding.word_embeddings.weight", "decoder.final_layernorm.weight", "output_layer.weight"],
)
def test_names_outside_layers_stay(name: str) -> None:
    assert logical_name(name, first_layer=10, first_expert=64) == name


def test_tied_output_layer_is_the_embedding() -> None:
    assert logical_name("output_layer.weight", tied=True) == "embedding.word_embeddings.weight"


def test_convention_lists_only_what_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = Job(
        model=Model(name="d", num_layers=1, hidden_size=8, num_attention_heads=1, vocab_size=8)
    )
    latent = Job(
        model=Model(
            name="m", multi_latent_attention=True, num_moe_experts=2, moe_grouped_gemm=True
        ),
        parallel=Parallel(source=Degrees(cp=2)),
    )
    monkeypatch.setattr("refit.model.convention.has_transformer_engine", lambda: False)
    build = build_of(dense)
    assert build.convention == LOCAL_SPEC
    assert build.transformer_engine is False
    assert len(build.differs) == 1 and "norms" in build.differs[0]
    build = build_of(latent)
    assert [
        next(w for w in ("norms", "MLA", "SequentialMLP", "context") if w in line)
        for line in build.differs
    ] == [
        "norms",
        "MLA",
        "SequentialMLP",
        "context",
    ]
    for names, words in (
        ("production", "under production's names"),
        ("installed", "as SequentialMLP names"),
    ):
        peer = replace(latent, refit=Refit(method="megatron", peer_names=names))
        assert [words in line for line in build_of(peer).differs].count(True) == 1
    peer = replace(dense, refit=Refit(method="megatron"))
    assert build_of(peer) == build_of(dense)
    monkeypatch.setattr("refit.model.convention.has_transformer_engine", lambda: True)
    peer = replace(latent, refit=Refit(method="megatron"))
    assert not [line for line in build_of(peer).differs if "names" in line]
    build = build_of(dense)
    production = replace(PRODUCTION, direct_query_norm=versions.NORMS_DIRECT_QUERIES)
    assert (build.convention, build.differs) == (production, [])
    shards = build_of(Job(model=dense.model, build="shards"))
    assert (shards, shards.convention) == (Build("shards", []), production)
    with pytest.raises(UserError, match="build 'mcore' is not megatron or shards"):
        build_of(Job(model=dense.model, build="mcore"))


@pytest.mark.parametrize("normed", [True, False])
def test_direct_queries_of_an_engine_build(normed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By reading: 0.19 fuses a norm of the queries into MLA's linear_q_proj; not run with it."""
    monkeypatch.setattr("refit.model.convention.has_transformer_engine", lambda: True)
    monkeypatch.setattr(versions, "NORMS_DIRECT_QUERIES", normed)
    model = replace(
        composed("model=kimi_k2_mini").model, q_lora_rank=None, num_layers=1, moe_layer_freq=1
    )
    theirs = [
        "input_layernorm.weight",
        f"{ATTENTION}linear_q_proj.weight",
        *([f"{ATTENTION}linear_q_proj.layer_norm_weight"] if normed else []),
        f"{ATTENTION}linear_kv_down_proj.weight",
        f"{ATTENTION}linear_kv_up_proj.layer_norm_weight",
        f"{ATTENTION}linear_kv_up_proj.weight",
        f"{ATTENTION}linear_proj.weight",
    ]
    named = [logical_name(f"decoder.layers.0.{name}") for name in theirs]
    tensors = catalogue(model, 1, build_of(Job(model=model)).convention)
    shards = tensors.held_by(Layout(), 0)
    attention = [s.name for s in shards if ATTENTION in s.name or ".input_" in s.name]
    assert sorted(named) == sorted(attention)
    norms = [s.shape for s in shards if "q_proj.layer_norm" in s.name]
    assert norms == ([(model.hidden_size,)] if normed else [])
    # and without the engine there is none, which the record says where production has one
    monkeypatch.setattr("refit.model.convention.has_transformer_engine", lambda: False)
    build = build_of(Job(model=model))
    names = [family.name for family in catalogue(model, 1, build.convention).families]
    assert not any("q_proj.layer_norm" in name for name in names)
    assert any("linear_q_proj.layer_norm_weight" in x for x in build.differs) is normed


def test_convention_imports_neither_torch_nor_megatron() -> None:
    code = (
        "import sys; from refit.model.convention import build_of;"
        "from refit.job import Job; from refit.model_config import Model;"
        "build_of(Job(model=Model(name='x')));"
        "assert not {'torch', 'megatron.core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
