"""Ranking destinations: only what the rules allow and memory holds, with figures worked by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from refit.advise import advise, dispatcher, job_asked_for, lines, serving_bytes
from refit.errors import UserError
from refit.forecast.predict import predict
from refit.job import Degrees, Hardware, Job
from refit.layout.layout import Layout
from refit.layout.place import place
from refit.rules.impossible import impossible
from refit.rules.setup import Setup
from tests.support.jobs import TINY, job

ROOT = Path(__file__).parents[2]
ROOMY = Hardware(memory_gb=1, memory_gbps=100, peer_gbps=10, nic_gbps=1, latency_us=10)


def source(hardware: Hardware = ROOMY) -> Job:
    made = replace(job(Degrees(tp=2, ep=2, etp=1)), mode="plan")
    return replace(made, cluster=replace(made.cluster, hardware=hardware))


def test_the_legal_layouts_are_found_and_no_other() -> None:
    found, refused, too_large = advise(source(), 4)
    layouts = {(a.layout.tp, a.layout.pp, a.layout.ep) for a in found}
    # four heads, four experts, two layers: TP, EP and PP divide 4, and PP 4 has too few layers
    legal = {
        (tp, pp, ep)
        for tp in (1, 2, 4)
        for pp in (1, 2)
        for ep in (1, 2, 4)
        if tp * pp <= 4 and ep * pp <= 4
    }
    assert (layouts, len(found), refused, too_large) == (legal, len(legal), 1, 0)
    for each in found:
        assert impossible(each.job) is None
        assert (each.layout.gpus, each.layout.etp) == (4, 1)
        estimate = predict(Setup.of(each.job)).estimate
        assert estimate is not None and each.seconds == estimate.seconds
    sums = [sum(a.places) for a in found]
    assert sums == sorted(sums) and min(a.places[0] for a in found) == 1
    quickest = min(found, key=lambda a: a.seconds)
    assert quickest.places[0] == 1
    assert len(lines(found, 3)) == 4


def test_a_source_that_starts_elsewhere_has_the_same_choices() -> None:
    there = source()
    moved = replace(there.parallel.source, offset=8, node_aligned=True, order="tp-cp-ep-pp-dp")
    found, refused, _ = advise(replace(there, parallel=replace(there.parallel, source=moved)), 4)
    here, refused_here, _ = advise(there, 4)
    assert (len(found), refused) == (len(here), refused_here)
    assert {a.job.parallel.source for a in found} == {moved}
    assert {place(a.job).destination.offset for a in found} == {12}


def test_what_does_not_fit_is_counted_and_left_out() -> None:
    everything, _, _ = advise(source(), 4)
    held = sorted(1e9 - a.headroom_bytes for a in everything)
    middle = held[len(held) // 2]
    found, refused, too_large = advise(source(replace(ROOMY, memory_gb=middle / 1e9)), 4)
    assert (refused, too_large) == (1, sum(h > middle * (1 + 1e-12) for h in held))
    assert len(found) + too_large == len(everything)
    with pytest.raises(UserError, match="no layout of 4 GPUs serves model 'tiny'"):
        advise(source(replace(ROOMY, memory_gb=1e-6)), 4)


def test_serving_bytes_by_hand() -> None:
    model = replace(TINY, moe_router_topk=2)  # hidden 64, two layers, 128 bytes a token
    assert serving_bytes(model, Layout(tp=1, ep=1)) == 0
    # TP 2: two tokens of a replica; each rank sends half of 256 bytes twice
    assert serving_bytes(model, Layout(tp=2, ep=1)) == 256
    # EP 4 by all-gather: its own 128 bytes from 3 others, and back
    assert serving_bytes(model, Layout(tp=1, ep=4)) == 2 * 128 * 3
    # EP 8 by all-to-all: twice to two experts, seven in eight of them elsewhere
    assert serving_bytes(model, Layout(tp=1, ep=8)) == 2 * 2 * 128 * 7 / 8
    # PP 2: the first stage hands two tokens on, for both layers
    assert serving_bytes(model, Layout(pp=2)) == 256 / 2


def test_the_dispatcher_goes_by_ep() -> None:
    words = {ep: dispatcher(TINY, Layout(ep=ep)) for ep in (1, 2, 4, 8, 16)}
    assert words == {1: "", 2: "allgather", 4: "allgather", 8: "alltoall", 16: "alltoall"}
    assert dispatcher(replace(TINY, num_moe_experts=None), Layout(gpus=8)) == ""


def test_the_source_is_a_pair_s_or_degrees() -> None:
    made, gpus, top = job_asked_for(
        ["model=moe_16e", "gpus=8", "source=collocated_1_tp4ep2_to_tp2ep4"]
    )
    assert (gpus, top, made.placement_mode) == (8, 10, "collocated")
    assert (place(made).source.tp, place(made).source.ep) == (4, 2)
    made, _, top = job_asked_for(["model=moe_16e", "gpus=8", "source.ep=4", "top=3"])
    assert (top, made.parallel.source) == (3, Degrees(ep=4, etp=1))
    assert made.cluster.name == "h100"
    made, *_ = job_asked_for(["model=llama31_8b", "gpus=8", "cluster=a100"])
    assert made.parallel.name.startswith("llama31_8b_") and made.cluster.name == "a100"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=moe_16e"], "gpus= is not a number of 1 or more"),
        (["gpus=0", "model=moe_16e"], "gpus=0 is not a number"),
        (["gpus=8", "top"], "'top' is not key=value"),
        (["gpus=8", "model=moe_16e"], "no pair in conf/parallel is named after model 'moe_16e'"),
        (["gpus=8", "model=moe_17e", "source.tp=2"], "Could not find 'model/moe_17e'"),
        (["gpus=8", "model=moe_16e", "source.tq=2"], "unknown field 'parallel.source.tq'"),
        (["gpus=8", "model=moe_16e", "model.is_hybrid_model=1", "source.tp=2"], "is not modelled"),
    ],
)
def test_bad_input_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        job_asked_for(arguments)


def test_a_list_of_destinations_is_not_looked_for() -> None:
    made, gpus, _ = job_asked_for(
        ["model=moe_16e", "gpus=8", "source.tp=2", "parallel.destination=null",
         "parallel.destinations=[{tp: 2}]"]
    )  # fmt: skip
    with pytest.raises(UserError, match="destinations is a list, and one destination is"):
        advise(made, gpus)


def test_a_cluster_without_rates_and_an_impossible_source() -> None:
    with pytest.raises(UserError, match="does not state its memory and rates"):
        advise(source(Hardware()), 4)
    peer = replace(source(), refit=replace(source().refit, method="megatron"))
    with pytest.raises(UserError, match=r"refit=megatron .* has no estimate"):
        advise(peer, 4)
    wrong = replace(source(), parallel=replace(source().parallel, source=Degrees(tp=3, etp=1)))
    with pytest.raises(UserError, match=r"the source is impossible: .*num_attention_heads=4"):
        advise(wrong, 4)


def test_the_command_imports_no_torch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['refit.advise', 'model=moe_8e', 'gpus=4', 'source.tp=2', 'source.ep=2']\n"
        "runpy.run_module('refit.advise', run_name='__main__', alter_sys=True)\n"
        "assert 'torch' not in sys.modules and 'megatron' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "estimate s" in done.stdout and "are refused by the rules" in done.stdout
