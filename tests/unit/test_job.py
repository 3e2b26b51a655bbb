"""What a config may hold: unknown fields by name, and those whose weights are not modelled."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Degrees, Job
from refit.layout.place import place
from refit.model_config import NOT_MODELLED, Model
from refit.other_names import GROUPS, SIDES, WORDS
from refit.rules.values import CHOICES
from tests.support.jobs import TINY, job


def with_field(path: str, value: Any) -> dict[str, Any]:
    """A whole config with one more field."""
    values = inner = job().to_dict()
    *groups, key = path.split(".")
    for group in groups:
        inner = inner[group]
    inner[key] = value
    return values


@pytest.mark.parametrize("name", NOT_MODELLED)
def test_what_is_not_modelled_is_refused_as_that(name: str) -> None:
    with pytest.raises(UserError, match="is not modelled") as refusal:
        Job.from_dict(with_field(f"model.{name}", 1))
    text = str(refusal.value)
    assert f"'model.{name}'" in text and NOT_MODELLED[name] in text
    assert "did you mean" not in text and "num_layers?" not in text and "vocab_size" not in text
    assert name not in {field.name for field in fields(Model)}


def test_a_misspelt_one_too() -> None:
    with pytest.raises(UserError, match="is not modelled: what each layer has of its own"):
        Job.from_dict(with_field("model.heterogeneous_block_spec", 1))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("model.num_layer", "did you mean num_layers?"),
        ("model.hidden_dropout", "unknown field 'model.hidden_dropout'; All fields"),
        ("refit.bucketmb", "did you mean bucket_mb?"),
        ("parallel.source.mtp_num_layers", "unknown field"),  # of a model alone
        ("zzz", "unknown field 'zzz'; All fields"),
    ],
)
def test_an_unknown_field_gets_the_nearest_and_no_list(path: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        Job.from_dict(with_field(path, 1))
    assert words in str(refusal.value) and "kv_channels" not in str(refusal.value)


DOCUMENTED = {
    "model.num_experts": "num_experts is model.num_moe_experts here",
    "model.disable_bias_linear": "disable_bias_linear=true is model.add_bias_linear=false",
    "model.untie_embeddings_and_output_weights": "untie_embeddings_and_output_weights=true is"
    " model.share_embeddings_and_output_weights=false",
    "model.swiglu": "swiglu=true is model.gated_linear_unit=true model.activation_func=silu here",
    "model.group_query_attention": "is model.num_query_groups, the groups",
    "model.token_dispatcher_type": "token_dispatcher_type is model.moe_token_dispatcher_type here",
    "model.expert_model_parallel_size": "expert_model_parallel_size is parallel.source.ep here, or"
    " of parallel.destination",
    "model.micro_batch_size": "micro_batch_size is of training, and no batch is run here",
    "parallel.source.dp": "dp is parallel.source.gpus here (all ranks of the side, TP * PP * EP",
    "bench.num_benchmark_iterations": "num_benchmark_iterations is bench.iterations here",
    "refit.refit_method": "refit_method is refit.method (or refit=<method>) here",
    "refit.refit_mode": "refit_mode is refit.mode here",
    "num-experts": "num_experts is model.num_moe_experts here",
    "tensor_model_parallel_size": "tensor_model_parallel_size is parallel.source.tp here, or of",
    "rl_inference_expert_tensor_model_parallel_size": "is parallel.destination.etp here.",
    # ours, in the wrong place
    "tp": "did you mean parallel.source.tp or parallel.destination.tp?",
    "model.iterations": "did you mean bench.iterations?",
}
LONG = ("tensor_model", "pipeline_model", "expert_model", "expert_tensor", "context")


@pytest.mark.parametrize("path", DOCUMENTED)
def test_a_name_of_the_documents_gets_the_field_that_is_meant(path: str) -> None:
    with pytest.raises(UserError) as refusal:
        Job.from_dict(with_field(path, 1))
    assert DOCUMENTED[path] in str(refusal.value)
    assert "--cfg job" in str(refusal.value)


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("long", LONG)
def test_a_degrees_long_name_gets_its_short_one(side: str, long: str) -> None:
    short = "".join(word[0] for word in long.removesuffix("_model").split("_")) + "p"
    with pytest.raises(UserError) as refusal:
        Job.from_dict(with_field(f"parallel.{side}.{long}_parallel_size", 2))
    assert f"{long}_parallel_size is parallel.{side}.{short} here. " in str(refusal.value)


def test_every_other_name_leads_to_fields_that_there_are() -> None:
    values = job().to_dict()
    for other, ours in {**SIDES, **GROUPS}.items():
        name = other.partition("=")[0]
        of_side = other in SIDES
        assert name not in (values["parallel"]["source"] if of_side else values["model"])
        for field in re.findall(r"[a-z_.]+\.[a-z_]+|^[a-z_]+", ours):
            *groups, key = ("parallel.source." * of_side + field).split(".")
            inner = values
            for group in groups:
                inner = inner[group]
            assert key in inner, ours
    for (field, word), ours in WORDS.items():
        assert word not in CHOICES[field] and ours.split()[0] in CHOICES[field]


def test_an_etp_that_nobody_said_is_named_with_the_way_out() -> None:
    # TP 8 is ETP 8 by default, and 8 * 16 ranks hold one copy of the experts
    wide = Degrees(tp=8, ep=16, gpus=64)
    with pytest.raises(UserError, match="must be a positive multiple of") as refusal:
        place(job(wide, Degrees(tp=2), model=TINY))
    assert str(refusal.value).startswith("parallel.source: etp is tp, 8, by default")
    assert "with parallel.source.etp=1, each expert whole, this works" in str(refusal.value)
    # a destination's is the source's
    with pytest.raises(UserError, match="etp is the source's, 4, by default") as refusal:
        place(job(Degrees(tp=4, etp=4), Degrees(tp=1, ep=4, gpus=4), model=TINY))
    assert "parallel.destination.etp=1" in str(refusal.value)
    # nobody said gpus
    with pytest.raises(UserError) as refusal:
        place(job(Degrees(tp=2, ep=2), Degrees(tp=1), model=TINY))
    assert str(refusal.value).startswith(
        "parallel.destination: etp is the source's, and that is its tp, 2, by default, as Megatron"
        " has it, and does not fit; with parallel.destination.etp=1, each expert whole, this works."
        " gpus=1, by default tp*cp*pp*ep, must be a positive multiple of"
    )
    # where it does not help, or was said, it is not named
    for degrees in (Degrees(tp=8, ep=16, gpus=60), Degrees(tp=8, ep=16, etp=8, gpus=64)):
        with pytest.raises(UserError) as refusal:
            place(job(degrees, Degrees(tp=2), model=TINY))
        assert "by default" not in str(refusal.value)
