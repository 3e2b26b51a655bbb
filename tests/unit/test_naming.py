"""A point is named after what it is, also where overrides have made it another than its row."""

from __future__ import annotations

import shlex

import pytest

from refit import compose, naming
from refit.job import Job
from refit.record.point import identity

ROW = "noncollocated_4_tp2ep1_to_tp1ep1"


def composed(*overrides: str) -> Job:
    with compose.configs():
        return naming.composed(compose.job, overrides)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("", ROW),
        ("parallel.source.tp=2", ROW),  # what it is anyway
        ("model.num_layers=2 refit=gloo", ROW),
        ("parallel.source.tp=4 parallel.destination.tp=4", "tp4ep1_to_tp4ep1"),
        ("parallel.source.ep=2 parallel.destination.ep=2", "tp2ep2_to_tp1ep2"),
        ("parallel.source.pp=2", "tp2pp2ep1_to_tp1ep1"),
        ("parallel.source.cp=2", "tp2cp2ep1_to_tp1ep1"),
        ("parallel.source.etp=2 model=moe_8e", "tp2ep1etp2_to_tp1ep1"),
        ("parallel.source.etp=2 model=dense", ROW),  # of experts alone
        ("parallel.destination.gpus=4", "tp2ep1_to_tp1ep1_4gpus"),
        ("refit.mode=collocated", "tp2ep1_to_tp1ep1_collocated"),
        ("model=dense parallel.source.tp=4", "tp4_to_tp1"),
        ("parallel.source.tp=4 parallel.name=mine", "mine"),
        ("parallel.source.order=tp-cp-ep-pp-dp", "tp2ep1_ordertp-cp-ep-pp-dp_to_tp1ep1"),
        ("parallel.source.sequence_parallel=true", "tp2ep1_sp_to_tp1ep1"),
        ("parallel.destination.offset=4", "tp2ep1_to_tp1ep1_from4"),
        ("parallel.destination.node_aligned=true", "tp2ep1_to_tp1ep1_aligned"),
        ("parallel.destination.padding=unchecked", "tp2ep1_to_tp1ep1_paddingunchecked"),
        (
            "parallel.destination=null 'parallel.destinations=[{tp: 2, gpus: 4}, {ep: 2}]'",
            "tp2ep1_to_tp2ep1_4gpus_and_tp1ep2",
        ),
        (
            "parallel.destination=null 'parallel.destinations=[{tp: 2}, {ep: 2}, {}, {}, {}, {}]'",
            "tp2ep1_to_tp2ep1_and_tp1ep2_and_tp1ep1_and_tp1ep1_and_2_more",
        ),
        (
            "parallel.source.pp=2 parallel.source.pipeline_model_parallel_layout=[3,1]",
            "tp2pp2ep1_layers3-1_to_tp1ep1",
        ),
        (
            "parallel.source.pp=2 'parallel.source.pipeline_model_parallel_layout=\"Et*3|tL\"'",
            "tp2pp2ep1_layersEt-3-tL_to_tp1ep1",
        ),
        (
            "parallel.source.pp=2 parallel.source.virtual_pipeline_model_parallel_size=2"
            " parallel.source.account_for_loss_in_pipeline_split=true",
            "tp2pp2ep1_vpp2_loss_to_tp1ep1",
        ),
    ],
)
def test_name(overrides: str, name: str) -> None:
    job = composed(*shlex.split(overrides))
    assert job.parallel.name == name
    if name not in (ROW, "mine"):
        assert job.parallel.use_case == f"from {ROW}"


def test_a_name_is_no_part_of_the_identity() -> None:
    with compose.configs():
        plain = compose.job(["parallel.source.tp=4"])
    named = composed("parallel.source.tp=4")
    assert plain.parallel.name != named.parallel.name
    assert identity(plain) == identity(named)


def test_the_row_is_composed_once_for_many_points() -> None:
    asked: list[tuple[str, ...]] = []

    def counting(overrides: tuple[str, ...]) -> Job:
        asked.append(overrides)
        return compose.job(overrides)

    with compose.configs():
        naming.composed(counting, ("refit=gloo",))
        assert asked == [("refit=gloo",)]
        naming.composed(counting, ("refit=gloo", "parallel.source.tp=4"))
    assert asked[1:] == [("refit=gloo", "parallel.source.tp=4"), ("refit=gloo",)]
