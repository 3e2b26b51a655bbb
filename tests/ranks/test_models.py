"""Real GPTModels on gloo ranks: every weight bound, logits that agree where weights are right."""

from __future__ import annotations

import os
import re
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from refit.errors import UserError
from refit.job import Degrees, Job, Parallel
from refit.layout.layout import Layout
from refit.layout.place import place
from refit.layout.tensors import Family, Shard
from refit.model.architecture import LOCAL_SPEC, PRODUCTION, Convention, catalogue
from refit.model_config import Model
from refit.plan.arena import ALIGNMENT, Arenas
from refit.ranks.agent import Agent
from refit.weights.models import build
from refit.weights.slab import Slab, SlabSource
from refit.weights.weights import Weights, offsets
from tests.support import shm
from tests.support.composed import composed

WORLD = 4
SIDES = ("source", "destination")

MOE = Model(
    name="gqa-moe",
    num_layers=4,
    hidden_size=64,
    num_attention_heads=8,
    num_query_groups=4,
    ffn_hidden_size=128,
    moe_ffn_hidden_size=96,
    moe_shared_expert_intermediate_size=32,
    num_moe_experts=8,
    moe_layer_freq="[0]*1+[1]*3",
    moe_grouped_gemm=True,
    moe_token_dispatcher_type="alltoall",
    gated_linear_unit=True,
    add_bias_linear=False,
    qk_layernorm=True,
    normalization="RMSNorm",
    vocab_size=500,
    make_vocab_size_divisible_by=16,
    share_embeddings_and_output_weights=False,
    position_embedding_type="rope",
)
TIED = replace(
    MOE,
    name="dense-tied",
    num_moe_experts=None,
    moe_ffn_hidden_size=None,
    moe_shared_expert_intermediate_size=None,
    moe_layer_freq=1,
    add_bias_linear=True,
    normalization="LayerNorm",
    max_position_embeddings=32,
    position_embedding_type="learned_absolute",
    share_embeddings_and_output_weights=True,
)
LATENT = replace(
    MOE,
    name="kimi-like",
    num_layers=5,
    num_query_groups=None,
    moe_layer_freq="[0]*1+[1]*4",
    multi_latent_attention=True,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_head_dim=8,
    qk_pos_emb_head_dim=4,
    v_head_dim=12,
    moe_router_score_function="sigmoid",
    moe_router_enable_expert_bias=True,
    moe_router_topk_scaling_factor=2.8,
)
# the reference table's, narrow: LayerNorm, learned positions, tied embeddings, experts one by one
TABLE = replace(
    composed("model=moe_8e").model,
    hidden_size=64,
    ffn_hidden_size=128,
    moe_shared_expert_intermediate_size=32,
    max_position_embeddings=64,
    vocab_size=500,
    make_vocab_size_divisible_by=16,
)
BIASED = replace(MOE, name="biased", add_bias_linear=True, moe_shared_expert_intermediate_size=None)
DIRECT = replace(LATENT, name="latent-direct-query", q_lora_rank=None)

CASES: dict[str, tuple[Model, Parallel]] = {
    "tp2ep2_to_ep4": (
        MOE,
        Parallel(mode="collocated", source=Degrees(tp=2, ep=2, etp=1), destination=Degrees(ep=4)),
    ),
    "tied_pp2_to_tp2": (TIED, Parallel(source=Degrees(pp=2), destination=Degrees(tp=2))),
    "tied_tp2_to_uneven_pp2": (
        TIED,
        Parallel(
            source=Degrees(tp=2),
            destination=Degrees(
                pp=2, num_layers_in_first_pipeline_stage=3, num_layers_in_last_pipeline_stage=1
            ),
        ),
    ),
    "latent_uneven_pp2tp2_to_tp2ep2": (
        LATENT,
        Parallel(
            mode="collocated",
            source=Degrees(tp=2, pp=2, etp=1, num_layers_in_last_pipeline_stage=2),
            destination=Degrees(tp=2, ep=2, etp=1),
        ),
    ),
    "etp2_to_ep2": (
        MOE,
        Parallel(source=Degrees(tp=2), destination=Degrees(tp=2, ep=2, etp=1, gpus=2)),
    ),
    "ep2_to_etp2": (MOE, Parallel(source=Degrees(ep=2, etp=1), destination=Degrees(tp=2, etp=2))),
    "biased_cp2_to_ep2": (
        BIASED,
        Parallel(source=Degrees(cp=2, etp=1), destination=Degrees(ep=2, etp=1)),
    ),
    "virtual_pp_fastest_to_uneven_pp2ep2": (
        MOE,
        Parallel(
            mode="collocated",
            source=Degrees(
                tp=2, pp=2, order="pp-tp-dp", virtual_pipeline_model_parallel_size=2, gpus=4
            ),
            destination=Degrees(
                pp=2, ep=2, etp=1, gpus=4, pipeline_model_parallel_layout=[0, 2, 2, 0]
            ),
        ),
    ),
    "table_tp2ep2_to_pp2ep2": (
        TABLE,
        Parallel(
            mode="collocated",
            source=Degrees(tp=2, ep=2, etp=1),
            destination=Degrees(pp=2, ep=2, etp=1),
        ),
    ),
    "direct_tp2_to_tp1": (DIRECT, Parallel(source=Degrees(tp=2, etp=1), destination=Degrees())),
}


def whole(name: str, shard: Shard) -> torch.Tensor:
    """A whole tensor, the same in every process: magnitudes 2**-7 to 2**-4, either sign."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    exponent = torch.randint(4, 8, shard.family.shape, generator=generator)
    sign = torch.randint(0, 2, shard.family.shape, generator=generator) * 2 - 1
    mantissa = 1 + torch.rand(shard.family.shape, generator=generator)
    return sign * mantissa * 0.5 ** (exponent + 1)


def fill(weights: Weights | None, rename: Callable[[str], str] = str, chunked: bool = True) -> None:
    """Each shard by slicing the whole; `rename` and `chunked=False` make mistakes on purpose."""
    if weights is None:
        return
    for shard in weights.shards:
        tensor, axis = whole(rename(shard.name), shard), shard.family.axis
        if axis is not None:
            parts = tensor.chunk(max(1, len(shard.family.parts)) if chunked else 1, axis)
            tensor = torch.cat([p.chunk(shard.cut.shards, axis)[shard.shard] for p in parts], axis)
        weights.tensors[shard.tensor].copy_(tensor)


def swap_experts(name: str) -> str:
    """Experts 0 and 1 exchanged, whole."""
    return re.sub(r"(experts\.linear_fc\d\.\w+?)([01])$", lambda m: m[1] + str(1 - int(m[2])), name)


def inspect(weights: Weights | None) -> dict[str, Any]:
    """What a rank reports of one side: where each weight lies, and how Megatron says it is cut."""
    if weights is None:
        return {}
    arena = weights.arena
    start, stop = arena.data_ptr(), arena.data_ptr() + arena.numel()
    named: dict[str, torch.nn.Parameter] = {}
    buffers: dict[str, torch.Tensor] = {}
    for number, chunk in enumerate(weights.chunks):
        prefix = f"{number}." if len(weights.chunks) > 1 else ""
        named |= {prefix + k: v for k, v in chunk.named_parameters()}
        kept = chunk.state_dict()
        buffers |= {prefix + k: v for k, v in chunk.named_buffers() if k in kept}
    pointers = {view.data_ptr(): id_ for id_, view in weights.tensors.items()}
    held = [*named.values(), *buffers.values()]
    megatron = {pointers[p.data_ptr()]: p for p in named.values()}
    return {
        "outside": [n for n, t in {**named, **buffers}.items() if not start <= t.data_ptr() < stop],
        "count": (len(held), len(weights.shards)),
        "buffers": sorted(buffers),
        "shapes": {name: tuple(parameter.shape) for name, parameter in named.items()},
        "parts": {
            s.name: (s.family.axis, max(1, len(s.family.parts)), partition(megatron[s.tensor]))
            for s in weights.shards
            if not s.family.is_buffer
        },
    }


def partition(parameter: torch.nn.Parameter) -> tuple[int | None, int]:
    """Megatron's own words for the cut axis and the chunks that are cut each on their own."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return None, 1
    return parameter.partition_dim, parameter.partition_stride  # type: ignore[attr-defined]


def run_cases(rank: int, folder: str) -> None:
    """All cases in one process: importing Megatron costs more than they do."""
    from refit.weights import megatron_build
    from refit.weights.logits import compare_logits

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    plain = megatron_build._config

    def initialising(*args: Any) -> Any:
        config = plain(*args)
        config.perform_initialization = True  # only then Megatron says how it shards
        return config

    results: dict[str, Any] = {}
    for name, (model, parallel) in CASES.items():
        job = Job(model=model, parallel=parallel, verify="logits")
        try:
            placement = replace(place(job), world=WORLD)
            with replaced(megatron_build, "_config", initialising):
                tensors = catalogue(model, placement.source.tp, LOCAL_SPEC)
                source, destination = (
                    build(job, placement, side, tensors, rank, None) for side in SIDES
                )
            result: dict[str, Any] = {
                "source": inspect(source),
                "destination": inspect(destination),
            }
            fill(source)
            fill(destination)
            result["same"] = compare_logits(job, placement, rank, source, destination)
            fill(destination, swap_experts)
            result["swapped"] = compare_logits(job, placement, rank, source, destination)
            fill(destination, chunked=False)
            result["unchunked"] = compare_logits(job, placement, rank, source, destination)
            fill(destination)
            if destination:
                last = max(shard.tensor for shard in destination.shards)
                destination.tensors[last].view(-1)[0] = float("nan")
            result["nan"] = compare_logits(job, placement, rank, source, destination)
        except Exception:
            traceback.print_exc()
            raise
        results[name] = result
    results["refusals"] = refusals(rank)
    torch.save(results, os.path.join(folder, f"{rank}.pt"))


def refusals(rank: int) -> dict[str, str]:
    """The texts of what cannot be built, or cannot be bound."""
    from refit.weights import models

    def refused(
        model: Model,
        error: type[Exception],
        convention: Convention = LOCAL_SPEC,
        taken: Callable[[Family], Family] = lambda family: family,
        degrees: Degrees | None = None,
    ) -> str:
        job = Job(
            model=model, parallel=Parallel(mode="collocated", source=degrees or Degrees(ep=4))
        )
        placement = place(job)
        tensors = catalogue(model, 1, convention)
        tensors = replace(tensors, families=tuple(map(taken, tensors.families)))
        with pytest.raises(error) as caught:
            build(job, placement, "source", tensors, rank, None)
        return str(caught.value)

    texts = {"config": refused(replace(MOE, moe_router_enable_expert_bias=True), UserError)}
    texts["dtype"] = refused(MOE, RuntimeError, PRODUCTION)
    # gate and up taken for one part; and rows for columns, whose shapes are the same at TP 1
    texts["parts"] = refused(MOE, RuntimeError, taken=lambda family: replace(family, parts=()))
    across = {"decoder.layers.{layer}.self_attention.linear_proj.weight": 0}
    texts["axis"] = refused(
        MOE, RuntimeError, taken=lambda f: replace(f, axis=across.get(f.name, f.axis))
    )
    # what a rule refuses before any rank starts
    few = replace(LATENT, num_query_groups=2)
    texts["groups"] = refused(few, UserError, degrees=Degrees(tp=4, etp=1))
    with replaced(models, "logical_name", lambda name, *_: name):
        texts["name"] = refused(MOE, RuntimeError)
    return texts


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """pytest's monkeypatch, for a process without pytest."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@pytest.fixture(scope="module")
def results(agent: Agent) -> Iterator[list[dict[str, Any]]]:
    """What each of the four ranks saw, of every case; forked from where the agent's ranks are."""
    assert agent
    with tempfile.TemporaryDirectory() as folder:
        start = mp.start_processes  # type: ignore[attr-defined]
        start(run_cases, (folder,), nprocs=WORLD, start_method="forkserver")
        yield [torch.load(os.path.join(folder, f"{rank}.pt")) for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_every_weight_lies_in_the_arena(case: str, results: list[dict[str, Any]]) -> None:
    placement = place(Job(model=CASES[case][0], parallel=CASES[case][1]))
    for rank in range(WORLD):
        for side in SIDES:
            seen = results[rank][case][side]
            assert bool(seen) == (rank in getattr(placement, side).ranks)
            if seen:
                assert seen["outside"] == []
                assert seen["count"][0] == seen["count"][1] > 10


def test_expert_bias_is_bound(results: list[dict[str, Any]]) -> None:
    seen = results[3]["latent_uneven_pp2tp2_to_tp2ep2"]
    assert seen["source"]["buffers"] == [
        f"decoder.layers.{i}.mlp.router.expert_bias" for i in range(2)
    ]
    assert seen["destination"]["buffers"] == [
        f"decoder.layers.{i}.mlp.router.expert_bias" for i in range(1, 5)
    ]


def test_the_tables_model_has_the_parameters_of_its_flags(results: list[dict[str, Any]]) -> None:
    """By hand, of one layer and what stands around the layers; none has a bias but the norms."""
    seen = results[0]["table_tp2ep2_to_pp2ep2"]
    halves, rows = 64 // 2, 512  # TP 2; 500 words, padded to a multiple of 2 * 16
    layer = {
        "input_layernorm.weight": (64,),
        "input_layernorm.bias": (64,),
        "self_attention.linear_qkv.weight": (3 * halves, 64),
        "self_attention.linear_proj.weight": (64, halves),
        "pre_mlp_layernorm.weight": (64,),
        "pre_mlp_layernorm.bias": (64,),
        "mlp.router.weight": (8, 64),
        "mlp.shared_experts.linear_fc1.weight": (16, 64),
        "mlp.shared_experts.linear_fc2.weight": (64, 16),
    }
    for expert in range(4):  # of eight, EP 2
        layer[f"mlp.experts.local_experts.{expert}.linear_fc1.weight"] = (128, 64)
        layer[f"mlp.experts.local_experts.{expert}.linear_fc2.weight"] = (64, 128)
    source = {
        f"decoder.layers.{n}.{name}": shape for n in range(2) for name, shape in layer.items()
    }
    assert seen["source"]["shapes"] == source | {
        "embedding.word_embeddings.weight": (rows // 2, 64),
        "embedding.position_embeddings.weight": (64, 64),
        "decoder.final_layernorm.weight": (64,),
        "decoder.final_layernorm.bias": (64,),
    }
    first, last = (
        results[rank]["table_tp2ep2_to_pp2ep2"]["destination"]["shapes"] for rank in (0, 3)
    )
    around = [{k: v for k, v in s.items() if "layers." not in k} for s in (first, last)]
    assert around == [
        {
            "embedding.word_embeddings.weight": (rows, 64),
            "embedding.position_embeddings.weight": (64, 64),
        },
        {  # tied: the last stage has a copy of its own
            "decoder.final_layernorm.weight": (64,),
            "decoder.final_layernorm.bias": (64,),
            "output_layer.weight": (rows, 64),
        },
    ]


@pytest.mark.parametrize("case", CASES)
def test_sharding_is_what_megatron_says(case: str, results: list[dict[str, Any]]) -> None:
    for seen in (results[rank][case][side] for rank in range(WORLD) for side in SIDES):
        for name, (axis, chunks, megatron) in seen.get("parts", {}).items():
            assert (axis, chunks if axis is not None else 1) == megatron, name


@pytest.mark.parametrize("case", CASES)
def test_logits_agree(case: str, results: list[dict[str, Any]]) -> None:
    seen = [r[case]["same"] for r in results]
    assert all(s == seen[0] for s in seen)
    assert seen[0]["ok"], seen[0]
    assert seen[0]["max_abs_logit"] > 1e-3
    assert seen[0]["tokens"] == (32 if CASES[case][0] is TIED else 64)
    assert seen[0]["dispatcher"] == ("allgather" if CASES[case][0].is_moe else None)


@pytest.mark.parametrize("case", CASES)
def test_logits_disagree_when_weights_are_wrong(case: str, results: list[dict[str, Any]]) -> None:
    seen = results[0][case]
    experts_differ = CASES[case][0].is_moe
    assert seen["swapped"]["ok"] is not experts_differ, seen["swapped"]
    destination = place(Job(model=CASES[case][0], parallel=CASES[case][1])).destination
    assert seen["unchunked"]["ok"] is (destination.tp == 1), seen["unchunked"]
    assert not seen["nan"]["ok"]


def test_refusals_name_what_is_wrong(results: list[dict[str, Any]]) -> None:
    texts = results[2]["refusals"]
    assert "megatron-core refuses the source model" in texts["config"]
    assert "Expert bias" in texts["config"]
    assert "2 is not divisible by 4" in texts["groups"]
    assert texts["dtype"] == (
        "decoder.layers.0.input_layernorm.weight: parameter (64,) bfloat16 by"
        " refit.model.architecture, parameter (64,) float32 in megatron-core's"
        " decoder.layers.0.input_layernorm.weight"
    )
    assert texts["parts"] == (
        "decoder.layers.0.mlp.linear_fc1.weight: cut along dimension 0 in 1 parts by"
        " refit.model.architecture, along 0 in 2 in megatron-core's"
        " decoder.layers.0.mlp.linear_fc1.weight"
    )
    assert "linear_proj.weight: cut along dimension 0 in 1 parts by" in texts["axis"]
    assert "along 1 in 1 in megatron-core's" in texts["axis"]
    assert "decoder.layers.1.mlp.experts.local_experts.0.linear_fc1.weight" in texts["name"]
    assert "(192, 64) bfloat16" in texts["name"]


def test_shards_need_no_process_group() -> None:
    job = Job(
        model=LATENT,
        build="shards",
        parallel=Parallel(source=Degrees(tp=2), destination=Degrees(ep=2, etp=1)),
    )
    placement = place(job)
    tensors = catalogue(LATENT, 2)
    weights = build(job, placement, "destination", tensors, 2, None)
    assert weights is not None and weights.chunks == ()
    assert list(weights.shards) == Arenas(tensors, placement).shards(placement.destination, 2)
    assert build(job, placement, "destination", tensors, 0, None) is None


@pytest.fixture(params=["huge pages, where there are any", "ordinary pages"])
def slab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slab]:
    if request.param == "ordinary pages":
        monkeypatch.setattr("refit.weights.slab._huge_folder", lambda: None)
    source = SlabSource()
    slab = source.slab()
    source.close()
    yield slab
    with suppress(OSError):
        slab.close()


def test_arena_is_aligned_shared_and_untouched(slab: Slab) -> None:
    big = replace(MOE, hidden_size=1024, moe_ffn_hidden_size=2048, num_moe_experts=16)
    shards = catalogue(big).held_by(Layout(), 0)
    starts, total, _ = offsets(shards)
    assert all(start % ALIGNMENT == 0 for start in starts) and total > 2**29
    ends = [*starts[1:], total]
    assert all(a + s.nbytes <= b for a, b, s in zip(starts, ends, shards, strict=True))
    names, before = shm.held(), _resident_bytes()
    weights = Weights.allocate(shards, slab)
    slab.close()  # the arena has a duplicate
    assert _resident_bytes() - before < total // 20
    assert shm.held() == names
    descriptor, size = weights.arena.untyped_storage()._share_fd_cpu_()
    mapped = torch.UntypedStorage._new_shared_fd_cpu(descriptor, size)  # type: ignore[attr-defined]
    peer = torch.empty(0, dtype=torch.uint8).set_(mapped)
    weights.tensors[shards[-1].tensor].fill_(3)
    seen = Weights.view(shards, peer).tensors[shards[-1].tensor]
    assert seen.data_ptr() != weights.tensors[shards[-1].tensor].data_ptr()
    assert seen.shape == shards[-1].shape and bool((seen == 3).all())
    with pytest.raises(UserError, match="an arena of"):
        Weights.view(shards[1:], peer)


def test_empty_arena(slab: Slab) -> None:
    for memory in (None, slab):
        weights = Weights.allocate([], memory)
        assert weights.arena.numel() == 0 and weights.tensors == {}
    assert slab.nbytes == 0


def test_a_slab_holds_several_arenas_and_is_used_again(slab: Slab) -> None:
    small, large = (catalogue(replace(MOE, hidden_size=h)).held_by(Layout(), 0) for h in (64, 128))
    first, second = (Weights.allocate(large, slab).arena for _ in range(2))
    first.fill_(7)
    second.fill_(8)
    assert bool((first == 7).all()) and bool((second == 8).all())
    size = slab.nbytes
    assert size >= first.numel() + second.numel()
    later = Slab(os.dup(slab.descriptor))  # as the ranks of the next point get it
    weights = Weights.allocate(small, later)
    assert slab.nbytes == size and bool((weights.arena == 7).all())
    later.clear()
    later.close()
    assert slab.nbytes == 0


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
