"""Points that cannot be of one sweep: settings that differ, and jobs that would be one record."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Cluster, Degrees, Job, Sweep
from refit.record.environment import with_variables
from refit.record.point import Point, identity
from refit.record.record import begin, ended, write
from sweeper.agreement import Settings, check_one_job, differing
from sweeper.here import without_effect
from sweeper.points import plan_points
from tests.support.jobs import dense, job

ASKED = Sweep(mode="cached", dry_run=True, wait=False, here=True, pack=3, max_attempts=7)


def with_sweep(**changes: Any) -> Job:
    """A job whose settings of the sweep are `ASKED` with changes."""
    return replace(job(), sweep=replace(ASKED, **changes))


def with_cluster(**changes: Any) -> Job:
    """A job with another cluster of the same name."""
    return replace(job(), cluster=replace(job().cluster, **changes))


def test_settings_are_those_of_the_jobs() -> None:
    settings = Settings.of([with_sweep(), with_sweep(repeat=2, exclude=["x"], repetition=4)])
    assert settings == Settings("cached", True, False, False, True, 3, 7, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mode": "retry"},
            "sweep.mode is of the whole sweep, and its points say cached and re",
        ),
        ({"dry_run": False}, "sweep.dry_run is of the whole sweep, and its points say true and f"),
        ({"wait": True}, "sweep.wait is of the whole sweep, and its points say false and true;"),
        ({"here": False}, "sweep.here is of the whole sweep, and its points say true and false;"),
        ({"pack": 8}, "sweep.pack is of the whole sweep, and its points say 3 and 8;"),
        ({"snapshot": False}, "sweep.snapshot is of the whole sweep, and its points say true and"),
        ({"max_attempts": 1}, "sweep.max_attempts is of the whole sweep, and its points say 7 and"),
    ],
)
def test_settings_that_differ_are_named(changes: dict[str, Any], words: str) -> None:
    jobs = [with_sweep(), with_sweep(), with_sweep(**changes)]
    with pytest.raises(UserError, match=re.escape(words)):
        Settings.of(jobs)
    # whatever else tells the points apart
    other = replace(jobs[-1], seed=1)
    with pytest.raises(UserError, match=re.escape(words)):
        plan_points([["0"], ["1"]], lambda o: [jobs[0], other][int(o[0])], Path("/none"), print)


SLURM = {"partition": "a100", "time": "1:00:00", "additional_parameters": {"no-requeue": True}}
ONE = with_cluster(slurm=SLURM)
# each is one identity with `ONE`
OTHERS: dict[str, tuple[Job, str]] = {
    "partition": (
        with_cluster(slurm={**SLURM, "partition": "h100"}),
        "cluster.slurm.partition (a100 and h100)",
    ),
    "an option that only one has": (
        with_cluster(slurm={**SLURM, "account": "mine"}),
        "cluster.slurm.account (null and mine)",
    ),
    "below additional_parameters": (
        with_cluster(slurm={**SLURM, "additional_parameters": {"no-requeue": False}}),
        "cluster.slurm.additional_parameters.no-requeue (true and false)",
    ),
    "nodes": (with_cluster(slurm=SLURM, nodes=2), "cluster.nodes (1 and 2)"),
    "deadline": (
        replace(ONE, bench=replace(ONE.bench, deadline_s=10.0)),
        "bench.deadline_s (60.0 and 10.0)",
    ),
    "rates": (
        with_cluster(slurm=SLURM, hardware=replace(Cluster().hardware, nic_gbps=50.0)),
        "cluster.hardware.nic_gbps (null and 50.0)",
    ),
    "repeats": (replace(ONE, sweep=Sweep(repeat=2)), "sweep.repeat (1 and 2)"),
    "two fields": (
        replace(with_cluster(slurm=SLURM, nodes=2), sweep=Sweep(exclude=["x*"])),
        "cluster.nodes (1 and 2), sweep.exclude (null and ['x*'])",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_one_identity_of_two_jobs_is_an_error(case: str, tmp_path: Path) -> None:
    other, words = OTHERS[case]
    assert identity(other) == identity(ONE)
    folder = Point.of(ONE, tmp_path).name
    with pytest.raises(UserError) as raised:
        plan_points([["0"], ["1"]], lambda o: [ONE, other][int(o[0])], tmp_path, print)
    text = str(raised.value)
    assert f"differ in {words}, which is no part of a point's identity" in text
    assert f"both would be {folder}, with one record" in text
    assert not list(tmp_path.iterdir())


ON_SLURM = with_cluster(launcher="slurm", slurm=SLURM)
FREE = {"account": "mine", "comment": "a", "mail_type": "END", "time": "2:00:00", "wckey": "w"}


@pytest.mark.parametrize("name", FREE)
def test_what_changes_no_result_on_slurm_is_not_swept(name: str, tmp_path: Path) -> None:
    jobs = [ON_SLURM, with_cluster(launcher="slurm", slurm={**SLURM, name: FREE[name]})]
    words = rf"two points of this sweep differ in cluster\.slurm\.{name} "
    with pytest.raises(UserError, match=words):
        plan_points([["0"], ["1"]], lambda o: jobs[int(o[0])], tmp_path, print)


@pytest.mark.parametrize(
    "changes",
    [
        {"partition": "h100"},
        {"constraint": "a"},
        {"nodelist": "node1"},
        {"qos": "high"},
        {"gres": "gpu:h100:8"},
        {"gpus_per_node": "h100:8"},
        {"mem": "1T"},
        {"setup": ["module load cuda/12"]},
        {"additional_parameters": {"reservation": "mine"}},
    ],
)
def test_what_chooses_nodes_is_swept(changes: dict[str, Any], tmp_path: Path) -> None:
    jobs = [ON_SLURM, with_cluster(launcher="slurm", slurm={**SLURM, **changes})]
    plan = plan_points([["0"], ["1"]], lambda o: jobs[int(o[0])], tmp_path, print)
    assert len({p.point.id for p in plan.points}) == 2


def test_a_record_of_other_nodes_does_not_stand_for_a_point(tmp_path: Path) -> None:
    point = Point.of(ON_SLURM, tmp_path)
    said: list[str] = []

    def kept(partition: str) -> bool:
        point.freeze()
        write(point.timing, ended(begin(point, {"partition": partition}), "ok", ""))
        plan = plan_points([["0"]], lambda _: ON_SLURM, tmp_path, said.append)
        return plan.points[0].kept is not None

    assert kept("a100") and not said
    assert not kept("low")  # moved there, say
    assert said == [
        f"{point.name}: its record is not kept: it ran in partition low, and"
        " cluster.slurm.partition=a100 is asked for"
    ]


def test_a_record_of_other_variables_does_not_stand_for_a_point(tmp_path: Path) -> None:
    said: list[str] = []

    def kept(had: dict[str, str], asked: dict[str, str], job: Job = ONE) -> bool:
        hydra = {"job": {"env_set": asked}} if asked else None
        point = Point.of(job, tmp_path, (), hydra)
        point.freeze()
        write(point.timing, ended(begin(point, with_variables(had)), "ok", ""))
        plan = plan_points([["0"]], lambda _: job, tmp_path, said.append, lambda _: hydra)
        return plan.points[0].kept is not None

    assert kept({}, {}) and kept({"A": "1"}, {"A": "1"}) and not said
    assert (
        not kept({}, {"A": "1"}) and not kept({"A": "1"}, {}) and not kept({"A": "1"}, {"A": "2"})
    )
    assert len(said) == 3 and all("another value of hydra.job.env_set.A" in words for words in said)
    assert kept({"A": "1"}, {}, replace(ONE, mode="plan"))  # nothing ran


def test_what_an_allocation_cannot_do_is_said() -> None:
    job = with_cluster(launcher="slurm", slurm={**SLURM, "qos": "high", "setup": ["module load"]})
    assert (without_effect([job]) or "").endswith("cluster.slurm qos, setup have no effect in it")
    assert without_effect([with_cluster(launcher="slurm", slurm={"partition": "a"})]) is None


def test_names_make_no_other_job(tmp_path: Path) -> None:
    renamed = replace(
        ONE,
        model=replace(ONE.model, name="other"),
        parallel=replace(ONE.parallel, name="other", use_case="other words", model="other"),
        refit=replace(ONE.refit, name="other"),
    )
    assert differing(ONE, renamed) == []
    check_one_job(Point.of(ONE, tmp_path), Point.of(renamed, tmp_path))
    assert differing(ONE, replace(ONE, seed=3)) == ["seed"]


def test_etp_without_experts_makes_no_other_job(tmp_path: Path) -> None:
    bare = replace(ONE, model=dense(ONE.model))

    def sides(job: Job, etp: int | None, listed: bool = False) -> Job:
        side = replace(job.parallel.source, etp=etp)
        pair = replace(job.parallel, source=side, destination=replace(side, etp=etp))
        if listed:
            pair = replace(pair, destination=Degrees(), destinations=[side, side])
        return replace(job, parallel=pair)

    assert differing(sides(bare, None), sides(bare, 2)) == []
    assert differing(sides(bare, None, True), sides(bare, 2, True)) == []
    etps = ["parallel.source.etp", "parallel.destination.etp"]
    assert differing(sides(ONE, None), sides(ONE, 2)) == etps
    said: list[str] = []
    batch = [["parallel.source.etp=null"], ["parallel.source.etp=2"]]
    jobs = {batch[0][0]: sides(bare, None), batch[1][0]: sides(bare, 2)}
    plan = plan_points(batch, lambda overrides: jobs[overrides[0]], tmp_path, said.append)
    assert len(plan.points) == 1 and said == [
        "the same point, runs once: parallel.source.etp=null and parallel.source.etp=2 make one"
        f" job, {plan.points[0].point.name}; ETP has no meaning without experts"
    ]


def test_nothing_asked_for_is_not_no_mapping() -> None:
    nothing, empty = with_cluster(slurm=None), with_cluster(slurm={})
    assert differing(nothing, empty) == differing(empty, nothing) == ["cluster.slurm"]
    assert differing(empty, with_cluster(slurm={"a": 1})) == ["cluster.slurm", "cluster.slurm.a"]


def test_the_same_job_twice_is_one_point(tmp_path: Path) -> None:
    plan = plan_points([["0"], ["1"], ["2"]], lambda _: ONE, tmp_path, print)
    assert [p.point.overrides for p in plan.points] == [("0",)]


def test_of_two_names_the_one_that_can_run_is_run(tmp_path: Path) -> None:
    # the same pair of layouts, once as another model's own: that one is skipped
    foreign = replace(ONE, parallel=replace(ONE.parallel, name="theirs", model="theirs"))
    for jobs in ([foreign, ONE], [ONE, foreign]):
        plan = plan_points([["0"], ["1"]], lambda o, j=jobs: j[int(o[0])], tmp_path, print)  # type: ignore[misc]
        (planned,) = plan.points
        assert planned.skip is None and planned.point.job.parallel.name == "pair"
