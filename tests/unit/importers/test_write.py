"""A job as flags, and back: what flags can say is the same again, the rest is refused or named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refit.errors import UserError
from refit.importers import options, read, write
from refit.job import Bench, Degrees, Job, Parallel, Refit
from refit.model.moe_layers import moe_layers
from refit.model_config import Model
from tests.support.composed import composed
from tests.support.jobs import make_job
from tests.support.sample import sampled

PAIRS = options.pairs()


def back(job: Job) -> tuple[write.Written, Job]:
    """The flags of a job, and the job that these flags are."""
    written = write.write(job, composed(f"refit={job.refit.name}"))
    return written, composed(*options.overrides(read.read(written.words, written.world)))


def same(one: Job, other: Job) -> None:
    is_moe = one.model.is_moe
    assert options.comparable(one.model) == options.comparable(other.model)
    assert options.resolved(one.parallel, is_moe) == options.resolved(other.parallel, is_moe)
    assert one.placement_mode == other.placement_mode
    assert (one.bench.iterations, one.bench.warmup) == (
        other.bench.iterations,
        other.bench.warmup,
    )


# what flags cannot say of a pair, worked out from its file
CONTEXT = "destination.cp=1, which it takes from the source"  # the source has more
REPLICAS = "non-collocated, a side is one replica"
CANNOT = {
    "deepseek_v3_128_tp8pp4cp4ep32_to_tp8ep64": CONTEXT,
    "deepseek_v3_512_pp16ep16_to_tp32ep32": REPLICAS,
    "glm45_355b_64_tp8pp4cp2ep16_to_tp8ep32": CONTEXT,
    "gpt_oss_20b_16_tp8ep8_to_tp4ep4": REPLICAS,
    "kimi_k2_128_tp8pp8ep8_to_tp8ep64": REPLICAS,
    "kimi_k2_256_tp8pp8cp4ep32_to_tp2ep16": CONTEXT,
    "kimi_k2_288_tp8pp8cp4ep32_to_tp4ep32": CONTEXT,
    "kimi_k2_384_tp8pp8cp4ep32_to_tp4ep32": CONTEXT,
    "kimi_k2_512_tp8pp8cp4ep32_to_tp4ep32": CONTEXT,
    "llama31_70b_32_tp4pp4cp2_to_tp8": CONTEXT,
    "llama31_8b_16_cp2_to_tp1": CONTEXT,
    "llama31_8b_8_fsdp8_to_tp2": "parallel.source.kind=fsdp",
    "qwen3_235b_a22b_128_tp2pp8cp2ep16_to_tp16ep16": CONTEXT,
    "qwen3_235b_a22b_128_tp4pp4cp2ep16_to_tp8ep32": CONTEXT,
    "qwen3_235b_a22b_256_tp4pp8ep16_to_tp8ep8": REPLICAS,
    "qwen3_30b_a3b_32_pp2ep8_to_tp2ep2": REPLICAS,
    "qwen3_30b_a3b_32_pp2ep8_to_tp8ep8": REPLICAS,
    "qwen3_30b_a3b_32_tp2ep4_to_tp4ep4": REPLICAS,
}
# collocated with fewer GPUs that serve: the benchmark lays both sides out on the whole world
WIDENED = {"collocated_3_tp4ep2_to_tp4ep1": 8, "collocated_4_tp2ep2_to_tp2ep1": 4}


@pytest.mark.parametrize("pair", sampled(PAIRS, 4))
def test_every_shipped_pair(pair: str) -> None:
    of_model = PAIRS[pair].model
    job = composed(
        f"parallel={pair}", *([f"model={of_model}"] if of_model else []),
        "refit=nccl", "bench.iterations=7", "bench.warmup=2",
    )  # fmt: skip
    if pair in CANNOT:
        with pytest.raises(UserError, match=CANNOT[pair]):
            write.write(job, job)
        return
    written, found = back(job)
    if world := WIDENED.get(pair):
        assert any(f"lays each side out on all {world}" in note for note in written.notes)
        wider = replace(job.parallel.destination, gpus=world)
        job = replace(job, parallel=replace(job.parallel, destination=wider))
    else:
        assert found.parallel.name == pair
    same(job, found)
    assert (found.model.name, found.refit.method) == (job.model.name, "nccl")


@pytest.mark.parametrize("model", sampled(options.models(), 3))
def test_every_shipped_model(model: str) -> None:
    job = composed(f"model={model}", "parallel=collocated_1_tp4ep2_to_tp2ep4", "refit=gloo")
    _, found = back(job)
    same(job, found)
    assert (found.model.name, found.refit.method) == (model, "gloo")


sizes = st.sampled_from([1, 2, 4])
maybe = st.one_of(st.none(), st.integers(1, 9))


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Models of all kinds of field that has a flag."""
    moe, latent = draw(st.booleans()), draw(st.booleans())
    layers = draw(st.integers(1, 6))
    activation, gated = draw(
        st.sampled_from([("gelu", False), ("silu", True), ("quick_gelu", True)])
    )
    fields: dict[str, Any] = {
        "num_layers": layers,
        "hidden_size": draw(st.sampled_from([64, 192])),
        "num_attention_heads": draw(st.sampled_from([4, 8])),
        "ffn_hidden_size": draw(st.one_of(st.none(), st.integers(8, 200))),
        "num_query_groups": draw(st.sampled_from([None, 1, 2])),
        "kv_channels": draw(maybe),
        "activation_func": activation,
        "gated_linear_unit": gated,
        "add_bias_linear": draw(st.booleans()),
        "qk_layernorm": draw(st.booleans()),
        "normalization": draw(st.sampled_from(["LayerNorm", "RMSNorm"])),
        "layernorm_epsilon": draw(st.sampled_from([1e-5, 1e-6, 0.25])),
        "window_size": draw(st.sampled_from([None, [128, 0], [8, -1], [-1, 4]])),
        "vocab_size": draw(st.integers(1, 99999)),
        "make_vocab_size_divisible_by": draw(st.sampled_from([1, 128])),
        "share_embeddings_and_output_weights": draw(st.booleans()),
        "seq_length": draw(st.integers(1, 999)),
        "max_position_embeddings": draw(st.integers(999, 9999)),
        "position_embedding_type": draw(
            st.sampled_from(["learned_absolute", "rope", "none", *([] if latent else ["yarn"])])
        ),
        "rotary_base": draw(st.sampled_from([10000, 500000])),
        "rope_scaling": draw(st.booleans()),
        "multi_latent_attention": latent,
    }
    if latent:
        fields |= {
            "q_lora_rank": draw(maybe),
            "kv_lora_rank": draw(st.sampled_from([32, 512])),
            "rope_type": draw(st.sampled_from(["rope", "yarn"])),
            "rotary_scaling_factor": draw(st.sampled_from([1.0, 40.0])),
        }
    if moe:
        fields |= {
            "num_moe_experts": draw(st.sampled_from([4, 16])),
            "moe_layer_freq": draw(
                st.one_of(
                    st.integers(1, 3),
                    st.lists(st.integers(0, 1), min_size=layers, max_size=layers),
                    st.just(f"([0]*1+[1]*{layers - 1})"),
                )
            ),
            "moe_ffn_hidden_size": draw(maybe),
            "moe_shared_expert_intermediate_size": draw(maybe),
            "moe_grouped_gemm": draw(st.booleans()),
            "moe_router_topk": draw(st.integers(1, 4)),
            "moe_router_enable_expert_bias": draw(st.booleans()),
            "moe_router_load_balancing_type": draw(
                st.sampled_from(["aux_loss", "none", ["aux_loss", "seq_aux_loss"]])
            ),
            "moe_aux_loss_coeff": draw(st.sampled_from([0.0, 0.01, [0.1, 0.2]])),
        }
    return Model(name="drawn", **fields)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Jobs that flags can say."""
    model = draw(models())
    collocated = draw(st.booleans())
    replicas = draw(sizes) if collocated else 1
    pp = draw(sizes)
    sides = []
    for tp in (draw(sizes), draw(sizes)):
        ep = draw(sizes) if model.is_moe else 1
        sides.append(Degrees(tp=tp, ep=ep, pp=pp, etp=1 if model.is_moe else None))
    if draw(st.booleans()):
        stages: dict[str, Any] = {"account_for_embedding_in_pipeline_split": True} if pp > 1 else {}
        sides = [replace(side, **stages) for side in sides]
    if draw(st.booleans()):
        sides = [replace(side, order="tp-cp-ep-pp-dp") for side in sides]
    if collocated:
        world = 16 * pp * replicas
        sides = [replace(side, gpus=world) for side in sides]
    mode = "collocated" if collocated else "non-collocated"
    method = draw(st.sampled_from(["gloo", "nccl", "nvshmem"]))
    return Job(
        model=model,
        parallel=Parallel(name="drawn", mode=mode, source=sides[0], destination=sides[1]),
        refit=Refit(name=method, method=method),
        bench=Bench(iterations=draw(st.integers(1, 9)), warmup=draw(st.integers(0, 3))),
    )


@settings(max_examples=100)
@given(jobs())
def test_there_and_back(job: Job) -> None:
    """Without Hydra: what is read is compared as it is. `test_every_...` composes."""
    written = write.write(job, job)
    found = read.read(written.words, written.world)
    model = Model(**{"name": "drawn", **found.model})
    assert options.comparable(model) == options.comparable(job.model)
    pair = Parallel(
        name="drawn",
        mode=found.mode,
        source=Degrees(**found.source),
        destination=Degrees(**found.destination),
    )
    is_moe = job.model.is_moe
    assert options.resolved(pair, is_moe) == options.resolved(job.parallel, is_moe)
    assert (found.mode, found.method) == (job.placement_mode, job.refit.method)
    assert Bench(**found.bench) == job.bench
    assert found.left_out == {"training": ["--micro-batch-size 1"]}


@settings(max_examples=8)
@given(jobs())
def test_there_and_back_composed(job: Job) -> None:
    _, found = back(job)
    same(job, found)
    assert found.refit.method == job.refit.method
    if job.model.is_moe:
        assert moe_layers(job.model) == moe_layers(found.model)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parallel__destination": {}, "parallel__destinations": [{"tp": 1}, {"tp": 2}]},
         "parallel.destinations"),
        ({"parallel__source__kind": "fsdp", "parallel__source__shard": 2}, "source.kind=fsdp"),
        ({"parallel__destination__kind": "engine"}, "destination.kind=engine"),
        ({"parallel__destination__offset": 6}, "destination.offset=6"),
        ({"parallel__destination__node_aligned": True}, "destination.node_aligned=True"),
        ({"parallel__destination__expert_slots": 8}, "expert_slots=8"),
        ({"parallel__source__padding": "unchecked"}, "parallel.source.padding=unchecked"),
        ({"parallel__destination__dtype": "float16"}, "another than the source's"),
        ({"parallel__destination__order": "tp-cp-ep-pp-dp"}, "order of ranks"),
        ({"parallel__source__order": "pp-dp-tp-ep-cp"}, "order=pp-dp-tp-ep-cp"),
        ({"parallel__source__cp": 2}, "destination.cp=1"),
        ({"parallel__source__gpus": 8}, "one replica"),
        ({"parallel__destination__make_vocab_size_divisible_by": 1}, "make_vocab_size"),
        ({"parallel__source__pp": 2, "parallel__destination__pp": 2,
          "parallel__destination__num_layers_in_first_pipeline_stage": 1}, "destination's stages"),
        ({"refit__method": "ipc"}, "refit=ipc"),
        ({"refit__fanout": "hierarchical"}, "refit.fanout=hierarchical"),
        ({"refit__include": ["*.experts.*"]}, "refit.include"),
        ({"model__activation_func": "silu", "model__gated_linear_unit": False}, "silu with gated"),
        ({"model__lora": {"rank": 1, "targets": ["linear_qkv"]}}, "model.lora"),
        ({"model__moe_token_dropping": True}, "model.moe_token_dropping"),
        ({"model__multi_latent_attention": True, "model__beta_fast": 9.0}, "beta_fast=9.0"),
    ],
)  # fmt: skip
def test_what_flags_cannot_say_is_refused(changes: dict[str, Any], reason: str) -> None:
    values: dict[str, Any] = {
        "model__activation_func": "silu", "refit__method": "nccl", **changes,
    }  # fmt: skip
    job = make_job(**values)
    with pytest.raises(UserError, match="Megatron's flags cannot say") as refused:
        write.write(job, job)
    assert reason in str(refused.value)
    if "parallel__destinations" in changes:
        return
    plain = make_job(model__activation_func="silu", refit__method="nccl")
    assert write.write(plain, plain).words  # it is the change that is refused


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (["refit=auto"], "refit=auto: nvshmem"),
        (["refit=megatron", "refit.backend=gloo"], "read back it is refit=gloo"),
        (["refit=nccl", "refit.bucket_mb=8"], "refit.bucket_mb=8.0"),
        (["build=shards", "seed=3"], "build=shards, seed=3"),
        (["parallel.source.pp=2"], "builds another number of layers"),
        (["parallel.source.pp=2"], "span the whole world"),
        (["parallel.source.etp=2"], "mis-orders the rows of gated experts"),
        (["parallel.source.dtype=float32", "parallel.destination.dtype=float32"], "read back as"),
        ([], "1 of 4 ranks are idle"),  # 2 + 1, and Megatron wants a multiple of TP 2
    ],
)
def test_what_flags_do_not_carry_is_named(overrides: list[str], note: str) -> None:
    method = [o for o in overrides if o.startswith("refit=")] or ["refit=nccl"]
    job = composed("model.activation_func=silu", "model.gated_linear_unit=true",
                   *method, *(o for o in overrides if o not in method))  # fmt: skip
    assert any(note in said for said in write.write(job, composed(*method)).notes)


def test_the_command_line() -> None:
    job = composed("parallel=twonode_tp4ep4_to_tp8ep2", "refit=nccl")
    words = write.write(job, job).command(ranks_per_node=8)
    assert words[:5] == [
        "CUDA_DEVICE_MAX_CONNECTIONS=1", "torchrun", "--nproc-per-node=8", "--nnodes=2",
        "examples/rl/benchmark_refit.py",
    ]  # fmt: skip
    assert write.write(job, job).command(ranks_per_node=16)[2:4] == [
        "--nproc-per-node=16",
        words[4],
    ]


def test_a_destination_on_more_ranks_than_the_source_widens_the_world() -> None:
    job = make_job(parallel__mode="collocated", parallel__source={"tp": 2, "etp": 1},
                   parallel__destination={"tp": 4, "etp": 1}, refit__method="nccl",
                   model__activation_func="silu")  # fmt: skip
    written = write.write(job, job)
    assert written.world == 4
    assert any("parallel.source.gpus=2" in note for note in written.notes)


def test_the_pair_of_a_public_model_is_that_model_s_alone() -> None:
    """The same degrees of another model are another pair, by whose file no model is brought."""
    own = composed("parallel=glm45_air_106b_32_pp4ep8_to_tp8ep8", "refit=nccl")
    assert back(own)[1].parallel.name == own.parallel.name
    job = replace(own, model=composed("model=moe_16e").model)
    _, found = back(job)
    assert found.parallel.model is None and found.model.name == "moe_16e"
    same(job, found)
