"""Every flag that Megatron's parser has is known here, and read as the parser reads it."""

from __future__ import annotations

import argparse
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refit.importers import flags, options, read, write
from refit.job import Job
from refit.model_config import Model
from tests.support import megatron_parser
from tests.support.commands import EIGHT_GPUS, EVERY, command, reading
from tests.support.composed import composed
from tests.unit.importers.test_write import jobs

pytestmark = pytest.mark.skipif(
    megatron_parser.MISSING is not None, reason=str(megatron_parser.MISSING)
)


@cache
def actions() -> list[argparse.Action]:
    """Everything that the parser of this megatron-core takes."""
    found: list[argparse.ArgumentParser] = []
    parse = argparse.ArgumentParser.parse_known_args

    def seen(self: argparse.ArgumentParser, *args: Any, **more: Any) -> Any:
        found.append(self)
        return parse(self, *args, **more)

    with patch.object(argparse.ArgumentParser, "parse_known_args", seen):
        megatron_parser.parse([])
    return [one for one in found[0]._actions if "--help" not in one.option_strings]


def test_no_flag_of_the_parser_is_unknown() -> None:
    names = {option[2:] for one in actions() for option in one.option_strings}
    assert len(names) > 700
    assert {name for name in names if not flags.known(name)} == set()


def test_what_takes_no_value_takes_none_here() -> None:
    for one in actions():
        for option in one.option_strings:
            form = flags.MEANT.get(option[2:])
            if form is not None:
                assert (one.nargs == 0) == (form in ("on", "off")), option
                assert (one.nargs == "+") == (form in ("words", "numbers")), option


def test_defaults_are_the_parser_s() -> None:
    """Of every flag that is one field: what `Model` has where nothing is said."""
    silent = read.read(["--num-layers", "1", "--hidden-size", "8", "--num-attention-heads", "1"])
    model = Model(**{"name": "", **silent.model})
    found = vars(megatron_parser.parse([]))
    for name, one in flags.MODEL.items():
        if name in flags.ALIASES or one.of != "all" or one.field in read_anyway:
            continue
        action = next((a for a in actions() if f"--{name}" in a.option_strings), None)
        if action is None:
            assert name == "moe-token-dropping"
            continue
        ours = getattr(model, one.field)
        theirs = found[action.dest]
        if name in ("untie-embeddings-and-output-weights",):
            theirs = not theirs
        assert ours == theirs, name
    for key, value in flags.MEGATRONS_OWN.items():
        assert found[key] == value


read_anyway = {
    "num_layers", "hidden_size", "num_attention_heads", "vocab_size", "seq_length",
    "max_position_embeddings",
}  # fmt: skip
"""What the parser has no default of."""


def by_the_parser(words: list[str]) -> dict[str, Any]:
    """Fields of `Model` and of both sides, by Megatron's own parser and its derivations."""
    found = megatron_parser.parse(words)
    gated = found.swiglu or found.quick_geglu
    activation = "silu" if found.swiglu else "quick_gelu" if found.quick_geglu else "gelu"
    ffn = found.ffn_hidden_size
    if ffn is None:
        wide = int((4 * found.hidden_size * 2 / 3) / 64) * 64
        ffn = wide if found.swiglu else 4 * found.hidden_size
    rotary = found.use_rotary_position_embeddings
    groups = found.num_query_groups if found.group_query_attention else found.num_attention_heads
    return {
        "num_layers": found.num_layers or found.encoder_num_layers,
        "hidden_size": found.hidden_size,
        "num_attention_heads": found.num_attention_heads,
        "ffn_hidden_size": ffn,
        "num_query_groups": groups,
        "kv_channels": found.kv_channels or found.hidden_size // found.num_attention_heads,
        "activation_func": activation,
        "gated_linear_unit": gated,
        "add_bias_linear": found.add_bias_linear,
        "add_qkv_bias": found.add_qkv_bias,
        "qk_layernorm": found.qk_layernorm,
        "normalization": found.normalization,
        "layernorm_epsilon": found.layernorm_epsilon,
        "share_embeddings_and_output_weights": not found.untie_embeddings_and_output_weights,
        "position_embedding_type": "rope" if rotary else found.position_embedding_type,
        "rotary_base": found.rotary_base,
        "rope_scaling": found.use_rope_scaling,
        "window_size": None if found.window_size is None else list(found.window_size),
        "make_vocab_size_divisible_by": found.make_vocab_size_divisible_by,
        "multi_latent_attention": found.multi_latent_attention,
        "kv_lora_rank": found.kv_lora_rank if found.multi_latent_attention else None,
        "q_lora_rank": found.q_lora_rank if found.multi_latent_attention else None,
        "num_moe_experts": found.num_experts,
        "moe_ffn_hidden_size": found.moe_ffn_hidden_size or (ffn if found.num_experts else None),
        "moe_shared_expert_intermediate_size": found.moe_shared_expert_intermediate_size,
        "moe_grouped_gemm": found.moe_grouped_gemm,
        "moe_router_topk": found.moe_router_topk,
        "moe_router_enable_expert_bias": found.moe_router_enable_expert_bias,
    }


def equal_to_the_parser(words: list[str]) -> None:
    found = read.read(words)
    model = options.comparable(Model(**{"name": "", "vocab_size": 1, **found.model}))
    theirs = by_the_parser(words)
    assert {key: model[key] for key in theirs} == theirs
    args = megatron_parser.parse(words)
    for key, flag in (("tp", "tensor"), ("pp", "pipeline")):
        of_source = getattr(args, f"{flag}_model_parallel_size")
        of_destination = getattr(args, f"rl_inference_{flag}_model_parallel_size")
        assert found.source[key] == of_source
        assert found.destination[key] == (of_destination or of_source)
    assert found.source["ep"] == args.expert_model_parallel_size
    assert found.source.get("etp") == args.expert_tensor_parallel_size
    assert found.destination.get("etp") == args.rl_inference_expert_tensor_model_parallel_size
    assert found.method == args.refit_method
    if found.bench:
        assert found.mode == args.refit_mode
        assert found.bench["iterations"] == args.num_benchmark_iterations
        assert found.bench["warmup"] == max(0, args.num_benchmark_warmup - 1)


@pytest.mark.parametrize("name", EVERY)
def test_the_documents_commands_as_the_parser_has_them(name: str) -> None:
    words = [word.replace("$", "x") for word in command(name).arguments]
    megatron_parser.parse(words)  # also a fragment
    if reading(name).whole:
        equal_to_the_parser(words)


WHOLE = ["--num-layers", "6", "--hidden-size", "128", "--num-attention-heads", "4"]
CHOICES = st.lists(
    st.sampled_from([
        "--swiglu", "--quick-geglu", "--disable-bias-linear", "--add-qkv-bias", "--qk-layernorm",
        "--untie-embeddings-and-output-weights", "--group-query-attention", "--moe-grouped-gemm",
        "--multi-latent-attention", "--use-rope-scaling", "--use-rotary-position-embeddings",
        "--num-query-groups 2", "--ffn-hidden-size 77", "--kv-channels 9", "--num-experts 4",
        "--moe-ffn-hidden-size 5", "--moe-shared-expert-intermediate-size 6", "--kv-lora-rank 64",
        "--q-lora-rank 8", "--rotary-base 5000", "--position-embedding-type rope",
        "--position-embedding-type none", "--normalization RMSNorm", "--norm-epsilon 1e-6",
        "--window-size (3,-1)", "--moe-router-enable-expert-bias", "--moe-router-topk 3",
        "--make-vocab-size-divisible-by 64", "--tensor-model-parallel-size 2",
        "--pipeline-model-parallel-size 3", "--expert-model-parallel-size 2",
        "--expert-tensor-parallel-size 1", "--rl-inference-tensor-model-parallel-size 4",
        "--rl-inference-pipeline-model-parallel-size 1", "--refit-mode collocated",
        "--rl-inference-expert-tensor-model-parallel-size 1", "--refit-method nccl",
        "--num-benchmark-warmup 0", "--num-benchmark-iterations 4", "--refit-mode non-collocated",
    ]),
    unique=True,
)  # fmt: skip


@settings(max_examples=40)
@given(CHOICES)
def test_random_flags_as_the_parser_has_them(chosen: list[str]) -> None:
    if {"--swiglu", "--quick-geglu"} <= set(chosen):
        chosen = [one for one in chosen if one != "--swiglu"]  # Megatron asserts that
    if not {"--refit-mode collocated", "--refit-mode non-collocated"} & set(chosen):
        chosen = [one for one in chosen if not one.startswith("--num-benchmark")]
    equal_to_the_parser([*WHOLE, *" ".join(chosen).split()])


@settings(max_examples=25)
@given(jobs())
def test_what_is_written_the_parser_reads(job: Job) -> None:
    if job.model.position_embedding_type == "yarn":
        return  # from 0.18 on, and its numbers from 0.19
    written = write.write(job, job)
    equal_to_the_parser(written.words)


@pytest.mark.parametrize("name", EIGHT_GPUS)
def test_what_is_written_of_a_command_megatron_accepts(name: str) -> None:
    """Its checks too, on the world that the command says."""
    job = composed(
        *options.overrides(reading(name)), "model.add_bias_linear=false",
        "parallel.source.etp=1", "parallel.destination.etp=1",
    )  # fmt: skip
    written = write.write(job, job)
    assert megatron_parser.refusal(written.words, written.world) is None
    if written.world > 1:
        assert megatron_parser.refusal(written.words, 1) is not None
