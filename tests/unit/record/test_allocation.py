"""What of `cluster.slurm` is part of a point, its name, and of what a record ran on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import Job
from refit.record.allocation import FREE, elsewhere, node_names, ran_on, suffix
from refit.record.point import Point, identity
from tests.support.jobs import job


def on_slurm(**slurm: Any) -> Job:
    """A job of four ranks a node that asks for this."""
    made = job()
    return replace(made, cluster=replace(made.cluster, launcher="slurm", slurm=slurm))


@pytest.mark.parametrize("name", sorted(FREE))
def test_what_cannot_change_a_result_renames_nothing(name: str) -> None:
    plain = identity(on_slurm(partition="main"))
    assert identity(on_slurm(partition="main", **{name: "x"})) == plain
    more = {"additional_parameters": {name.replace("_", "-"): "x"}}
    assert identity(on_slurm(partition="main", **more)) == plain


def test_all_else_makes_another_point() -> None:
    asked: list[dict[str, Any]] = [
        {"gpus_per_node": 4},  # one for each rank, as before
        {},  # none
        {"gpus_per_node": 2},
        {"gpus_per_node": "h100:4"},
        {"gres": "gpu:4"},
        {"partition": "main"},
        {"partition": "low"},
        {"nodelist": "node1"},
        {"exclude": "node1"},
        {"constraint": "h100"},
        {"qos": "high"},
        {"exclusive": True},
        {"setup": ["a"]},
        {"setup": ["b"]},
        {"additional_parameters": {"gpu-freq": "low"}},
        {"python": "apptainer exec a.sif python"},
    ]
    assert len({identity(on_slurm(**each)) for each in asked}) == len(asked)
    # however it is said, and where nothing is
    more = {"additional_parameters": {"qos": "high"}}
    assert identity(on_slurm(**more)) == identity(on_slurm(qos="high"))
    nothing: dict[str, Any] = {
        "qos": None,
        "setup": [],
        "exclusive": False,
        "additional_parameters": None,
    }
    assert identity(on_slurm(**nothing)) == identity(on_slurm())
    assert identity(on_slurm(gpus_per_node="4")) == identity(job())


@pytest.mark.parametrize(
    ("slurm", "name"),
    [
        ({"gpus_per_node": 4, "account": "a", "mem": "4G"}, ""),
        ({}, ""),
        ({"partition": "low"}, "-partition_low"),
        ({"partition": "a,b", "constraint": "h100&ib"}, "-partition_a-b-constraint_h100-ib"),
        ({"gpus_per_node": "h100:4", "nodelist": "a[1-2]"}, "-nodelist_a-1-2-gpus_per_node_h100-4"),
        ({"gpus_per_node": 2, "qos": "high"}, "-qos_high-gpus_per_node_2"),
    ],
)
def test_a_name_says_which_nodes_are_asked_for(
    slurm: dict[str, Any], name: str, tmp_path: Path
) -> None:
    what = on_slurm(**slurm)
    assert suffix(what) == name
    assert Point.of(what, tmp_path).name == f"tiny-pair-ipc{name}-{identity(what)}"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("node1", ["node1"]),
        ("a[1-3],b", ["a1", "a2", "a3", "b"]),
        ("a[08-10,12]-x,b2", ["a08-x", "a09-x", "a10-x", "a12-x", "b2"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("a[b", ["a", "b"]),  # not Slurm's, and no error
    ],
)
def test_a_list_of_nodes_is_read(text: str, names: list[str]) -> None:
    assert node_names(text) == names


MAIN = {"nodes": ["node1", "node2"], "partition": "main"}


@pytest.mark.parametrize(
    ("slurm", "environment", "words"),
    [
        ({}, MAIN, None),
        ({"partition": "main"}, MAIN, None),
        ({"partition": "low,main"}, MAIN, None),
        ({"partition": "low"}, MAIN, "it ran in partition main, and cluster.slurm.partition=low"),
        ({"nodelist": "node[1-2]"}, MAIN, None),
        ({"nodelist": "node[2-3]"}, MAIN, "it ran on node1,node2, and cluster.slurm.nodelist=node"),
        ({"nodelist": "/home/me/nodes"}, MAIN, None),
        ({"exclude": "node2"}, MAIN, "it ran on node1,node2, and cluster.slurm.exclude=node2 is"),
        ({"exclude": "node3"}, MAIN, None),
        ({"partition": "low"}, {"host": "login"}, None),  # nobody can say
        ({"partition": "low"}, {"slurm": {"SLURM_JOB_PARTITION": "main"}}, "it ran in partition m"),
        ({"additional_parameters": {"partition": "low"}}, MAIN, "it ran in partition main, and"),
    ],
)
def test_where_a_record_ran_is_held_against_what_is_asked_for(
    slurm: dict[str, Any], environment: dict[str, Any], words: str | None
) -> None:
    found = elsewhere(on_slurm(**slurm), environment)
    assert found is None if words is None else found and found.startswith(words)
    assert elsewhere(job(), environment) is None  # of this machine


def test_older_records_say_where_they_ran() -> None:
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_PARTITION": "low"}
    assert ran_on({"host": "node1", "slurm": slurm}) == (["node1", "node2"], "low")
    assert ran_on({"host": "here", "slurm": {}}) == (["here"], None)
    assert ran_on({"host": "login", "nodes": [], "partition": None}) == ([], None)
    assert ran_on({}) == ([], None)
