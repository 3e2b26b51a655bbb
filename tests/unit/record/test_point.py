"""A point's folder, the names in it, and what its identity is of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Cluster, Degrees, Hardware, Job
from refit.model_config import Model
from refit.record.point import Point, identity, read_json, write_atomic
from tests.support.jobs import TINY, dense, job

PLANNED = replace(job(), mode="plan")
PEER = job(method="megatron", build="megatron")


def with_part(what: Job, part: str, **changes: Any) -> Job:
    changed: Job = replace(what, **{part: replace(getattr(what, part), **changes)})
    return changed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (job(), with_part(job(), "model", name="x")),
        (job(), with_part(job(), "model", published_parameters=7)),
        (job(), with_part(job(), "parallel", name="x", use_case="y", model="z", nodes=1)),
        (job(), with_part(job(), "refit", name="x")),
        (job(), with_part(job(), "refit", peer_names="installed")),
        (job(), with_part(job(), "bench", deadline_s=1.0)),
        (job(), with_part(job(), "sweep", mode="force", pack=4, repeat=3, repetition=1)),
        # what a GPU for each of four ranks asks for goes without saying, as does all here
        (job(), with_part(job(), "cluster", launcher="slurm", nodes=9, slurm={"gpus_per_node": 4})),
        (job(), with_part(job(), "cluster", slurm={"partition": "low", "constraint": "a"})),
        (PLANNED, with_part(PLANNED, "cluster", launcher="slurm", slurm={"partition": "low"})),
        (job(), with_part(job(), "cluster", hardware=Hardware(nic_gbps=1.0))),
        (PLANNED, with_part(PLANNED, "sweep", mode="force")),
        (PLANNED, with_part(PLANNED, "cluster", env={"CUDA_DEVICE_MAX_CONNECTIONS": 1})),
    ],
)
def test_what_changes_no_result_is_no_part_of_the_identity(one: Job, other: Job) -> None:
    assert one != other and identity(one) == identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (job(), job(seed=1)),
        (job(), job(verify="logits")),
        (job(), job(build="megatron")),
        (job(), PLANNED),
        (job(), with_part(job(), "model", num_layers=3)),
        (job(), with_part(job(), "model", post_layernorm=True)),
        (job(), with_part(job(), "model", add_norm_bias=False)),
        (job(), with_part(job(), "model", linear_num_key_heads=8)),
        (job(), with_part(job(), "parallel", mode="collocated")),
        (job(), with_part(job(), "parallel", source=job().parallel.destination)),
        (job(), with_part(job(), "refit", method="gloo")),
        (job(), with_part(job(), "refit", mode="collocated")),
        (job(), with_part(job(), "bench", iterations=9)),
        (job(), with_part(job(), "bench", warmup=9)),
        (job(), with_part(job(), "sweep", repetition=2)),
        (job(), with_part(job(), "cluster", name="x")),
        (job(), with_part(job(), "cluster", ranks_per_node=8)),
        (job(), with_part(job(), "cluster", device="auto")),
        (job(), with_part(job(), "cluster", env={"CUDA_DEVICE_MAX_CONNECTIONS": 1})),
        (PEER, with_part(PEER, "refit", peer_names="installed")),
        (PLANNED, with_part(PLANNED, "cluster", hardware=Hardware(nic_gbps=1.0))),
    ],
)
def test_what_changes_a_result_is_part_of_the_identity(one: Job, other: Job) -> None:
    assert identity(one) != identity(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order", "tp-cp-ep-pp-dp"),
        ("sequence_parallel", False),
        ("offset", 4),
        ("node_aligned", True),
        ("pipeline_model_parallel_layout", [1, 1]),
        ("virtual_pipeline_model_parallel_size", 2),
        ("account_for_embedding_in_pipeline_split", True),
        ("account_for_loss_in_pipeline_split", True),
    ],
)
def test_what_is_said_of_a_side_is_part_of_the_identity(name: str, value: Any) -> None:
    pair = job().parallel
    found = {identity(job())}
    for side in ("source", "destination"):
        changed = replace(getattr(pair, side), **{name: value})
        found.add(identity(with_part(job(), "parallel", **{side: changed})))
    assert len(found) == 3
    # as null it is none: see the test below


def test_the_list_of_destinations_and_its_order_are_part_of_the_identity() -> None:
    pools = [Degrees(tp=2), Degrees(ep=2), Degrees(tp=2, gpus=4)]
    ordered = replace(pools[0], order="tp-cp-ep-pp-dp")
    lists = [
        pools[:1],
        pools[:2],
        pools[1::-1],
        [pools[0], pools[2]],
        pools[:1] * 2,
        [ordered, pools[1]],
    ]
    found = {identity(job(destinations=each)) for each in lists}
    assert len(found | {identity(job(destination=Degrees()))}) == 1 + len(lists)


def test_an_identity_is_as_it_was() -> None:
    # another one is another folder: all that was measured before would be run again
    assert (identity(job()), identity(PLANNED)) == ("1fa9946bce", "c854b07895")
    assert identity(job(destinations=[Degrees(tp=2), Degrees(ep=2)])) == "d3d2202d50"


def test_etp_of_a_model_without_experts_is_no_part_of_the_identity() -> None:
    def of(model: Model, etp: int | None) -> str:
        return identity(job(Degrees(tp=2, etp=etp), model=model))

    assert of(dense(TINY), 2) == of(dense(TINY), 8) == of(dense(TINY), None)
    assert of(TINY, 2) != of(TINY, None)
    # as it was: what has been measured stays measured
    assert of(dense(TINY), 1) != of(dense(TINY), None)


def test_a_folder_is_named_after_what_it_holds(tmp_path: Path) -> None:
    names = {
        "tiny-pair-ipc": job(),
        "tiny-pair-gloo": job(method="gloo"),
        "tiny-pair-ipc-r2": with_part(job(), "sweep", repetition=2),
        "tiny-pair-ipc-plan-h9": with_part(PLANNED, "cluster", name="h9"),
        "tiny-pair-ipc-plan-local-r3": with_part(PLANNED, "sweep", repetition=3),
    }
    for name, what in names.items():
        point = Point.of(what, tmp_path)
        assert point.directory == tmp_path / f"{name}-{identity(what)}"
        assert (point.name, point.id) == (point.directory.name, identity(what))


def test_a_frozen_point_is_the_point_again(tmp_path: Path) -> None:
    point = Point.of(job(), tmp_path, ("seed=0", "refit=ipc"))
    with pytest.raises(UserError, match=rf"{point.directory} holds no point"):
        Point.load(point.directory)
    point.freeze()
    assert Point.load(point.directory) == point
    assert '\n  "config": {\n' in point.frozen.read_text()  # for people to read, too
    assert point.frozen == point.directory / "point.json"
    assert point.timing == point.directory / "timing.json"


@pytest.mark.parametrize("overrides", ["seed=0", ["seed=0", 1], None, {"seed": "0"}])
def test_what_is_no_list_of_overrides_is_no_point(tmp_path: Path, overrides: Any) -> None:
    point = Point.of(job(), tmp_path)
    point.freeze()
    values = json.loads(point.frozen.read_text())
    point.frozen.write_text(json.dumps({**values, "overrides": overrides}))
    with pytest.raises(UserError, match=r"holds no point: no whole point\.json"):
        Point.load(point.directory)


def test_attempts_are_numbered_and_stay(tmp_path: Path) -> None:
    point = Point.of(job(), tmp_path)
    attempts = point.directory / "attempts"
    assert [point.attempt().directory for _ in range(3)] == [attempts / str(n) for n in range(3)]
    # what several nodes agree on is theirs to say, again as well
    for name in ("0.1", "7", "7"):
        assert point.attempt(name).directory == attempts / name
    last = point.attempt()
    assert last.directory == attempts / "8"
    assert last.timing == attempts / "8" / "timing.json"
    assert last.rank_log(3).name == "rank3.log" and last.rank_report(3).name == "rank3.json"
    assert last.agent_log(1).name == "agent1.log"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    point = Point.of(job(), tmp_path / "file")
    for make in (point.freeze, point.attempt):
        with pytest.raises(UserError, match=f"cannot write results to {point.directory}: Not a di"):
            make()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two"
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "three\ud800")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]


def test_only_a_whole_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert read_json(path) is None
    for text in ("", "{", "[1]", "1"):
        path.write_text(text)
        assert read_json(path) is None
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_a_job_is_what_it_was_on_disk() -> None:
    what = replace(job(), model=TINY, cluster=Cluster("c", slurm={"time": "1:00"}))
    assert Job.from_dict(json.loads(json.dumps(what.to_dict()))) == what
