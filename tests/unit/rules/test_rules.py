"""Each rule fires with its numbers, and only then; the reference documents' examples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Job
from refit.layout.place import place
from refit.rules.divides import _indivisible, latent_ranks_divide
from refit.rules.impossible import impossible, reasons
from refit.rules.layout import FIRST, LAYOUT
from refit.rules.model import MODEL, fused_permute_installed
from refit.rules.stated_memory import weights_fit
from refit.rules.values import VALUES, mistake
from tests.support.composed import composed
from tests.support.jobs import make_job
from tests.unit.rules.cases import BAD, BIASED, DENSE, GOOD, NO_SHARED

Rule = Callable[..., Any]


def alone(rule: Rule, job: Job) -> str:
    """What one rule says; `place` is no rule, and refuses as one does."""
    try:
        found = rule(job, place(job)) if rule in (*LAYOUT, weights_fit) else rule(job)
    except UserError as error:
        return str(error)
    return found if isinstance(found, str) else ""


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether Transformer Engine is installed; not, where a test does not say."""
    there: bool = getattr(request, "param", False)
    monkeypatch.setattr("refit.model.convention.has_transformer_engine", lambda: there)
    monkeypatch.setattr("refit.rules.model.has_transformer_engine", lambda: there)
    monkeypatch.setattr("refit.rules.model.find_spec", lambda _: object() if there else None)
    return there


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("rule", "changes", "text"),
    [(rule, *case) for rule, cases in BAD.items() for case in cases],
    ids=[f"{rule.__name__}: {text[:40]}" for rule, cases in BAD.items() for _, text in cases],
)
def test_fires(rule: Rule, changes: dict[str, Any], text: str) -> None:
    job = make_job(**changes)
    reason = alone(rule, job)
    assert text in reason
    found = reasons(job)
    assert reason in found
    assert impossible(job) == found[0]
    # of points that differ in their seeds a sweep asks once
    assert reasons(replace(job, seed=12345)) == found


def test_every_rule_has_a_case() -> None:
    assert set(BAD) == {*VALUES, *FIRST, *MODEL, place, *LAYOUT, weights_fit}
    assert all(BAD.values())


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_lets_pass(changes: dict[str, Any]) -> None:
    assert reasons(make_job(**changes)) == []


MISTAKEN: list[tuple[dict[str, Any], str]] = [
    ({"build": "megatorn"}, "build=megatorn is not one of megatron, shards"),
    ({"refit__method": "glo"}, "no refit method 'glo'"),
    ({"sweep__mode": "again"}, "sweep.mode=again is not one of"),
    ({"sweep__pack": 0}, "sweep.pack=0: must be 1 or more"),
    ({"sweep__repeat": 0}, "sweep.repeat=0: must be 1 or more"),
    ({"sweep__repetition": 0}, "sweep.repetition=0: must be 1 or more"),
    ({"sweep__max_attempts": 0}, "sweep.max_attempts=0: must be 1 or more"),
    ({"sweep__exclude": "*gloo*"}, "sweep.exclude=*gloo* is not a list of patterns"),
    ({"model__vocab_size": 0}, "model.vocab_size=0: must be 1 or more"),
    ({"bench__iterations": -1}, "bench.iterations=-1: must be 1 or more"),
    ({"refit__bucket_mb": float("nan")}, "refit.bucket_mb=nan: must be more than 0"),
    ({"parallel__destination__tp": 0}, "parallel.destination: tp=0: a parallel degree must be 1"),
]


@pytest.mark.parametrize(("changes", "says"), MISTAKEN, ids=str)
def test_a_mistake_of_the_command_line_is_no_point(changes: dict[str, Any], says: str) -> None:
    # also of a job that has other reasons, which are a point's
    for more in ({}, {"model__num_attention_heads": 7}, {"parallel__source": {"tp": 64}}):
        reason = mistake(make_job(**{**more, **changes}))
        assert reason is not None and says in reason


def test_what_a_point_cannot_be_is_no_mistake() -> None:
    for changes in (
        {},
        {"model__num_attention_heads": 7},
        {"parallel__source": {"tp": 64}},
        {"refit__method": "nomod:Cls"},
    ):
        assert mistake(make_job(**changes)) is None


# reference documents, expert tensor parallelism ---------------------------------------------

NO_ETP = {"parallel__source__etp": None, "parallel__destination__etp": None}
TP1 = {"parallel__source__tp": 1, "parallel__destination__tp": 1}
ASSERTION = "Bias in Moe is only supported when ETP==1"
# "This Fails": TP=2, EP=2, 16 experts, no ETP, no --disable-bias-linear
FAILS = {**BIASED, **NO_ETP}


def test_documented_failing_example() -> None:
    assert impossible(make_job(**FAILS)) == (
        f"{ASSERTION}: parallel.source.etp=2, by default tp=2, with"
        " model.add_bias_linear=true; set parallel.source.etp=1 (experts stay whole), or"
        " model.add_bias_linear=false"
    )


def test_documented_failing_example_on_the_shipped_model() -> None:
    of_pair = ("parallel.source.etp=null", "parallel.destination.etp=null")
    fails = ("parallel.source.tp=2", "parallel.source.ep=2", "model.add_bias_linear=true")
    assert (impossible(composed("model=moe_16e", *fails, *of_pair)) or "").startswith(
        f"{ASSERTION}: parallel.source.etp=2, by default tp=2, with"
    )


def test_etp_of_a_dense_model_says_nothing() -> None:
    placement = place(make_job(**DENSE, parallel__source__etp=2, parallel__destination__etp=8))
    assert [side.etp for side in placement.sides.values()] == [1, 1]
    assert "etp=0" in (impossible(make_job(**DENSE, parallel__source__etp=0)) or "")


def test_documented_working_example() -> None:
    # "This Works": TP=2, EP=2, ETP=1, 16 experts, bias disabled
    assert impossible(make_job(parallel__source__etp=1, model__add_bias_linear=False)) is None


def test_documented_alternative_without_moe() -> None:
    assert impossible(make_job(**DENSE, **NO_ETP, model__add_bias_linear=True)) is None


@pytest.mark.parametrize(
    ("scenario", "changes", "possible"),
    [
        ("MoE, TP > 1, no flags", FAILS, False),
        ("MoE, TP > 1, both flags", {}, True),
        ("MoE, TP > 1, ETP=1 alone", BIASED, True),
        ("MoE, TP > 1, bias disabled alone", {**NO_SHARED, **NO_ETP}, True),
        ("MoE, TP = 1, no flags", {**BIASED, **NO_ETP, **TP1}, True),
        ("no MoE, no flags", {**DENSE, **NO_ETP, "model__add_bias_linear": True}, True),
        ("Kimi K2: 384 experts, both flags", {"model__num_moe_experts": 384}, True),
        ("Kimi K2, no flags", {**FAILS, "model__num_moe_experts": 384}, False),
    ],
)
def test_documented_quick_reference(scenario: str, changes: dict[str, Any], possible: bool) -> None:
    reason = impossible(make_job(**changes))
    assert (reason is None) is possible, (scenario, reason)
    assert reason is None or ASSERTION in reason


@pytest.mark.parametrize("source_etp", [None, 1, 2])
@pytest.mark.parametrize("destination_etp", [None, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_documented_verification_formula(
    source_etp: int | None, destination_etp: int | None, bias: bool
) -> None:
    """`ETP == 1 OR bias_disabled`, on both sides; ETP defaults to TP, at the destination to the
    source's ETP."""
    training = 2 if source_etp is None else source_etp
    inference = training if destination_etp is None else destination_etp
    works = not bias or (training == 1 and inference == 1)
    reason = impossible(
        make_job(
            **NO_SHARED,
            model__add_bias_linear=bias,
            parallel__source__etp=source_etp,
            parallel__destination__etp=destination_etp,
        )
    )
    assert (reason is None) is works
    if reason and training == 1:
        assert "parallel.destination.etp=2" in reason


# reference documents, GPUs needed -----------------------------------------------------------

TP8_TO_TP4 = {
    "parallel__source__tp": 8,
    "parallel__source__ep": 1,
    "parallel__destination__tp": 4,
    "parallel__destination__ep": 1,
}


def test_documented_pitfall() -> None:
    assert impossible(make_job(**TP8_TO_TP4)) == (
        "needs 12 GPUs (source 8 + destination 4), cluster 'local' has 8;"
        " use collocated mode (needs 8) or smaller degrees or a larger cluster"
    )


def test_documented_pitfall_ways_out() -> None:
    fixed = {**TP8_TO_TP4, "parallel__source__tp": 4, "parallel__destination__tp": 2}
    assert impossible(make_job(**fixed)) is None
    assert impossible(make_job(**TP8_TO_TP4, refit__mode="collocated")) is None
    assert impossible(make_job(**TP8_TO_TP4, cluster__nodes=2)) is None


def test_too_many_gpus_where_collocated_is_no_way_out() -> None:
    changes = {"parallel__source__tp": 8, "parallel__source__ep": 2}
    assert impossible(make_job(**changes)) == (
        "needs 18 GPUs (source 16 + destination 2), cluster 'local' has 8;"
        " use smaller degrees or a larger cluster"
    )
    assert impossible(make_job(**changes, refit__mode="collocated")) == (
        "needs 16 GPUs (max(source 16, destination 2)), cluster 'local' has 8;"
        " use smaller degrees or a larger cluster"
    )


# what depends on the installation -----------------------------------------------------------


@pytest.mark.parametrize("engine", [True], indirect=True)
def test_transformer_engine_lifts_two_rules_and_adds_one(engine: bool) -> None:
    assert engine
    for changes, _ in BAD[latent_ranks_divide] + BAD[fused_permute_installed]:
        assert impossible(make_job(**changes)) is None
    assert "use verify=bits, which is the stronger check" in (
        impossible(make_job(verify="logits")) or ""
    )
    assert impossible(make_job()) is None


@pytest.mark.usefixtures("engine")
def test_what_no_model_is_built_for_needs_no_engine() -> None:
    for changes, _ in BAD[latent_ranks_divide] + BAD[fused_permute_installed]:
        assert impossible(make_job(**changes, build="shards")) is None


@pytest.mark.parametrize(("size", "parts", "fits"), [(12, 5, 4), (7, 6, 1), (6, 9, 6), (9, 4, 3)])
def test_a_degree_that_divides_is_named(size: int, parts: int, fits: int) -> None:
    said = _indivisible("heads", size, "tp", parts)
    words = f"heads={size} does not divide by tp={parts}"
    assert said == f"{words}; the next below that does: {fits}"


def test_several_reasons_are_all_told() -> None:
    found = reasons(make_job(**TP8_TO_TP4, model__moe_router_topk=1))
    assert len(found) == 2
    assert found[0].startswith("model.moe_router_topk=1") and found[1].startswith("needs 12 GPUs")


def test_rules_do_not_import_torch() -> None:
    code = (
        "import sys; from tests.support.jobs import make_job;"
        "from refit.rules.impossible import impossible;"
        "impossible(make_job()); print('torch' in sys.modules or 'megatron' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
