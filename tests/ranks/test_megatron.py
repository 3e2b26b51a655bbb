"""The peer: megatron-core's own refit, driven as it is, and classified by what it does."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core.extensions import transformer_engine
from megatron.core.tensor_parallel import layers

from refit.forecast import predict
from refit.job import Degrees, Job
from refit.layout.place import place
from refit.model import megatron_versions as versions
from refit.model.architecture import catalogue
from refit.model.convention import build_of, logical_name
from refit.model_config import Model
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.record.record import numbers
from refit.record.report import WHOLE_CHECKS
from refit.rules import methods
from refit.rules.setup import Setup
from refit.rules.values import known_words
from refit.transport.megatron_names import under_production_names
from refit.weights import megatron_build
from refit.weights.models import places
from tests.support import peers
from tests.support.jobs import TINY, dense, fitting, job
from tests.support.records import check_verified, ran, verified

DENSE = dense(TINY, name="dense")
MOE = replace(TINY, name="moe", moe_router_enable_expert_bias=False)
BIASED = replace(MOE, name="biased", add_bias_linear=True, moe_shared_expert_intermediate_size=None)
PEER: dict[str, Any] = {"method": "megatron", "build": "megatron"}


def with_refit(what: Job, **changes: Any) -> Job:
    return replace(what, refit=replace(what.refit, **changes))


@pytest.mark.parametrize(
    "what",
    [
        job(model=DENSE, **PEER),
        job(Degrees(tp=1), Degrees(tp=2), model=DENSE, **PEER),
        job(Degrees(pp=2, tp=1), Degrees(tp=2), model=DENSE, **PEER),
        job(Degrees(tp=4), Degrees(tp=2, gpus=4), "collocated", model=DENSE, **PEER),
        job(Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, ep=2, etp=1), model=MOE,
            ranks_per_node=8, **PEER),
    ],
    ids=["tp down, idle rank", "tp up", "pp to tp", "collocated, replicas", "same expert layout"],
)  # fmt: skip
def test_what_it_can_do_is_bit_exact(agent: Agent, tmp_path: Path, what: Job) -> None:
    record = verified(agent, tmp_path, what)
    assert record["method"] == "megatron"
    for phases in record["seconds"]["phases_per_rank"].values():
        assert list(phases) == ["plan", "prepare", "transfer", "pack", "wire", "unpack"]
    # each destination rank receives into buffers that Megatron allocates per refit
    assert record["memory"]["staging_bytes"] is None


EXPERTS = {
    "ep to ep": (Degrees(tp=1, ep=4, etp=1, gpus=4), Degrees(tp=1, ep=2, etp=1)),
    "ep to pp": (Degrees(ep=2), Degrees(pp=2)),
    "ep to tp": (Degrees(tp=2, ep=2, etp=1), Degrees(tp=4, etp=1)),
}


@pytest.mark.parametrize("model", [MOE, BIASED], ids=["gated", "with biases"])
@pytest.mark.parametrize("pair", EXPERTS)
def test_experts_under_productions_names(
    agent: Agent, tmp_path: Path, pair: str, model: Model
) -> None:
    what = fitting(job(*EXPERTS[pair], model=model, ranks_per_node=8, **PEER))
    record = ran(agent, tmp_path, what)
    if versions.EXPERT_NAMES_SUFFICE or (pair != "ep to tp" and model is MOE):
        check_verified(record)
    elif pair == "ep to tp":  # experts of a side without EP are dense weights to it, cut over TP
        assert record["status"] == "unsupported"
        assert "Cannot build TP descriptor" in record["reason"]
    else:  # what no side cuts it takes from a replica of the dense weights: of other experts
        assert record["status"] == "invalid"
        assert "mlp.experts.linear_fc1.bias" in record["reason"]
    (said,) = (line for line in record["model_build"]["differs"] if "TEGroupedMLP" in line)
    assert "under production's names and attributes (linear_fc1.weight<N>" in said


TIED = replace(DENSE, name="tied", share_embeddings_and_output_weights=True)
COUNTED = {
    "tp down, idle rank": job(model=DENSE, **PEER),
    "collocated, replicas": job(
        Degrees(tp=4), Degrees(tp=2, gpus=4), "collocated", model=DENSE, **PEER
    ),
    "replicas on two nodes": job(
        Degrees(tp=2, gpus=4), Degrees(tp=1, gpus=4), model=DENSE, ranks_per_node=4, **PEER
    ),
    "stages": job(Degrees(pp=2), Degrees(tp=2), model=DENSE, **PEER),
    "orders, uneven stages": job(
        Degrees(pp=2, gpus=4, order="tp-pp-dp"),
        Degrees(pp=2, tp=2, order="pp-tp-dp", pipeline_model_parallel_layout=[1, 1], offset=2),
        "collocated", model=DENSE, ranks_per_node=8, **PEER,
    ),
    "tied, stages": job(Degrees(pp=2, tp=2), Degrees(pp=2), model=TIED, ranks_per_node=8, **PEER),
    "experts": job(*EXPERTS["ep to tp"], model=MOE, ranks_per_node=8, **PEER),
    "experts with biases": job(*EXPERTS["ep to ep"], model=BIASED, ranks_per_node=8, **PEER),
    "expert bias, a buffer": job(Degrees(ep=2), Degrees(ep=1), model=TINY, **PEER),
    "experts whose etp changes": job(
        Degrees(tp=2, ep=2, etp=2, gpus=4), Degrees(tp=2, ep=2, etp=1), model=MOE,
        ranks_per_node=8, **PEER,
    ),
}  # fmt: skip


@pytest.mark.skipif(
    not versions.PLANS_WITHOUT_RANKS, reason="megatron-core plans without ranks from 0.19 on"
)
@pytest.mark.parametrize("pair", COUNTED)
def test_its_plan_without_ranks_is_what_it_then_moves(
    agent: Agent, tmp_path: Path, pair: str
) -> None:
    what = COUNTED[pair]
    record = ran(agent, tmp_path, what)
    setup = Setup.of(what)
    rows = methods.planned(setup)
    foretold = asdict(numbers(rows, [rows], setup.plan().bounds))
    assert record["plan"] == foretold
    # the same through mode=plan, whose tensors are production's: as many blocks, smaller norms
    planned = predict.predict_point(Point.of(replace(what, mode="plan"), tmp_path))
    assert planned.status == "ok" and planned.plan is not None
    assert planned.plan.copies == foretold["copies"]
    assert planned.prediction is not None and planned.prediction.estimate is None


@pytest.mark.skipif(versions.PLANS_WITHOUT_RANKS, reason="megatron-core plans without ranks")
def test_before_0_19_it_cannot_be_asked_without_ranks(tmp_path: Path) -> None:
    what = replace(COUNTED["experts"], mode="plan")
    record = predict.predict_point(Point.of(what, tmp_path))
    assert record.status == "unsupported"
    assert "from real models on real ranks" in record.reason and versions.VERSION in record.reason


def test_gated_experts_whose_etp_changes_are_wrong(agent: Agent, tmp_path: Path) -> None:
    # production stamps stride 1 on them: the halves of gate and up come shard after shard, not
    # gate before up, so the second and third quarter of each fc1 have changed places
    pair = (Degrees(tp=2, ep=2, etp=2, gpus=4), Degrees(tp=2, ep=2, etp=1, gpus=2))
    what = fitting(job(*pair, model=MOE, ranks_per_node=8, **PEER))
    record = ran(agent, tmp_path, what)
    if not versions.ROW_PARALLEL_EXPERTS_SAY_SO:
        assert record["status"] == "unsupported"
        assert "linear_fc2" in record["reason"]
        return
    fc1 = 2 * 48 * 64
    assert record["status"] == "invalid"
    assert record["verification"]["mismatches"] == WHOLE_CHECKS * 4 * fc1 // 2  # of four experts
    assert "mlp.experts.linear_fc1.weight" in record["reason"]
    # the models built here say stride 2, and it believes them
    installed = ran(agent, tmp_path, with_refit(what, peer_names="installed"))
    assert "linear_fc1" not in installed["reason"]


@pytest.mark.parametrize(
    ("pair", "mode", "status", "words"),
    [
        # it takes sinks for replicated: half of them arrive, and gloo does not mind
        ((Degrees(tp=2), Degrees(tp=1)), "non-collocated", "invalid", "softmax_offset"),
        # twice as many arrive as there is room for
        ((Degrees(tp=1), Degrees(tp=2)), "non-collocated", "crashed", "SIGABRT"),
        (
            (Degrees(tp=2), Degrees(tp=1, gpus=2)),
            "collocated",
            "unsupported",
            "must match the size",
        ),
    ],
    ids=["down", "up", "collocated"],
)
def test_sinks_go_wrong_where_tp_changes(
    agent: Agent, tmp_path: Path, pair: tuple[Degrees, Degrees], mode: str, status: str, words: str
) -> None:
    what = job(*pair, mode, model=replace(DENSE, softmax_type="learnable"), **PEER)
    record = ran(agent, tmp_path, what)
    assert record["status"] == status
    assert words in record["reason"]
    same = job(Degrees(tp=2), Degrees(tp=2), mode, model=what.model, **PEER)
    assert ran(agent, tmp_path, same)["status"] == "ok"


def test_as_installed_it_refuses_in_its_own_words(agent: Agent, tmp_path: Path) -> None:
    # without Transformer Engine experts are SequentialMLP, whose numbers its planner does not see
    what = job(Degrees(ep=2), Degrees(), model=MOE, **PEER)
    record = ran(agent, tmp_path, with_refit(what, peer_names="installed"))
    assert record["status"] == "unsupported"
    assert record["reason"].startswith(f"megatron-core {versions.VERSION} cannot plan")
    assert "RuntimeError: Destination parameter" in record["reason"]
    assert "not found in source model" in record["reason"] and "\n" not in record["reason"]
    (said,) = (line for line in record["model_build"]["differs"] if "TEGroupedMLP" in line)
    assert "as SequentialMLP names them" in said


def test_as_installed_wrong_experts_are_invalid(agent: Agent, tmp_path: Path) -> None:
    # each rank counts its experts from 0: the names are there on both sides, of other experts
    swap = (Degrees(tp=1, ep=2, etp=1, gpus=4), Degrees(tp=1, ep=4, etp=1))
    what = job(*swap, "collocated", model=MOE, **PEER)
    record = ran(agent, tmp_path, with_refit(what, peer_names="installed"))
    assert record["status"] == "invalid"
    assert "mlp.experts.linear_fc1.weight" in record["reason"]


def test_the_expert_bias_stays_behind(agent: Agent, tmp_path: Path) -> None:
    record = ran(agent, tmp_path, job(Degrees(), Degrees(), model=TINY, **PEER))
    bias = 4 * TINY.num_moe_experts  # type: ignore[operator]
    left = 0 if versions.REFITS_BUFFERS else bias
    assert record["plan"]["bytes"] == record["plan"]["lower_bounds"]["recv"] - left
    if versions.REFITS_BUFFERS:
        assert record["status"] == "ok"
    else:
        assert record["status"] == "invalid"
        wrong = WHOLE_CHECKS * TINY.num_moe_experts  # type: ignore[operator]
        assert record["verification"]["mismatches"] == wrong
        assert "mlp.router.expert_bias" in record["reason"]


def test_the_plan_on_record_is_its_own(agent: Agent, tmp_path: Path) -> None:
    # four replicas to four: ours takes one from each, it takes what is cut over TP from the first
    what = job(Degrees(gpus=4), Degrees(gpus=4), model=DENSE, ranks_per_node=8, **PEER)
    record = verified(agent, tmp_path, what)
    whole = record["plan"]["lower_bounds"]["recv"]
    placement = place(what)
    tensors = catalogue(DENSE, placement.source.tp, build_of(what).convention)
    held = tensors.held_by(placement.source, 0)
    cut = sum(shard.nbytes for shard in held if shard.family.axis is not None)
    uncut = whole - cut
    first = 4 * whole if versions.FIRST_REPLICA_SENDS_ALL else 4 * cut + uncut
    assert record["plan"] == {
        **record["plan"],
        "copies": 4
        * sum(max(1, len(shard.family.parts)) for shard in held),  # gate and up each on its own
        "bytes": 4 * whole,
        "local_bytes": 0,
        "cross_node_bytes": 0,
        "max_send_bytes": first,
        "max_recv_bytes": whole,
        "max_peer_bytes": first,
    }
    ours = ran(agent, tmp_path, job(Degrees(gpus=4), Degrees(gpus=4), model=DENSE,
                                    ranks_per_node=8, build="megatron"))  # fmt: skip
    assert ours["plan"]["max_send_bytes"] == whole < first
    assert record["plan"]["lower_bounds"] == ours["plan"]["lower_bounds"]
    assert record["throughput"]["gbps"] == pytest.approx(
        4 * whole / record["seconds"]["median"] / 1e9
    )


def test_its_own_plan_is_not_known_before_it_ran(agent: Agent, tmp_path: Path) -> None:
    what = job(model=DENSE, **{**PEER, "refit": {"backend": "nccl"}})
    plan = ran(agent, tmp_path, what)["plan"]
    assert plan["bytes"] > 0 and plan["lower_bounds"]["move"] > 0
    assert {plan[name] for name in plan.keys() - {"bytes", "lower_bounds"}} == {None}


def test_local_copies_are_on_record(agent: Agent, tmp_path: Path) -> None:
    what = job(Degrees(tp=2), Degrees(tp=2), "collocated", model=DENSE, ranks_per_node=2, **PEER)
    record = ran(agent, tmp_path, replace(what, cluster=replace(what.cluster, ranks_per_node=2)))
    assert record["status"] == "ok"
    assert record["plan"]["local_bytes"] == record["plan"]["bytes"] > 0
    assert record["plan"]["max_send_bytes"] == record["plan"]["max_peer_bytes"] == 0


def test_a_second_model_of_the_same_degrees(agent: Agent, tmp_path: Path) -> None:
    verified(agent, tmp_path, peers.second("AfterAnother"))
    # and what the first model's plan would have done to it
    record = ran(agent, tmp_path, peers.second("AfterAnotherUnclosed"))
    assert record["status"] == ("invalid" if versions.REFIT_CACHES_PLANS else "ok")


def test_nixl_has_one_refit_where_a_destination_is_not_contiguous(
    agent: Agent, tmp_path: Path
) -> None:
    whole = job(Degrees(gpus=1), Degrees(gpus=1), model=DENSE, **PEER)
    cut = job(model=DENSE, **PEER)
    records = [ran(agent, tmp_path, with_refit(what, backend="nixl")) for what in (whole, cut)]
    if "nixl" not in versions.REFIT_BACKENDS:
        for record in records:
            assert record["status"] == "unsupported"
            assert f"megatron-core {versions.VERSION} has no nixl; it has" in record["reason"]
        return
    assert [record["status"] for record in records] == ["ok", "unsupported"]
    assert records[0]["transport"]["service"] == "NixlCopyService"
    assert "recv tensor addresses changed after setup" in records[1]["reason"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"build": "shards"}, "build=shards has none, use build=megatron"),
        ({"refit": {"backend": "nccl"}}, "moves GPU memory; "),
    ],
)
def test_what_it_cannot_be_is_unsupported(
    agent: Agent, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    record = ran(agent, tmp_path, job(model=DENSE, **{**PEER, **change}))
    assert record["status"] == "unsupported"
    assert words in record["reason"]


def test_an_unknown_backend_is_refused() -> None:
    reason = known_words(job(model=DENSE, refit={"backend": "nvshmen"}, **PEER))
    assert reason is not None
    assert "refit.backend=nvshmen is not one of auto, gloo, nccl, nvshmem, nixl" in reason


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("bias", [False, True])
def test_production_names_are_of_the_same_memory(bias: bool) -> None:
    model = BIASED if bias else TINY
    what = job(Degrees(), Degrees(), "collocated", model=model, **PEER)
    (real,) = megatron_build.gpt_models(what, place(what), "source", 0)
    same = under_production_names(real)
    pairs = [list(places(one)) for one in (real, same)]
    memory = [
        {
            logical_name(f"{path}.{leaf}"): (getattr(module, leaf).data_ptr(), is_buffer)
            for module, path, leaf, is_buffer in found
        }
        for found in pairs
    ]
    assert memory[0] == memory[1]
    assert len(memory[0]) == len(pairs[0]) == len(pairs[1])
    names = {name for name, _ in same.named_parameters()}
    kinds = ("weight", "bias") if bias else ("weight",)
    assert {name for name in names if ".experts." in name} == {
        f"decoder.layers.1.mlp.experts.linear_fc{fc}.{kind}{n}"
        for fc in (1, 2) for kind in kinds for n in range(4)
    }  # fmt: skip
    others = [(n, p) for n, p in real.named_parameters() if ".experts." not in n]
    assert all(dict(same.named_parameters())[name] is held for name, held in others)
    layers = [
        [layer.layer_number for layer in one.decoder.layers.children()] for one in (real, same)
    ]
    assert layers == [[1, 2], [1, 2]]
    dense = job(Degrees(), Degrees(), "collocated", model=DENSE, **PEER)
    (plain,) = megatron_build.gpt_models(dense, place(dense), "source", 0)
    assert under_production_names(plain) is plain


@pytest.mark.parametrize("ep", [1, 2])
@pytest.mark.parametrize("etp", [1, 2])
@pytest.mark.parametrize(("layer", "mode"), [("linear_fc1", "column"), ("linear_fc2", "row")])
def test_production_attributes_are_those_of_megatron(
    layer: str, mode: str, ep: int, etp: int
) -> None:
    """From 0.19 a function of its own sets them; in older ones they are read in TEGroupedLinear."""
    stamp = getattr(transformer_engine, "_set_expert_parameter_attributes", None)
    if stamp is None:
        pytest.skip(f"megatron-core {versions.VERSION} sets them in a class that needs the engine")
    real = torch.nn.Module()
    for kind in ("weight", "bias"):
        real.register_parameter(f"{kind}0", torch.nn.Parameter(torch.empty(4, 4)))
    stamp(real, mode, ep > 1 or etp != 2)
    for kind in ("weight", "bias"):
        said = {k: v for k, v in vars(getattr(real, f"{kind}0")).items() if v is not False}
        ours = versions.expert_attributes(layer, kind, 2, ep, etp)
        assert {k: v for k, v in ours.items() if v is not False} == said
        assert ours["allreduce"] is not (ep > 1 or etp != 2)


@pytest.mark.usefixtures("alone")
def test_weights_say_of_themselves_what_megatron_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attributes that it plans by, against a model that Megatron initialises itself."""
    what = job(Degrees(), Degrees(), "collocated", model=MOE, **PEER)
    (ours,) = megatron_build.gpt_models(what, place(what), "source", 0)
    theirs = layers._initialize_affine_weight_cpu
    monkeypatch.setattr(megatron_build, "_set_attributes", theirs)
    (real,) = megatron_build.gpt_models(what, place(what), "source", 0)
    names = ("tensor_model_parallel", "partition_dim", "partition_stride", "allreduce")
    said = [
        {n: [getattr(p, a, None) for a in names] for n, p in model.named_parameters()}
        for model in (ours, real)
    ]
    assert said[0] == said[1]
    assert said[0]["decoder.layers.0.mlp.linear_fc1.weight"] == [True, 0, 2, True]


@pytest.mark.parametrize("method", ["megatron", "ipc"])
def test_logs_hold_progress_alone(agent: Agent, tmp_path: Path, method: str) -> None:
    # not what megatron-core and torch say of themselves, of training, of what is not installed
    model = TINY if method == "ipc" else DENSE
    what = job(Degrees(tp=2, etp=1), Degrees(), model=model, method=method, build="megatron")
    record = ran(agent, tmp_path, what)
    logs = list(tmp_path.glob("**/rank*.log"))
    assert len(logs) == record["layout"]["world"] > 1
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert len(lines) > 8
    assert [x for x in lines if not re.match(r"\[\d\d:\d\d:\d\d\.\d\d\] ", x)] == []


def test_imports_are_silent_and_without_a_compiler() -> None:
    code = (
        "import sys, torch; compiled = torch.compile\n"
        "import refit.weights.megatron_build, refit.transport.megatron\n"
        "print([name for name in sys.modules if name.startswith('torch._inductor.compile')])\n"
        "assert torch.compile is compiled"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
