"""Every field of a job that is a count, an amount, a rate or a word of a vocabulary is checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from refit.job import Job
from refit.rules.impossible import impossible
from refit.rules.values import CHOICES, MINIMA, SWEEP_MINIMA
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


def test_every_count_has_a_minimum() -> None:
    # degrees are checked where they meet, in a layout
    counts = {name for name in fields_of(int) if not name.startswith("parallel.")} - {"seed"}
    assert counts == set(MINIMA) | set(SWEEP_MINIMA)


@pytest.mark.parametrize("name", [*MINIMA, *SWEEP_MINIMA])
def test_a_count_below_its_minimum_is_refused(name: str) -> None:
    least = {"bench.warmup": 0, "refit.max_ops_per_group": 2}.get(name, 1)
    assert refusal(name, least - 1) == f"{name}={least - 1}: must be {least} or more"
    assert f"{name}={least}: must" not in refusal(name, least)


@pytest.mark.parametrize("name", CHOICES)
def test_a_word_of_no_vocabulary_is_refused(name: str) -> None:
    said = refusal(name, "zzz")
    assert said.startswith(f"{name}=zzz is not one of ") and "did you mean" not in said


def test_every_word_has_a_vocabulary() -> None:
    # a method is looked up, a side's are checked with its layout, the others are names or texts
    free = {"parallel.use_case", "parallel.model", "refit.method", "model.hybrid_override_pattern"}
    for side in ("source", "destination"):
        free |= {f"parallel.{side}.{name}" for name in ("order", "kind", "dtype", "padding")}
    words = {name for name in fields_of(str) if not name.endswith("name")} - free
    assert words == set(CHOICES)


@pytest.mark.parametrize(
    "name",
    [
        "bench.deadline_s",
        "refit.bucket_mb",
        "model.rotary_percent",
        "model.rope_scaling_factor",
        "model.rotary_scaling_factor",
        "model.activation_func_clamp_value",
    ],
)
def test_an_amount_is_more_than_nothing(name: str) -> None:
    for value in (0.0, -1.0, float("nan")):
        assert refusal(name, value) == f"{name}={value}: must be more than 0"
    assert refusal(name, 0.5) == ""


RATES = {name for name in fields_of(float) if name.startswith("cluster.hardware.")}


@pytest.mark.parametrize("name", sorted(RATES - {"cluster.hardware.latency_us"}))
def test_a_rate_is_finite_and_more_than_nothing(name: str) -> None:
    for value in (0.0, -1.0, float("nan"), float("inf")):
        assert refusal(name, value).startswith(f"{name}={value}: must be more than 0")
    assert refusal(name, 1.0) == ""
    assert ("and 1 at most" in refusal(name, 1.01)) is name.endswith("_efficiency")


def test_latency_may_be_nothing() -> None:
    name = "cluster.hardware.latency_us"
    assert refusal(name, 0.0) == refusal(name, 2.5) == ""
    for value in (-0.5, float("nan"), float("inf")):
        assert refusal(name, value) == f"{name}={value}: must be 0 or more"
