"""Real ranks where a side has its own cut, dtype or vocabulary; by every method, with faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import Degrees, Job
from refit.layout.place import place
from refit.ranks.agent import Agent
from refit.rules.impossible import impossible
from refit.rules.setup import Setup
from tests.support.jobs import TINY, fitting, job
from tests.support.records import ran, verified
from tests.support.sample import thorough

TIED = replace(TINY, share_embeddings_and_output_weights=True)
METHODS = ("ipc", "gloo", "symmetric", "nixl")
# rows that do not divide by three, four or five ranks, and 53 words
ODD = replace(TINY, hidden_size=24, vocab_size=53, ffn_hidden_size=40, num_attention_heads=4)
GROUPED = replace(ODD, num_query_groups=2, kv_channels=6)


def fsdp(shard: int, **rest: Any) -> Degrees:
    return Degrees(kind="fsdp", shard=shard, **rest)


def pair(
    source: Degrees,
    destination: Degrees,
    method: str,
    mode: str = "collocated",
    fanout: str = "direct",
    cast_at: str = "auto",
    **rest: Any,
) -> Job:
    said = {"model": ODD, "build": "shards", "ranks_per_node": 8, **rest}
    # messages of few blocks, so that blocks are divided
    refit = {"bucket_mb": 0.002, "fanout": fanout, "cast_at": cast_at}
    bench = {"iterations": 1, "deadline_s": 120.0}
    return fitting(job(source, destination, mode, method, bench=bench, refit=refit, **said))


OWN: dict[str, Any] = {"make_vocab_size_divisible_by": 1}
UNCHECKED: dict[str, Any] = {"padding": "unchecked"}
SIDES: dict[str, tuple[Degrees, Degrees, dict[str, Any]]] = {
    "fsdp to tp": (fsdp(3), Degrees(tp=2, etp=2, gpus=2, **OWN), {"mode": "non-collocated"}),
    "hsdp to tp and ep": (fsdp(2, gpus=4), Degrees(tp=2, ep=2, etp=1, gpus=4, **OWN), {}),
    "fsdp to fsdp": (fsdp(5), fsdp(2, gpus=4), {}),
    "tp and pp to fsdp": (Degrees(tp=2, pp=2, etp=1), fsdp(4), {"fanout": "hierarchical"}),
    "float32 to bfloat16": (Degrees(tp=2, etp=1, dtype="float32"), Degrees(etp=1, ep=2), {}),
    "float32 to float16": (fsdp(3, dtype="float32"), Degrees(etp=1, dtype="float16"), {}),
    "bfloat16 to float32": (Degrees(ep=2, etp=1), Degrees(tp=2, etp=1, dtype="float32"), {}),
    "float16 to bfloat16": (
        Degrees(tp=2, etp=1, dtype="float16"), Degrees(etp=1, gpus=3), {"fanout": "hierarchical"},
    ),
    "a vocabulary of its own, larger": (
        Degrees(etp=1, **OWN), Degrees(tp=4, etp=1, make_vocab_size_divisible_by=16), {},
    ),
    "a vocabulary of its own, smaller": (
        Degrees(tp=4, etp=1, make_vocab_size_divisible_by=16), Degrees(etp=1, **OWN), {},
    ),
    "tied to untied": (
        Degrees(tp=2, pp=2, etp=1), Degrees(tp=4, etp=1, share_embeddings_and_output_weights=False),
        {"model": TIED},
    ),
    "tied to untied, stages and fsdp": (
        fsdp(3), Degrees(pp=2, etp=1, gpus=4, share_embeddings_and_output_weights=False),
        {"model": TIED, "fanout": "hierarchical"},
    ),
    "engine, keys in several shards": (
        Degrees(tp=2, etp=1), Degrees(kind="engine", tp=4, etp=1, expert_slots=5),
        {"model": GROUPED, "mode": "non-collocated"},
    ),
    "engines, gate and up in turn": (
        Degrees(kind="engine", tp=4, etp=2, gpus=4),
        Degrees(kind="engine", tp=2, etp=1, gpus=4, gate_up_interleaved=True, dtype="float16"),
        {"model": GROUPED, "fanout": "hierarchical"},
    ),
    "from in turn": (
        Degrees(kind="engine", tp=2, ep=2, etp=1, gpus=4, gate_up_interleaved=True), fsdp(3),
        {"model": GROUPED},
    ),
    "everything at once": (
        fsdp(3, dtype="float32"),
        Degrees(
            kind="engine", tp=4, ep=2, etp=1, gpus=4, gate_up_interleaved=True, expert_slots=3,
            dtype="float16", share_embeddings_and_output_weights=False,
        ),
        {"model": replace(GROUPED, share_embeddings_and_output_weights=True),
         "mode": "non-collocated"},
    ),
    "slots of both sides": (
        Degrees(ep=2, etp=2, gpus=4, expert_slots=2), Degrees(tp=2, etp=1, expert_slots=7), {},
    ),
    "fsdp to slots": (
        fsdp(3, dtype="float32"), Degrees(ep=2, etp=1, expert_slots=3, **OWN),
        {"fanout": "hierarchical"},
    ),
    "padding unchecked at the source": (fsdp(3, **UNCHECKED), fsdp(4), {}),
    "padding unchecked, and slots": (
        Degrees(tp=4, etp=1, make_vocab_size_divisible_by=16, **UNCHECKED),
        Degrees(ep=2, etp=1, expert_slots=3, **OWN, **UNCHECKED), {"fanout": "hierarchical"},
    ),
}  # fmt: skip


def of(name: str, method: str, **rest: Any) -> Job:
    source, destination, said = SIDES[name]
    return pair(source, destination, method, **{**said, **rest})


ALL = "everything at once"
QUICK = METHODS[:3]  # NIXL's agents take longer to start than all else
# each kind by one method in turn, and all of them together by every method
OF_ALL = [(ALL, method) for method in METHODS]
OF_ALL_FAULTS = [(ALL, ("DropsBlock", "RoundsUp")[n % 2], way) for n, way in enumerate(METHODS)]
EACH = [(name, QUICK[n % len(QUICK)]) for n, name in enumerate(SIDES) if name != ALL]
EACH.append(("tied to untied", "ipc"))  # two names of one memory, read in place
FAULTS = [
    ("hsdp to tp and ep", "DropsBlock"),
    ("fsdp to fsdp", "WritesPadding"),
    ("a vocabulary of its own, larger", "WritesPadding"),
    ("float32 to bfloat16", "RoundsUp"),
    ("tied to untied", "DropsBlock"),
    ("engine, keys in several shards", "DropsBlock"),
    ("engines, gate and up in turn", "MisordersGateUp"),
    ("slots of both sides", "WritesSpareSlot"),
    ("slots of both sides", "SwapsExperts"),
    ("padding unchecked at the source", "WritesPadding"),
    ("padding unchecked, and slots", "DropsBlock"),
]


@pytest.mark.parametrize(("name", "method"), [*EACH, *map(thorough, OF_ALL[:-1]), OF_ALL[-1]])
def test_each_kind_is_bit_exact(agent: Agent, tmp_path: Path, name: str, method: str) -> None:
    what = of(name, method)
    assert impossible(what) is None
    record = verified(agent, tmp_path, what)
    assert record["plan"]["bytes"] == Setup.of(what).plan().total_bytes
    sides = (what.parallel.source, what.parallel.destination)
    placed = (record["layout"]["source"], record["layout"]["destination"])
    for side, found in zip(sides, placed, strict=True):
        assert (found["kind"], found["dtype"]) == (
            side.kind, None if side.dtype == "bfloat16" else side.dtype,
        )  # fmt: skip
        assert found["padding"] == side.padding


@pytest.mark.parametrize(
    ("name", "fault", "method"),
    [
        *((*fault, QUICK[n % len(QUICK)]) for n, fault in enumerate(FAULTS)),
        *map(thorough, OF_ALL_FAULTS[:-1]),
        OF_ALL_FAULTS[-1],
    ],
)
def test_a_fault_is_seen(agent: Agent, tmp_path: Path, name: str, fault: str, method: str) -> None:
    record = ran(agent, tmp_path, of(name, f"tests.support.faults:{method}_{fault}"))
    assert record["status"] == "invalid" and record["verification"]["mismatches"] > 0


@pytest.mark.parametrize("fault", ["WritesPadding", "WritesSpareSlot"])
@pytest.mark.parametrize("unchecked", [False, True])
def test_padding_that_is_unchecked_may_be_written(
    agent: Agent, tmp_path: Path, fault: str, unchecked: bool
) -> None:
    side = Degrees(tp=3, etp=1, make_vocab_size_divisible_by=10, expert_slots=6, gpus=3)
    side = replace(side, padding="unchecked" if unchecked else None)
    model = replace(ODD, num_attention_heads=3, num_query_groups=3, ffn_hidden_size=42,
                    moe_shared_expert_intermediate_size=33)  # fmt: skip
    what = pair(fsdp(2), side, f"tests.support.faults:ipc_{fault}", model=model)
    record = ran(agent, tmp_path, what)
    assert record["status"] == ("ok" if unchecked else "invalid"), record["reason"]


@pytest.mark.parametrize("cast_at", ["source", "destination"])
def test_who_casts_decides_what_travels(agent: Agent, tmp_path: Path, cast_at: str) -> None:
    what = of("float32 to bfloat16", "gloo", cast_at=cast_at)
    record = verified(agent, tmp_path, what)
    plan = Setup.of(what).plan()
    item = {"source": 2, "destination": 4}[cast_at]
    expert_bias = sum(f.count * f.elements for f in plan.catalogue.families if f.is_buffer)
    held = sum(
        s.nbytes // 2 for r in place(what).destination.ranks
        for s in plan.catalogue.held_by(place(what).destination, r) if not s.family.is_buffer
    )  # fmt: skip
    ranks = len(place(what).destination.ranks)
    assert record["plan"]["bytes"] == held * item + 4 * expert_bias * ranks


def test_real_models_of_two_dtypes_and_vocabularies(agent: Agent, tmp_path: Path) -> None:
    source = Degrees(tp=2, etp=1, dtype="float32")
    destination = Degrees(tp=2, ep=2, etp=1, gpus=4, make_vocab_size_divisible_by=3)
    what = pair(source, destination, "gloo", build="megatron", model=TINY)
    record = verified(agent, tmp_path, what)
    rows = [record["layout"][side]["vocab_rows"] for side in ("source", "destination")]
    assert rows == [place(what).source.vocab_rows, place(what).destination.vocab_rows]
    assert rows[0] != rows[1]


def test_logits_of_a_models_own_vocabulary(agent: Agent, tmp_path: Path) -> None:
    # rows of no word are of set bits on both sides: no number
    source = Degrees(etp=1, make_vocab_size_divisible_by=32, **UNCHECKED)
    destination = Degrees(tp=2, etp=1, make_vocab_size_divisible_by=3, **UNCHECKED)
    what = pair(source, destination, "ipc", build="megatron", model=TINY, verify="logits")
    assert verified(agent, tmp_path, what)["verification"]["logits"]["ok"]


def test_logits_of_a_tied_model_that_is_served_untied(agent: Agent, tmp_path: Path) -> None:
    destination = Degrees(pp=2, etp=1, share_embeddings_and_output_weights=False)
    what = pair(
        Degrees(tp=2, etp=1), destination, "gloo", build="megatron", model=TIED, verify="logits"
    )
    record = verified(agent, tmp_path, what)
    assert record["verification"]["logits"]["ok"]


def test_fsdp_to_a_real_model(agent: Agent, tmp_path: Path) -> None:
    what = pair(fsdp(2), Degrees(tp=2, etp=1), "ipc", build="megatron", model=TINY)
    record = verified(agent, tmp_path, what)
    assert "the source's parameters are plain shards" in str(record["model_build"]["differs"])
