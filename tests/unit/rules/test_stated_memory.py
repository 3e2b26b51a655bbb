"""A measurement that the stated device memory cannot hold is not begun, as mode=plan says oom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refit.forecast.predict import predict
from refit.job import Cluster, Degrees, Hardware, Job
from refit.rules.impossible import impossible
from refit.rules.setup import Setup
from refit.rules.stated_memory import shortage
from refit.show.display import Display
from sweeper.points import plan_points
from sweeper.sweep import print_plan
from tests.support.composed import composed
from tests.support.jobs import SMALL, job

# SMALL is 1456 bytes in all, of which a rank of TP 1 holds every one
COLLOCATED = job(Degrees(), Degrees(), mode="collocated", model=SMALL)
APART = replace(COLLOCATED.parallel, mode="non-collocated")


def on(what: Job, cluster: Cluster, gigabytes: float | None, device: str = "cuda") -> Job:
    hardware = Hardware(device=device, memory_gb=gigabytes)
    return replace(what, cluster=replace(cluster, hardware=hardware))


SLURM = Cluster(name="far", launcher="slurm", ranks_per_node=4)
HERE = Cluster(name="here", device="cpu", ranks_per_node=4)


def test_both_sides_of_a_rank_count() -> None:
    for needed, what in ((2912, COLLOCATED), (1456, replace(COLLOCATED, parallel=APART))):
        assert impossible(on(what, SLURM, needed * 1e-9)) is None
        said = impossible(on(what, SLURM, (needed - 1) * 1e-9)) or ""
        assert "GB of device memory (source 0.00 + destination 0.00), cluster 'far' has" in said
        assert ("non-collocated mode" in said) is (what is COLLOCATED)
        assert "use more GPUs per layout" in said and "bucket" not in said


@pytest.mark.parametrize(
    ("cluster", "device", "asked"),
    [
        (SLURM, "cuda", True),  # its nodes are elsewhere, and this one's GPUs say nothing
        (HERE, "cpu", True),
        (HERE, "cuda", False),  # rates of a GPU, for mode=plan, and ranks on this machine's CPUs
        (replace(SLURM, device="cpu"), "cuda", False),
    ],
)
def test_it_is_asked_where_the_ranks_run_on_what_is_stated(
    cluster: Cluster, device: str, asked: bool
) -> None:
    assert (impossible(on(COLLOCATED, cluster, 1e-6, device)) is not None) is asked
    assert impossible(on(COLLOCATED, cluster, None, device)) is None
    # a prediction says so itself, with all its numbers
    assert impossible(replace(on(COLLOCATED, cluster, 1e-6, device), mode="plan")) is None


@pytest.mark.parametrize(
    "pair", ["collocated_1_tp4ep2_to_tp2ep4", "noncollocated_3_tp4ep1_to_tp2ep1"]
)
def test_kimi_k2_on_one_node_is_skipped_with_the_predictions_numbers(
    pair: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("model=kimi_k2", f"parallel={pair}", "cluster=h200", "build=shards")
    reason = impossible(composed(*overrides)) or ""
    assert "cluster 'h200' has 141 GB" in reason and "refit.bucket_mb" not in reason
    predicted = predict(Setup.of(composed(*overrides, "mode=plan")))
    worst = int((predicted.source_bytes + predicted.destination_bytes).argmax())
    for side in (predicted.source_bytes, predicted.destination_bytes):
        assert f"{side[worst] / 1e9:.2f}" in reason
    assert predicted.shortage is not None and "refit.bucket_mb" not in predicted.shortage
    plan = plan_points([overrides], lambda o: composed(*o), tmp_path, print)
    (point,) = plan.points
    assert point.skip == reason and not point.is_distant
    print_plan(plan, tmp_path, Display())
    assert f"skip: {reason}" in capsys.readouterr().out.replace("\n", "")


def test_a_bucket_is_named_only_where_a_smaller_one_helps() -> None:
    what = on(COLLOCATED, SLURM, 10e-9)
    of_weights = {"source": np.array([4, 9]), "destination": np.array([4, 0])}
    assert shortage(what, {**of_weights, "staging": np.array([2, 1])}) is None
    few = {**of_weights, "staging": np.array([3, 1])}
    assert (shortage(what, few) or "").endswith("or a smaller refit.bucket_mb")
    many = {**of_weights, "source": np.array([4, 11]), "staging": np.array([3, 1])}
    assert "bucket" not in (shortage(what, many) or "bucket")
    assert shortage(on(COLLOCATED, SLURM, None), many) is None
