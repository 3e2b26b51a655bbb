"""What flags say, against values written out by hand from the flags themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from refit.errors import UserError
from refit.importers import flags, options, read
from refit.job import Degrees, Job
from refit.model.architecture import catalogue
from refit.model_config import NOT_MODELLED, Model
from tests.support.commands import EIGHT_GPUS, EVERY, command, reading
from tests.support.composed import composed

# what --num-layers and the others of the table's model say; what none says is Megatron's default
SIXTEEN: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "ffn_hidden_size": 2688,
    "num_query_groups": 8,  # no --group-query-attention: each head its own
    "kv_channels": 128,
    "activation_func": "gelu",
    "gated_linear_unit": False,
    "add_bias_linear": True,
    "add_qkv_bias": False,
    "qk_layernorm": False,
    "normalization": "LayerNorm",
    "layernorm_epsilon": 1e-5,
    "multi_latent_attention": False,
    "vocab_size": 50257,  # the benchmark's
    "make_vocab_size_divisible_by": 128,
    "share_embeddings_and_output_weights": True,
    "seq_length": 512,
    "max_position_embeddings": 512,
    "position_embedding_type": "learned_absolute",
    "rotary_base": 10000,
    "num_moe_experts": 16,
    "moe_layer_freq": [True] * 4,
    "moe_ffn_hidden_size": 2688,
    "moe_shared_expert_intermediate_size": 512,
    "moe_grouped_gemm": False,
    "moe_router_topk": 2,
    "moe_router_load_balancing_type": "aux_loss",
    "moe_aux_loss_coeff": 0.0,
    "moe_token_dispatcher_type": "allgather",
}
EIGHT = SIXTEEN | {
    "num_layers": 2,
    "hidden_size": 512,
    "num_attention_heads": 4,
    "ffn_hidden_size": 1344,
    "num_query_groups": 4,
    "seq_length": 256,
    "max_position_embeddings": 256,
    "num_moe_experts": 8,
    "moe_layer_freq": [True] * 2,
    "moe_ffn_hidden_size": 1344,
    "moe_shared_expert_intermediate_size": 256,
}
MIXTRAL = SIXTEEN | {
    "num_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "ffn_hidden_size": 14336,
    "num_query_groups": 8,
    "activation_func": "silu",
    "gated_linear_unit": True,
    "add_bias_linear": False,
    "normalization": "RMSNorm",
    "vocab_size": 32000,  # the shipped model's: only the tokenizer knows
    "share_embeddings_and_output_weights": False,
    "seq_length": 2048,
    "max_position_embeddings": 32768,
    "position_embedding_type": "rope",
    "num_moe_experts": 8,
    "moe_layer_freq": [True] * 32,
    "moe_ffn_hidden_size": 14336,
    "moe_shared_expert_intermediate_size": None,
    "moe_grouped_gemm": True,
    "moe_aux_loss_coeff": 0.01,
}


class Row:
    """A command's job: model, (TP, EP, ETP) of both sides, GPUs, mode, method, iterations."""

    def __init__(self, model: dict[str, Any], *rest: Any) -> None:
        self.model = model
        self.source, self.destination, self.mode, self.method, self.iterations = rest


# config 1 alone gives the flags that experts need; elsewhere ETP is TP, at both sides the source's
COMMANDS = {
    "config_1": Row(
        SIXTEEN | {"add_bias_linear": False},
        (2, 2, 1), (2, 1, 1), "non-collocated", "nvshmem", 3,
    ),
    "config_2": Row(SIXTEEN, (2, 2, 2), (2, 2, 2), "non-collocated", "nvshmem", 3),
    "config_3": Row(SIXTEEN, (4, 1, 4), (2, 1, 4), "non-collocated", "nvshmem", 3),
    "config_4": Row(EIGHT, (2, 1, 2), (1, 1, 2), "non-collocated", "nvshmem", 2),
    "swap": Row(SIXTEEN, (4, 2, 4), (2, 4, 4), "collocated", "nccl", 3),
    "mixtral_8x7b": Row(MIXTRAL, (4, 4, 4), (4, 4, 4), "collocated", "gloo", 3),
}  # fmt: skip


def job_of(name: str, *more: str, **variables: str) -> Job:
    return composed(*options.overrides(reading(name, *more, **variables)))


def of_flags(text: str, world: int | None = None) -> Job:
    return composed(*options.overrides(read.read(text.split(), world)))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_documents_commands(name: str) -> None:
    row, job = COMMANDS[name], job_of(name)
    found = options.comparable(job.model)
    assert {key: found[key] for key in row.model} == row.model
    silent = options.comparable(Model(name="", num_layers=row.model["num_layers"],
                                      hidden_size=row.model["hidden_size"],
                                      num_attention_heads=row.model["num_attention_heads"],
                                      num_moe_experts=1))  # fmt: skip
    for key in found.keys() - row.model.keys():
        assert found[key] == silent[key], key
    pair = job.parallel
    sides = [(s.tp, s.ep, pair.etp_of(s)) for s in (pair.source, pair.destination)]
    assert sides == [row.source, row.destination]
    for side in (pair.source, pair.destination):
        assert side == Degrees(tp=side.tp, ep=side.ep, etp=side.etp)  # nothing else is said
    assert (job.placement_mode, job.refit.method) == (row.mode, row.method)
    assert (job.bench.iterations, job.bench.warmup) == (
        row.iterations, 0 if name == "mixtral_8x7b" else 1,
    )  # fmt: skip


def test_config_1_is_the_tables_row() -> None:
    words = options.overrides(reading("config_1"))
    assert "parallel=noncollocated_1_tp2ep2_to_tp2ep1" in words
    assert "model=moe_16e" in words and "refit=nvshmem" in words
    assert not any(word.startswith("model.name") for word in words)


@pytest.mark.parametrize("name", EVERY)
def test_every_command_and_fragment_composes(name: str) -> None:
    found = reading(name)
    job = composed(*options.overrides(found))
    assert job.parallel.source.tp == found.source["tp"]
    assert found.whole == (name in (*EIGHT_GPUS, "mixtral_8x7b"))
    said = sum(word.startswith("--") for word in command(name).arguments)
    listed = sum(len(kind) for kind in found.left_out.values())
    meant = sum(w[2:] in flags.MEANT for w in command(name).arguments if w.startswith("--"))
    assert said == listed + meant and said > 0


def test_fragments() -> None:
    fails, fixed = job_of("pitfall_fails"), job_of("pitfall_fixed")
    assert (fails.parallel.source.tp, fails.parallel.destination.tp) == (8, 4)
    assert (fixed.parallel.source.tp, fixed.parallel.destination.tp) == (4, 2)
    assert fails.placement_mode == fixed.placement_mode == "non-collocated"
    assert job_of("top_2").model.num_moe_experts == 8
    assert job_of("top_2").parallel.destination.ep == 8
    needs = job_of("moe_needs")
    assert needs.parallel.source.etp == 1 and needs.model.add_bias_linear is False
    assert any("no whole model" in note for note in reading("moe_needs").notes)


def test_mixtral_s_left_out_by_kind() -> None:
    found = reading("mixtral_8x7b").left_out
    assert found["data"] == ["--data-path $3", "--split 99990,8,2"]
    assert found["tokenizer"] == ["--tokenizer-type Llama2Tokenizer", "--tokenizer-model $2"]
    assert "--lr 1e-4" in found["optimizer"] and "--save $1" in found["checkpoints"]
    assert "--tensorboard-dir $1/tensorboard" in found["logging"]
    assert any("16" in note and "8 GPUs" in note for note in reading("mixtral_8x7b").notes)
    assert any("vocab_size is the tokenizer's" in note for note in reading("mixtral_8x7b").notes)


def test_the_world_of_a_script() -> None:
    job = job_of("mixtral_8x7b", NNODES="4")
    assert job.parallel.source.gpus == job.parallel.destination.gpus == 32
    job = job_of("mixtral_8x7b", "--rl-inference-tensor-model-parallel-size", "8",
                 "--rl-inference-expert-model-parallel-size", "8",
                 "--rl-inference-expert-tensor-model-parallel-size", "1", NNODES="2")  # fmt: skip
    assert job.parallel.name == "mixtral_8x7b_16_tp4ep4etp4_to_tp8ep8"


WHOLE = "--num-layers 6 --hidden-size 64 --num-attention-heads 4 --seq-length 8 --bf16"
WHOLE += " --max-position-embeddings 16 "


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--swiglu", "ffn_hidden_size", 128),  # (64 * 8 / 3) // 64 * 64
        ("--swiglu", "activation_func", "silu"),
        ("--quick-geglu", "activation_func", "quick_gelu"),
        ("--quick-geglu", "ffn_hidden_size", 256),
        ("", "gated_linear_unit", False),
        ("--group-query-attention --num-query-groups 2", "num_query_groups", 2),
        ("--group-query-attention", "num_query_groups", 1),
        ("--num-query-groups 2", "num_query_groups", 4),
        ("--disable-bias-linear", "add_bias_linear", False),
        ("--norm-epsilon 1e-6", "layernorm_epsilon", 1e-6),
        ("--untie-embeddings-and-output-weights", "share_embeddings_and_output_weights", False),
        ("--use-rotary-position-embeddings", "position_embedding_type", "rope"),
        ("--position-embedding-type=rope --rotary-base=500000", "rotary_base", 500000),
        ("--padded-vocab-size 320", "vocab_size", 320),
        ("--padded-vocab-size 320", "make_vocab_size_divisible_by", 1),
        ("--vocab-size 300 --no-pad-vocab-size", "make_vocab_size_divisible_by", 1),
        ("--window-size (128,0)", "window_size", [128, 0]),
        ("--window-size 8,-1 --window-attn-skip-freq 2", "window_attn_skip_freq", 2),
        ("--softmax-type learnable", "softmax_type", "learnable"),
        ("--num-experts 4 --moe-layer-freq 2", "moe_layer_freq", [True, False] * 3),
        ("--num-experts 4 --moe-layer-freq ([0]*1+[1]*5)", "moe_layer_freq", [False] + [True] * 5),
        ("--num-experts 4 --moe-layer-freq [0,1,1,1,1,1]", "moe_layer_freq", [False] + [True] * 5),
        ("--multi-latent-attention", "kv_lora_rank", 32),  # the parser's; the config's is 512
        ("--multi-latent-attention --kv-lora-rank 512 --q-lora-rank 9", "q_lora_rank", 9),
        ("--multi-latent-attention", "rope_type", "yarn"),
        ("--multi-latent-attention", "rotary_scaling_factor", 1.0),
        ("--multi-latent-attention --rope-type rope", "rope_type", "rope"),
        ("--position-embedding-type yarn --yarn-beta-fast 16", "beta_fast", 16.0),
        ("--num-experts 4 --moe-router-load-balancing-type aux_loss seq_aux_loss"
         " --moe-aux-loss-coeff 0.1 0.2", "moe_aux_loss_coeff", [0.1, 0.2]),
        ("--num-experts 4 --moe-router-topk-scaling-factor 2.5",
         "moe_router_topk_scaling_factor", 2.5),
        ("--hidden-size 128", "hidden_size", 128),  # the last one counts, as in Megatron
    ],
)  # fmt: skip
def test_one_flag(words: str, field: str, value: object) -> None:
    job = of_flags(WHOLE + words)
    assert options.comparable(job.model)[field] == value
    catalogue(job.model)  # it is a model


@pytest.mark.parametrize(
    ("words", "side", "expected"),
    [
        ("--tensor-model-parallel-size 2 --pipeline-model-parallel-size 3", "destination",
         {"tp": 2, "pp": 3}),
        ("--context-parallel-size 2", "destination", {"cp": 2}),
        ("--tensor-model-parallel-size 4 --rl-inference-tensor-model-parallel-size 2", "source",
         {"tp": 4}),
        ("--tensor-model-parallel-size 4 --rl-inference-tensor-model-parallel-size 2",
         "destination", {"tp": 2}),
        ("--use-tp-pp-dp-mapping", "destination", {"order": "tp-cp-ep-pp-dp"}),
        ("--fp16", "source", {"dtype": "float16"}),
        ("--pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 4", "destination",
         {"pp": 2, "num_layers_in_first_pipeline_stage": 4}),
        ("--pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 4"
         " --rl-inference-pipeline-model-parallel-size 1", "destination", {"pp": 1}),
        ("--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Et*3|t*3L", "source",
         {"pp": 2, "pipeline_model_parallel_layout": "Et*3|t*3L"}),
        ("--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1", "source",
         {"pp": 2, "virtual_pipeline_model_parallel_size": 3}),
        ("--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 3", "source",
         {"pp": 2, "virtual_pipeline_model_parallel_size": 3}),
        ("--pipeline-model-parallel-size 4 --account-for-embedding-in-pipeline-split"
         " --account-for-loss-in-pipeline-split", "source",
         {"pp": 4, "account_for_embedding_in_pipeline_split": True,
          "account_for_loss_in_pipeline_split": True}),
    ],
)  # fmt: skip
def test_a_side(words: str, side: str, expected: dict[str, Any]) -> None:
    found = getattr(of_flags(WHOLE + words).parallel, side)
    etp = found.etp if found.etp == 1 else None  # of a dense model it says nothing
    assert asdict(found) == asdict(Degrees(**{"etp": etp, **expected}))


@pytest.mark.parametrize(
    ("mode", "world", "gpus"),
    [
        ("collocated", None, [None, None]),
        ("collocated", 8, [8, 8]),
        ("collocated", 2, [None, 2]),  # what it is by itself is not said
        ("collocated", 3, [None, None]),
        ("non-collocated", 8, [None, None]),  # one replica each, five idle
    ],
)
def test_gpus(mode: str, world: int | None, gpus: list[int | None]) -> None:
    words = "--tensor-model-parallel-size 2 --rl-inference-tensor-model-parallel-size 1"
    job = of_flags(f"{WHOLE} {words} --refit-mode {mode}", world)
    assert [job.parallel.source.gpus, job.parallel.destination.gpus] == gpus


def test_a_world_that_does_not_suffice_is_said() -> None:
    words = f"{WHOLE} --tensor-model-parallel-size 2 --refit-mode non-collocated".split()
    assert any("3 GPUs, and 4 are needed" in note for note in read.read(words, 3).notes)
    assert not any("are needed" in note for note in read.read(words, 4).notes)


@pytest.mark.parametrize(
    ("words", "bench"),
    [
        ("--refit-mode collocated", {"iterations": 10, "warmup": 1}),
        ("--num-benchmark-iterations 4", {"iterations": 4, "warmup": 1}),
        ("--num-benchmark-warmup 5", {"iterations": 10, "warmup": 4}),
        ("--num-benchmark-warmup 0", {"iterations": 10, "warmup": 0}),
        ("", {}),
    ],
)
def test_iterations(words: str, bench: dict[str, int]) -> None:
    assert read.read((WHOLE + words).split()).bench == bench


def test_another_shape_has_another_name() -> None:
    assert of_flags(f"{WHOLE} --num-experts 4").model.name == "megatron_6l_64h_4e"
    assert of_flags(WHOLE).model.name == "megatron_6l_64h"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-exprts 16", "did you mean --num-experts"),
        ("--tensor-parallel 2", "no flag of Megatron's that is known"),
        ("--is-hybrid-model", "Mamba's layers are not modelled"),
        ("--fp8-param-gather", "scales of FP8"),
        ("--use-torch-fsdp2", "parallel.source.kind=fsdp"),
        ("--position-embedding-type mrope", "mrope is not modelled"),
        ("--num-layers four", "--num-layers four: not a whole number"),
        ("--num-layers", "takes one value, and none follows"),
        ("--num-layers 4 5", "takes one value, and 4 5 follows"),
        ("--swiglu true", "takes no value, and true follows"),
        ("--num-layers $LAYERS", "does not say what \\$LAYERS is"),
        ("--refit-mode both", "is not collocated or non-collocated"),
        ("--refit-method rdma", "is not gloo, nccl or nvshmem"),
        ("--num-benchmark-iterations 0", "0 or more"),
        ("train.py --num-layers 2", "train.py is no flag"),
        ("--model-parallel-size 2", "use --tensor-model-parallel-size"),
        ("--num-layers 5 --num-layers-per-virtual-pipeline-stage 2", "5 layers do not divide"),
    ],
)
def test_what_is_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read.read(words.split())


def test_every_field_that_is_not_modelled_is_refused_by_name() -> None:
    for name in NOT_MODELLED:
        flag = {"fp8_param": "fp8-param-gather", "fp4_param": "fp4-param-gather"}.get(
            name, name.replace("_", "-")
        )
        with pytest.raises(UserError, match=f"--{flag}: .* not modelled"):
            read.read([f"--{flag}", "1"])


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("--kv-lora-rank 9", "--kv-lora-rank says nothing without --multi-latent-attention"),
        ("--mscale 2", "or --position-embedding-type yarn"),
        ("--num-query-groups 2", "without --group-query-attention"),
        ("--rl-inference-pipeline-model-parallel-size 2", "builds another number of layers"),
        ("--num-benchmark-warmup 0", "seconds.cold"),
    ],
)
def test_what_is_said_and_cannot_be_carried_is_named(words: str, note: str) -> None:
    assert any(note in said for said in read.read((WHOLE + words).split()).notes)
