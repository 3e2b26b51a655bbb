"""Real models on real ranks over a sample of the pairs of layouts that the rules accept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Degrees, Job
from refit.layout.layout import Layout
from refit.layout.place import place
from refit.model.convention import has_transformer_engine
from refit.ranks.agent import Agent
from refit.rules.impossible import impossible
from tests.support.jobs import TINY, dense, job
from tests.support.records import ran, verified
from tests.support.sample import sampled, thorough

MOE = replace(TINY, name="moe", hidden_size=16, vocab_size=50)
DENSE = dense(MOE, name="dense", add_bias_linear=True, share_embeddings_and_output_weights=True)
DEGREES = ("tp", "cp", "pp", "dp", "ep", "etp")
# Transformer Engine's layers do not compute in float64
LOGITS = "bits" if has_transformer_engine() else "logits"
# two of each stratum by each of these, on few ranks and on many
WAYS: tuple[dict[str, Any], ...] = (
    {"method": "ipc"},
    {"method": "gloo"},
    {"method": "ipc", "verify": LOGITS},
)


def two(degrees: tuple[Degrees, Degrees], mode: str, moe: bool, **rest: Any) -> Job:
    """A pair on a tiny model of one or two layers per stage, with an idle rank if used is odd."""
    source, destination = degrees
    layers = max(2, source.pp, destination.pp)
    freq = [0] + [1] * (layers - 1) if moe else 1
    model = replace(MOE if moe else DENSE, num_layers=layers, moe_layer_freq=freq)
    gpus = (source.gpus or 0, destination.gpus or 0)
    used = max(gpus) if mode == "collocated" else sum(gpus)
    bench = {"iterations": 1, "deadline_s": 120.0}
    what = job(source, destination, mode, model=model, build="megatron", bench=bench, **rest)
    return replace(what, cluster=replace(what.cluster, ranks_per_node=used + used % 2))


@cache
def degrees(moe: bool) -> list[Degrees]:
    """One side's: all that divide up to 8 GPUs, replicas (also 3 of them) and CP included."""
    found = []
    for tp, cp, pp, gpus in product((1, 2, 4), (1, 2), (1, 2, 4), (1, 2, 3, 4, 6, 8)):
        for ep, etp in product((1, 2, 4), (1, 2, 4)) if moe else [(1, 1)]:
            try:
                Layout(tp=tp, cp=cp, pp=pp, ep=ep, etp=etp, gpus=gpus)
            except UserError:
                continue
            found.append(Degrees(tp=tp, cp=cp, pp=pp, ep=ep, etp=etp, gpus=gpus))
    return found


def sample() -> Iterator[Job]:
    """Of each stratum, collocated or not, source smaller, equal or larger, dense or not: six."""
    dice = random.Random(18)
    for mode, larger, moe in product(
        ("collocated", "non-collocated"), ("destination", "neither", "source"), (False, True)
    ):
        few: list[tuple[Degrees, Degrees]] = []
        many: list[tuple[Degrees, Degrees]] = []
        for one, other in product(degrees(moe), repeat=2):
            a, b = one.gpus or 0, other.gpus or 0
            used = max(a, b) if mode == "collocated" else a + b
            if used > 8 or larger != ("destination" if a < b else "source" if a > b else "neither"):
                continue
            (few if used <= 4 else many).append((one, other))
        for among in few, many:
            for pair, way in zip(dice.sample(among, len(WAYS)), WAYS, strict=True):
                yield two(pair, mode, moe, **way)


SAMPLE = list(sample())


def title(what: Job) -> str:
    placement = place(what)
    sides = [
        f"{side.gpus}:" + "".join(f"{n}{getattr(side, n)}" for n in DEGREES if getattr(side, n) > 1)
        for side in (placement.source, placement.destination)
    ]
    return "-".join([what.parallel.mode[:3], what.model.name, *sides, what.refit.method])


def test_the_sample_is_one_of_all_kinds() -> None:
    assert len({title(what) for what in SAMPLE}) == len(SAMPLE) == 72
    assert [impossible(what) for what in SAMPLE] == [None] * 72
    for side, degree in product(("source", "destination"), DEGREES):
        more = [x for x in SAMPLE if getattr(getattr(place(x), side), degree) > 1]
        assert {x.parallel.mode for x in more} == {"collocated", "non-collocated"}, (side, degree)


# of each stratum one or two, on few ranks or many; each of the ways as often
@pytest.mark.parametrize("what", sampled(SAMPLE, 5), ids=title)
def test_every_layout_is_bit_exact(agent: Agent, tmp_path: Path, what: Job) -> None:
    record = verified(agent, tmp_path, what)
    logits = record["verification"]["logits"]
    assert logits["ok"] if what.verify == "logits" else logits is None


PEER: dict[str, Any] = {"method": "megatron", "verify": LOGITS}


@pytest.mark.parametrize(
    "what",
    [
        two((Degrees(gpus=1), Degrees(tp=2, gpus=2)), "collocated", False, **PEER),
        two((Degrees(gpus=1), Degrees(pp=2, gpus=6)), "collocated", False, **PEER),
        thorough(two((Degrees(tp=2, gpus=2), Degrees(tp=4, gpus=8)), "collocated", False, **PEER)),
        thorough(
            two((Degrees(pp=2, gpus=2), Degrees(tp=2, cp=2, gpus=4)), "collocated", False, **PEER)
        ),
        two((Degrees(tp=2, gpus=2), Degrees(tp=2, pp=2, gpus=4)), "non-collocated", False, **PEER),
    ],
    ids=title,
)
def test_the_peer_refits_to_more_ranks(agent: Agent, tmp_path: Path, what: Job) -> None:
    # not tied: until 0.19 it has no source for the last stage's copy of the embeddings
    untied = replace(what.model, share_embeddings_and_output_weights=False)
    what = replace(what, model=untied)
    verified(agent, tmp_path, what)


@pytest.mark.parametrize(
    "destination",
    [
        Degrees(ep=4, etp=1, gpus=4),
        Degrees(tp=2, etp=2, gpus=2),
        thorough(Degrees(ep=2, etp=1, gpus=8)),
    ],
)
def test_the_peer_ends_with_experts_too(agent: Agent, tmp_path: Path, destination: Degrees) -> None:
    what = two((Degrees(etp=1, gpus=1), destination), "collocated", True, **PEER)
    record = ran(agent, tmp_path, what)
    # which of these it is differs by version and by the names of experts
    assert record["status"] in ("ok", "invalid", "unsupported"), record["reason"]
