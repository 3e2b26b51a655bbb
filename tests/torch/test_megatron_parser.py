"""The commands of the reference documents, by Megatron's own parser."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

import pytest

from refit.importers import write_model
from refit.model.sizes import expert_ffn_size, head_size, query_groups
from refit.model_config import Model
from tests.support import megatron_parser
from tests.support.composed import composed
from tests.support.megatron_parser import checked, parse, refusal

pytestmark = pytest.mark.skipif(
    megatron_parser.MISSING is not None, reason=str(megatron_parser.MISSING)
)

MOE_NEEDS = (
    "--expert-tensor-parallel-size 1 --rl-inference-expert-tensor-model-parallel-size 1"
    " --disable-bias-linear"
)
SMALL = (
    " --num-layers 4 --hidden-size 1024 --num-attention-heads 8 --seq-length 512"
    " --max-position-embeddings 512 --micro-batch-size 1 --num-experts 16 --moe-router-topk 2"
    " --moe-shared-expert-intermediate-size 512 --ffn-hidden-size 2688"
    " --num-benchmark-iterations 3"
)
SMALLEST = (
    " --num-layers 2 --hidden-size 512 --num-attention-heads 4 --seq-length 256"
    " --max-position-embeddings 256 --micro-batch-size 1 --num-experts 8 --moe-router-topk 2"
    " --moe-shared-expert-intermediate-size 256 --ffn-hidden-size 1344"
    " --num-benchmark-iterations 2"
)


def degrees(tp: int, ep: int, to_tp: int, to_ep: int, mode: str, method: str) -> str:
    return (
        f"--tensor-model-parallel-size {tp} --expert-model-parallel-size {ep}"
        f" --rl-inference-tensor-model-parallel-size {to_tp}"
        f" --rl-inference-expert-model-parallel-size {to_ep}"
        f" --refit-mode {mode} --refit-method {method}"
    )


EIGHT_GPUS = {
    "config 1": degrees(2, 2, 2, 1, "non-collocated", "nvshmem") + " " + MOE_NEEDS + SMALL,
    "config 2": degrees(2, 2, 2, 2, "non-collocated", "nvshmem") + SMALL,
    "config 3": degrees(4, 1, 2, 1, "non-collocated", "nvshmem") + SMALL,
    "config 4": degrees(2, 1, 1, 1, "non-collocated", "nvshmem") + SMALLEST,
    "swap": degrees(4, 2, 2, 4, "collocated", "nccl") + SMALL,
}
MIXTRAL = (
    "--use-mcore-models --disable-bias-linear --seq-length 2048 --max-position-embeddings 32768"
    " --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32"
    " --init-method-std 0.01 --attention-dropout 0.0 --hidden-dropout 0.0 --normalization RMSNorm"
    " --position-embedding-type rope --swiglu --untie-embeddings-and-output-weights"
    " --group-query-attention --num-query-groups 8 --no-masked-softmax-fusion"
    " --no-position-embedding --num-experts 8 --expert-model-parallel-size 4"
    " --moe-router-load-balancing-type aux_loss --moe-router-topk 2 --moe-aux-loss-coeff 1e-2"
    " --moe-grouped-gemm --tokenizer-type Llama2Tokenizer --tokenizer-model tokenizer.model"
    " --data-path data --split 99990,8,2 --micro-batch-size 1 --global-batch-size 128 --lr 1e-4"
    " --train-iters 500000 --lr-decay-iters 320000 --lr-decay-style cosine --min-lr 1.0e-5"
    " --weight-decay 0.1 --lr-warmup-iters 500 --clip-grad 1.0 --bf16"
    " --tensor-model-parallel-size 4 --pipeline-model-parallel-size 1 --sequence-parallel"
    " --use-distributed-optimizer --log-interval 1 --save-interval 10000 --eval-interval 1000"
    " --eval-iters 10 --save checkpoints --load checkpoints --tensorboard-dir tensorboard"
    " --no-load-optim --no-load-rng --wandb-project Mixtral-Finetuning"
    " --wandb-exp-name Mixtral_8x7B"
)
FRAGMENTS = {
    "top 2 with an auxiliary loss": (
        "--num-experts 8 --expert-model-parallel-size 8 --moe-grouped-gemm"
        " --moe-router-load-balancing-type aux_loss --moe-router-topk 2 --moe-aux-loss-coeff 1e-2"
        " --use-distributed-optimizer"
    ),
    "12 GPUs": (
        "--tensor-model-parallel-size 8 --expert-model-parallel-size 1"
        " --rl-inference-tensor-model-parallel-size 4"
        " --rl-inference-expert-model-parallel-size 1 --refit-mode non-collocated"
    ),
    "bias with ETP 2": (
        "--tensor-model-parallel-size 2 --expert-model-parallel-size 2 --num-experts 16"
    ),
    "what MoE needs": MOE_NEEDS,
    "dense": "--tensor-model-parallel-size 2",
}
BIAS = "Bias in Moe is only supported when ETP==1"


@pytest.mark.parametrize("name", [*EIGHT_GPUS, "mixtral", *FRAGMENTS])
def test_every_command_parses(name: str) -> None:
    flags = {**EIGHT_GPUS, "mixtral": MIXTRAL, **FRAGMENTS}[name].split()
    found = vars(parse(flags))
    for flag, value in zip(flags, [*flags[1:], "--"], strict=True):
        field = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and not value.startswith("--") and field != "split":
            one = found[field][0] if isinstance(found[field], list) else found[field]
            assert type(one)(value) == one, flag


def test_the_inference_degrees_of_config_1() -> None:
    found = parse(EIGHT_GPUS["config 1"].split())
    assert found.rl_inference_tensor_model_parallel_size == 2
    assert found.rl_inference_expert_model_parallel_size == 1
    assert found.rl_inference_expert_tensor_model_parallel_size == 1
    assert (found.refit_mode, found.refit_method) == ("non-collocated", "nvshmem")
    assert found.add_bias_linear is False


@pytest.mark.parametrize("flag", ["--tensor-parallel 2", "--refit-method rdma", "--refit-mode x"])
def test_what_it_does_not_know(flag: str) -> None:
    with pytest.raises(ValueError, match=flag.split()[0]):
        parse(flag.split())


@pytest.mark.parametrize("name", EIGHT_GPUS)
def test_the_eight_gpu_commands_without_the_flags_that_moe_needs(name: str) -> None:
    reason = refusal(EIGHT_GPUS[name].split(), 8)
    if name == "config 1":
        assert reason is None
    else:
        assert reason is not None and BIAS in reason
        assert refusal([*EIGHT_GPUS[name].split(), *MOE_NEEDS.split()], 8) is None


def test_mixtral() -> None:
    assert refusal(MIXTRAL.split(), 16) is None
    without = MIXTRAL.replace("--disable-bias-linear ", "")
    assert BIAS in str(refusal(without.split(), 16))
    assert refusal(MIXTRAL.split(), 6) is not None  # TP 4 does not divide it


# fields of Model that no argument or config of a GPTModel with ordinary attention has
OF_OURS = {
    "name",
    "vocab_size",
    "lora",
    "published_parameters",
    "pairs_of",
    "hybrid_override_pattern",
    *write_model.OURS,
}
OF_LATENT_ATTENTION = {
    "q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim", "rope_type",
    "rotary_scaling_factor", "original_max_position_embeddings", "beta_fast", "beta_slow",
    "mscale", "mscale_all_dim",
}  # fmt: skip
# those that Megatron gives to GPTModel from its arguments, and not to the config
OF_ARGUMENTS = {
    "seq_length", "max_position_embeddings", "make_vocab_size_divisible_by",
    "position_embedding_type", "rotary_base", "rotary_percent", "rope_scaling_factor",
}  # fmt: skip


def megatrons(arguments: argparse.Namespace, config: Any) -> dict[str, Any]:
    """The fields of `Model` as Megatron has them."""
    found = {name: getattr(arguments, name) for name in OF_ARGUMENTS}
    found["share_embeddings_and_output_weights"] = not arguments.untie_embeddings_and_output_weights
    found["rope_scaling"] = arguments.use_rope_scaling
    found["activation_func"] = config.activation_func.__name__
    others = {field.name for field in fields(Model)} - OF_OURS - OF_LATENT_ATTENTION - {*found}
    return found | {name: getattr(config, name) for name in others}


@pytest.mark.parametrize(("model", "name"), [("moe_16e", "config 1"), ("moe_8e", "config 4")])
def test_the_tables_models_are_what_megatron_makes_of_their_commands(model: str, name: str) -> None:
    arguments, config = checked([*EIGHT_GPUS[name].split(), *MOE_NEEDS.split()], 8)
    ours = composed(f"model={model}").model
    derived = {
        "kv_channels": head_size(ours),
        "num_query_groups": query_groups(ours),
        "moe_ffn_hidden_size": expert_ffn_size(ours),
    }
    theirs = megatrons(arguments, config)
    assert {key: (vars(ours) | derived)[key] for key in theirs} == theirs
    # no command says a vocabulary; the benchmark then takes GPT-2's
    assert (arguments.vocab_size, ours.vocab_size) == (None, 50257)
    assert not config.multi_latent_attention
