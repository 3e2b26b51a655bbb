"""Every field of a job that is a count, an amount, a rate or a word of a vocabulary is checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from refit.job import Degrees, Job
from refit.rules.bounds import (
    AMOUNTS,
    COUNTS,
    HEADS,
    LAYERS,
    POINTS,
    POSITIONS,
    RANKS,
    SIDE_COUNTS,
    SWEEP_COUNTS,
    TENSORS,
    VOCABULARY,
)
from refit.rules.impossible import impossible
from refit.rules.values import CHOICES, lora_valid, mistake
from tests.support.jobs import make_job


def fields_of(kind: type, within: Any = Job, path: str = "") -> Iterator[str]:
    """Dotted names of a job's fields of a type, optional ones too."""
    for name, hint in get_type_hints(within).items():
        if is_dataclass(hint):
            yield from fields_of(kind, hint, f"{path}{name}.")
        elif hint is kind or kind in get_args(hint):
            yield path + name


def refusal(name: str, value: Any) -> str:
    return impossible(make_job(**{name.replace(".", "__"): value})) or ""


def test_every_number_has_bounds() -> None:
    # of a side the least is checked where degrees meet, in a layout
    counts = {name for name in fields_of(int) if not name.startswith("parallel.")}
    assert counts == set(COUNTS) | set(SWEEP_COUNTS)
    assert set(fields_of(int, Degrees)) == set(SIDE_COUNTS)


@pytest.mark.parametrize("name", [*COUNTS, *SWEEP_COUNTS])
def test_a_count_outside_its_bounds_is_refused(name: str) -> None:
    least = {"bench.warmup": 0, "refit.max_ops_per_group": 2, "seed": -(2**63)}.get(name, 1)
    most = {**COUNTS, **SWEEP_COUNTS}[name][1]
    assert refusal(name, least - 1) == f"{name}={least - 1}: must be {least} or more"
    for beyond in (most + 1, 10**20):
        assert refusal(name, beyond) == f"{name}={beyond}: must be {most} or less"
    for allowed in (least, most):
        assert f"{name}={allowed}: must" not in refusal(name, allowed)


@pytest.mark.parametrize("field", SIDE_COUNTS)
@pytest.mark.parametrize("side", ["source", "destination"])
def test_what_a_side_says_has_a_most(side: str, field: str) -> None:
    name, most = f"parallel.{side}.{field}", SIDE_COUNTS[field]
    for beyond in (most + 1, 10**7, 10**20):
        assert refusal(name, beyond) == f"{name}={beyond}: must be {most} or less"
    # what is the most is spoken of by other rules, within a second
    assert f"must be {most} or less" not in refusal(name, most)


def test_degrees_together_have_a_most() -> None:
    job = make_job(parallel__source={"tp": 4096, "pp": 4096, "ep": 2})
    assert "tp*cp*pp*ep = 4096*1*4096*2 = 33554432 ranks, and a side has 262144" in (
        impossible(job) or ""
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"model__num_layers": 10_000, "model__num_moe_experts": 1000},
            "are 10000000 experts, and 262144 at most can be planned",
        ),
        (
            {f"model__{name}": 2**22 for name in ("hidden_size", "ffn_hidden_size")}
            | {"model__num_layers": 999},
            "weights (layers * experts * hidden size * the widest layer), and 7.2e+16 at most",
        ),
        (
            # the widest layer is that of all heads, 2**24 rows
            {"model__num_attention_heads": 2**12, "model__kv_channels": 2**12}
            | {"model__hidden_size": 2**20, "model__num_layers": 999},
            "weights (layers * experts * hidden size * the widest layer), and 7.2e+16 at most",
        ),
        (
            {"model__make_vocab_size_divisible_by": 2**21, "parallel__source__tp": 16},
            "make_vocab_size_divisible_by * tp = 2097152 * 16 pads the vocabulary to 33554432 rows",
        ),
    ],
    ids=("experts", "weights", "heads", "vocabulary"),
)
def test_what_is_too_large_together_is_of_a_point(changes: dict[str, Any], says: str) -> None:
    job = make_job(**changes)
    assert says in (impossible(job) or "")
    assert mistake(job) is None  # another point of the sweep may have other sizes


@pytest.mark.parametrize("name", CHOICES)
def test_a_word_of_no_vocabulary_is_refused(name: str) -> None:
    said = refusal(name, "zzz")
    assert said.startswith(f"{name}=zzz is not one of ") and "did you mean" not in said


def test_every_word_has_a_vocabulary() -> None:
    # a method is looked up, a side's are checked with its layout, the others are names or texts
    free = {"parallel.use_case", "parallel.model", "model.pairs_of", "refit.method"}
    free.add("model.hybrid_override_pattern")
    for side in ("source", "destination"):
        free |= {f"parallel.{side}.{name}" for name in ("order", "kind", "dtype", "padding")}
    words = {name for name in fields_of(str) if not name.endswith("name")} - free
    assert words == set(CHOICES)


@pytest.mark.parametrize("name", AMOUNTS)
def test_an_amount_is_more_than_nothing_and_has_a_most(name: str) -> None:
    for value in (0.0, -1.0, float("nan")):
        assert refusal(name, value) == f"{name}={value}: must be more than 0"
    for value in (float("inf"), 1e300):
        assert refusal(name, value) == f"{name}={value}: must be {AMOUNTS[name]:g} or less"
    assert refusal(name, 0.5) == ""


OTHERS = {name for name in fields_of(float) if not name.startswith("cluster.hardware.")}


@pytest.mark.parametrize("name", sorted(OTHERS - set(AMOUNTS)))
def test_a_number_is_finite(name: str) -> None:
    for value in (float("nan"), float("inf"), -1e300):
        assert refusal(name, value) == f"{name}={value}: must be a number from -1e+12 to 1e+12"
    for value in (-1e12, 1e12):
        assert "must be a number" not in refusal(name, value)


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("model.moe_aux_loss_coeff", float("nan"), ""),
        ("model.moe_aux_loss_coeff", [0.1, float("inf")], "[1]"),
        ("model.window_size", [10**20, 0], "[0]"),
        ("model.moe_layer_freq", 10**20, ""),
        ("model.lora", {"rank": 10**20, "targets": ["linear_qkv"]}, ".rank"),
    ],
)
def test_a_number_within_a_list_or_a_mapping_is_finite(name: str, value: Any, where: str) -> None:
    assert refusal(name, value).startswith(f"{name}{where}=")
    assert refusal(name, value).endswith(": must be a number from -1e+12 to 1e+12")


RATES = {name for name in fields_of(float) if name.startswith("cluster.hardware.")}


@pytest.mark.parametrize("name", sorted(RATES - {"cluster.hardware.latency_us"}))
def test_a_rate_is_finite_and_more_than_nothing(name: str) -> None:
    for value in (0.0, -1.0, float("nan"), float("inf")):
        assert refusal(name, value).startswith(f"{name}={value}: must be more than 0")
    assert refusal(name, 1.0) == ""
    assert ("and 1 at most" in refusal(name, 1.01)) is name.endswith("_efficiency")


@pytest.mark.parametrize(
    ("build", "mode", "refused"),
    [("megatron", "measure", True), ("megatron", "plan", False), ("shards", "measure", False)],
)
def test_adapters_are_measured_as_shards(build: str, mode: str, refused: bool) -> None:
    lora = {"rank": 8, "targets": ["linear_fc2"]}
    said = lora_valid(make_job(build=build, mode=mode, model__lora=lora))
    assert ("use build=shards" in (said or "")) is refused


def test_latency_may_be_nothing() -> None:
    name = "cluster.hardware.latency_us"
    assert refusal(name, 0.0) == refusal(name, 2.5) == ""
    for value in (-0.5, float("nan"), float("inf")):
        assert refusal(name, value) == f"{name}={value}: must be 0 or more"


def test_the_page_says_the_bounds() -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    bounds_of = (*(RANKS, LAYERS, TENSORS, VOCABULARY, HEADS, POSITIONS, POINTS), 4096, 1_000_000)
    table = page[page.index("| of | at most |") :]
    assert {f"{number:,}" for number in bounds_of} <= set(re.findall(r"[\d,]*\d", table))
