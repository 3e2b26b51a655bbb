"""The shipped public models in small against the oracle, and their layouts at full size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refit.job import Cluster, Degrees
from refit.layout.layout import IntArray, Layout, Placement
from refit.layout.place import place
from refit.model.architecture import catalogue
from refit.model.moe_layers import moe_layers
from refit.model_config import Model
from refit.plan.build import build_plan
from refit.record.point import identity
from refit.rules.impossible import impossible
from refit.schema import CONF
from tests.support.composed import PUBLIC, composed, family_layouts, miniature
from tests.support.plans import Case, case, check_elements

# ---- layouts

PAIRS = [(model, pair) for model in PUBLIC for pair in family_layouts(model)]
LARGE = Cluster(name="large", nodes=64)


def test_every_public_model_has_layouts_of_its_own() -> None:
    assert {model for model, _ in PAIRS} == set(PUBLIC)
    assert len(family_layouts("kimi_k2")) == 6
    named = {pair for _, pair in PAIRS}
    assert named == {p.stem for p in (CONF / "parallel" / "public").glob("*.yaml")}


@pytest.mark.parametrize(("model", "pair"), PAIRS, ids=[pair for _, pair in PAIRS])
def test_a_large_enough_cluster_takes_the_pair(model: str, pair: str) -> None:
    job = composed(f"model={model}", f"parallel={pair}", "build=shards")
    assert impossible(replace(job, cluster=LARGE)) is None
    placement = place(job)
    gpus = int(pair.removeprefix(f"{model}_").split("_")[0])
    assert placement.used == gpus
    assert job.parallel.use_case
    # and one node of eight does not, but for the pair that is of one
    assert impossible(job) is None if gpus == 8 else f"needs {gpus} GPUs" in str(impossible(job))
    for side in ("source", "destination"):
        given: Degrees = getattr(job.parallel, side)
        says = "_".join(pair.split("_to_")[side == "destination"].split("_")[-1:])
        assert says == degrees_in_words(given, getattr(placement, side), job.model.is_moe)


def degrees_in_words(given: Degrees, layout: Layout, is_moe: bool) -> str:
    """What the pair's name must say of a side: degrees above 1, `tp1` where there is none."""
    if given.kind == "fsdp":
        return f"fsdp{layout.shard}"
    if is_moe:
        assert given.etp is not None
    named = [(name, getattr(layout, name)) for name in ("tp", "pp", "cp", "ep", "etp")]
    return "".join(f"{name}{size}" for name, size in named if size > 1) or "tp1"


def test_kimi_k2_layouts_keep_experts_whole_and_have_no_bias() -> None:
    for pair in family_layouts("kimi_k2"):
        job = composed("model=kimi_k2", f"parallel={pair}")
        assert (job.parallel.source.etp, job.parallel.destination.etp) == (1, 1)
        assert not job.model.add_bias_linear


def test_kimi_k2_sources_are_the_public_one() -> None:
    public = [p for p in family_layouts("kimi_k2") if "cp4" in p]
    assert len(public) == 4
    for pair in public:
        source = place(composed("model=kimi_k2", f"parallel={pair}")).source
        assert (source.tp, source.pp, source.cp, source.ep, source.gpus) == (8, 8, 4, 32, 256)
        assert [len(s) for s in source.stage_layers(61)] == [8] * 7 + [5]


# ---- the six Kimi K2 plans, per rank, from the published numbers alone

H, VOCAB, FFN, EXPERT_FFN, HEADS, EXPERTS = 7168, 163840, 18432, 2048, 64, 384
Q_RANK, KV_RANK, NOPE, ROPE, VALUE = 1536, 512, 128, 64, 128
EXPERT = 3 * H * EXPERT_FFN * 2
EMBEDDING = VOCAB * H * 2


def dense_layer(first: bool) -> tuple[int, int]:
    """Bytes of one layer besides its routed experts: cut over TP, and whole on every rank."""
    cut = Q_RANK * HEADS * (NOPE + ROPE) + KV_RANK * HEADS * (NOPE + VALUE) + HEADS * VALUE * H
    cut += 3 * H * (FFN if first else EXPERT_FFN)  # the dense MLP, or the shared expert
    whole = H * Q_RANK + H * (KV_RANK + ROPE) + Q_RANK + KV_RANK + 2 * H
    router = 0 if first else 2 * H * EXPERTS + 4 * EXPERTS  # its bias is fp32
    return 2 * cut, 2 * whole + router


def shared_part(mine: tuple[int, int], other: tuple[int, int]) -> float:
    """Of a whole of 1: how much part k of n and part j of m have in common."""
    (k, n), (j, m) = mine, other
    return max(0.0, min((k + 1) / n, (j + 1) / m) - max(k / n, j / m))


def held_and_kept(placement: Placement, rank: int) -> tuple[int, int]:
    """Bytes that a destination rank must have, and those of them it has as a source rank."""
    source, destination = placement.source, placement.destination
    there = rank - destination.offset
    tp, ep = (there % destination.tp, destination.tp), (there % destination.ep, destination.ep)
    here = rank - source.offset if rank in source.ranks else None
    held = kept = 0.0
    if here is not None:
        stage = here // (source.gpus // source.pp)
        mine = set(range(61)[8 * stage : 8 * stage + 8])  # eight layers a stage, five in the last
        tp_part = shared_part(tp, (here % source.tp, source.tp))
        ep_part = shared_part(ep, (here % source.ep, source.ep))
        kept += EMBEDDING * tp_part * ((0 in mine) + (60 in mine)) + 2 * H * (60 in mine)
    held += 2 * EMBEDDING / destination.tp + 2 * H
    for layer in range(61):
        cut, whole = dense_layer(first=layer == 0)
        experts = 0 if layer == 0 else EXPERTS * EXPERT
        held += cut / destination.tp + whole + experts / destination.ep
        if here is not None and layer in mine:
            kept += cut * tp_part + whole + experts * ep_part
    assert held == round(held) and abs(kept - round(kept)) < 1e-3
    return round(held), round(kept)


@pytest.mark.parametrize("pair", family_layouts("kimi_k2"))
def test_bytes_per_rank_of_the_kimi_k2_plans(pair: str) -> None:
    job = composed("model=kimi_k2", f"parallel={pair}", "build=shards")
    placement = place(job)
    tensors = catalogue(job.model, placement.source.tp)
    plan = build_plan(tensors, placement)
    expected = np.zeros((2, placement.world), np.int64)
    for rank in placement.destination.ranks:
        expected[:, rank] = held_and_kept(placement, rank)
    written = by_rank(plan.destination, plan.nbytes, placement.world)
    assert written.tolist() == expected[0].tolist()
    assert plan.recv_bytes.tolist() == (expected[0] - expected[1]).tolist()
    # the second way: what the shards of the catalogue sum up to, on a rank of every stage
    step = max(1, placement.destination.gpus // 4)
    for rank in placement.destination.ranks[::step]:
        assert sum(s.nbytes for s in tensors.held_by(placement.destination, rank)) == written[rank]
    assert plan.send_bytes.sum() == plan.recv_bytes.sum() == plan.bounds.move
    assert not plan.send_bytes[placement.source.ranks.stop :].any()
    assert plan.bounds.send <= plan.send_bytes.max()


def by_rank(rank: IntArray, nbytes: IntArray, world: int) -> IntArray:
    return np.bincount(rank, nbytes, world).astype(np.int64)


# ---- miniatures: each model's structure, narrow, against the element-by-element oracle


def mini_cases(name: str) -> list[Case]:
    """Swapped TP and EP, fewer stages, fewer expert ranks, replicas; ETP where biases allow it."""
    model = miniature(name)
    if not model.is_moe:
        return [
            case(model, Degrees(tp=4), Degrees(tp=2, gpus=4), "collocated", per_node=2),
            case(model, Degrees(pp=3), Degrees(tp=2, cp=2), per_node=2),
        ]
    pairs = [
        case(model, Degrees(tp=4, ep=2, etp=1), Degrees(tp=2, ep=4, etp=1), "collocated"),
        case(
            model,
            Degrees(tp=2, pp=2, etp=1, num_layers_in_last_pipeline_stage=1),
            Degrees(tp=2, ep=2, etp=1),
            per_node=2,
        ),
        case(model, Degrees(ep=8, etp=1), Degrees(ep=4, etp=1, gpus=8), "collocated", per_node=4),
    ]
    if not model.add_bias_linear:
        pairs.append(case(model, Degrees(tp=2, ep=2), Degrees(tp=1, ep=4, etp=1)))
    return pairs


@pytest.mark.parametrize("name", PUBLIC)
def test_plan_of_the_miniature_is_the_oracles(name: str) -> None:
    full, small = composed(f"model={name}").model, miniature(name)
    assert kinds(full) == kinds(small)
    for each in mini_cases(name):
        check_elements(each)


def kinds(model: Model) -> set[str]:
    return {family.name for family in catalogue(model).families}


def test_kimi_k2_mini_has_all_of_kimis_structure() -> None:
    full, mini = composed("model=kimi_k2").model, composed("model=kimi_k2_mini").model
    assert kinds(full) == kinds(mini)
    assert mini.num_moe_experts == 384
    assert moe_layers(mini) == [False, True, True, True]
    differs = {key for key, value in vars(full).items() if vars(mini)[key] != value}
    assert not any(key.startswith("moe_router") for key in differs)
    # eight ranks that hold both sides whole stay below 3 GB
    assert 16 * catalogue(mini, source_tp=8).nbytes < 3e9


@pytest.mark.parametrize("pair", family_layouts("kimi_k2"))
def test_kimi_k2_mini_is_a_scale_model_in_kimis_own_pairs(pair: str) -> None:
    mini, full = composed(f"parallel={pair}", "model=kimi_k2_mini"), composed(f"parallel={pair}")
    assert impossible(mini) is None
    assert mini.parallel == full.parallel
    placement = place(mini)
    assert placement.world == placement.nodes * 8 == int(pair.split("_")[2])
    stages = np.bincount(placement.source.rank_of_layers(mini.model.num_layers))
    assert stages.tolist() == [1, 1, 1, 1, 1, 1, 1, 5]
    assert kinds(mini.model) == kinds(full.model)
    assert (mini.build, mini.refit.bucket_mb, mini.cluster.name) == ("shards", 1, "local")


def test_what_is_said_wins_over_the_scale_model_and_elsewhere_it_is_none() -> None:
    mini, pair = "model=kimi_k2_mini", f"parallel={family_layouts('kimi_k2')[0]}"
    said = ("model.num_layers=61", "build=megatron", "cluster.nodes=3", "refit.bucket_mb=8")
    job = composed(mini, pair, *said)
    assert (job.model.num_layers, job.build, job.cluster.nodes) == (61, "megatron", 3)
    assert job.refit.bucket_mb == 8
    alone = composed(mini)
    assert (alone.model.num_layers, alone.build, alone.cluster.nodes) == (4, "megatron", 1)
    assert identity(alone) == "05aa84c17a"  # as before there was such a model
    reason = impossible(composed("model=moe_16e", pair))
    assert reason is not None and "is kimi_k2's, and the model is moe_16e" in reason


def test_any_depth_by_saying_which_layers() -> None:
    other = "model.published_parameters=null"
    shallow = ("model=kimi_k2", "model.num_layers=2", other)
    reason = impossible(composed(*shallow))
    assert reason is not None and reason.endswith("its first 2 are model.moe_layer_freq=[0,1]")
    job = composed(*shallow, "model.moe_layer_freq=[0,1]")
    assert impossible(job) is None
    assert kinds(job.model) == kinds(composed("model=kimi_k2").model)
    # a pattern that is a number goes with any depth
    assert impossible(composed("model=qwen3_30b_a3b", "model.num_layers=2", other)) is None
