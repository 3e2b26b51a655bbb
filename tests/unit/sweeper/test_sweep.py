"""The plan of a sweep: repeats, exclusions, settings; the jobs are made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Job
from refit.record.point import Point, identity
from refit.record.record import Record, begin, ended, write
from refit.show.display import Display
from sweeper import here
from sweeper.decisions import outcome
from sweeper.points import Planned, plan_points
from sweeper.status import Standing
from sweeper.summary import print_summary
from sweeper.sweep import print_plan, run_points, run_sweep
from tests.support.jobs import job


def composed(overrides: Sequence[str], **sweep: Any) -> Job:
    """`tests.support.jobs.job` with what `seed=` and `refit=` say."""
    said = dict(o.split("=", 1) for o in overrides)
    made = job(method=said.get("refit", "ipc"), seed=int(said.get("seed", 0)))
    return replace(made, sweep=replace(made.sweep, **sweep))


def planned(
    batch: Sequence[Sequence[str]], root: Path, **sweep: Any
) -> tuple[tuple[Planned, ...], list[str]]:
    """The points of the plan, and what was said meanwhile."""
    said: list[str] = []
    plan = plan_points(batch, lambda o: composed(o, **sweep), root, said.append)
    return plan.points, said


def names(found: Sequence[Planned]) -> list[str]:
    return [p.point.name.rsplit("-", 1)[0] for p in found]


def test_each_point_is_composed_once(tmp_path: Path) -> None:
    calls: list[Sequence[str]] = []

    def compose(overrides: Sequence[str]) -> Job:
        calls.append(overrides)
        return composed(overrides, repeat=2)

    batch = [[f"seed={n}"] for n in (0, 1, 2, 1)]
    said: list[str] = []
    plan = plan_points(batch, compose, tmp_path, said.append)
    assert calls == batch and said == ["asked for twice, runs once: seed=1"]
    assert len(plan.points) == 3 * 2  # seed 1 came twice


def test_repeats_are_points_of_their_own(tmp_path: Path) -> None:
    (single,), _ = planned([["seed=5"]], tmp_path)
    found, _ = planned([["seed=5"]], tmp_path, repeat=3)
    assert names(found) == ["tiny-pair-ipc", "tiny-pair-ipc-r2", "tiny-pair-ipc-r3"]
    assert len({p.point.id for p in found}) == 3
    # the first is the point that a sweep without repeats makes, so more repeats keep what is done
    assert found[0].point.directory == single.point.directory
    assert [p.point.job.sweep.repetition for p in found] == [1, 2, 3]
    assert found[2].point.overrides == ("seed=5", "sweep.repeat=1", "sweep.repetition=3")
    again, _ = planned([["seed=5"]], tmp_path, repetition=3)
    assert again[0].point.directory == found[2].point.directory


def test_repetitions_run_in_turn(tmp_path: Path) -> None:
    """A B A B: what a machine does slowly, it does to both."""

    def order(**sweep: Any) -> list[str]:
        found, said = planned([["refit=ipc"], ["refit=gloo"]], tmp_path, repeat=3, **sweep)
        assert said == []
        return [name.removeprefix("tiny-pair-") for name in names(found)]

    assert order() == ["ipc", "ipc-r2", "ipc-r3", "gloo", "gloo-r2", "gloo-r3"]
    in_turn = ["ipc", "gloo", "ipc-r2", "gloo-r2", "ipc-r3", "gloo-r3"]
    assert order(interleave=True) == in_turn
    found, _ = planned([[]], tmp_path, repeat=2, interleave=True)
    assert found[1].point.overrides[-1] == "sweep.interleave=false"  # to run that one alone
    with pytest.raises(UserError, match=r"says there are none; add sweep\.repeat=3"):
        planned([[]], tmp_path, interleave=True)
    said: list[str] = []
    slurm = replace(job().cluster, launcher="slurm")

    def compose(overrides: Sequence[str]) -> Job:
        return replace(composed(overrides, repeat=2, interleave=True), cluster=slurm)

    plan_points([["seed=1"]], compose, tmp_path, said.append)
    assert [line for line in said if "Slurm's to decide" in line] == said != []


def test_a_repeat_survives_freezing(tmp_path: Path) -> None:
    found, _ = planned([[]], tmp_path, repeat=2)
    found[1].point.freeze()
    loaded = Point.load(found[1].point.directory)
    assert loaded.id == found[1].point.id and loaded.name.endswith(loaded.id)


def test_sweep_settings_are_no_part_of_the_identity() -> None:
    plain = identity(composed([]))
    for setting in ({"repeat": 4}, {"exclude": ["x*"]}, {"pack": 3}, {"repetition": 1}):
        assert identity(composed([], **setting)) == plain
    assert identity(composed([], repetition=2)) != plain


def test_excluded_points_are_dropped_and_counted(tmp_path: Path) -> None:
    batch = [[f"refit={r}", f"seed={n}"] for r in ("ipc", "gloo") for n in (0, 1)]
    found, said = planned(batch, tmp_path, exclude=["*-gloo-*"])
    assert names(found) == ["tiny-pair-ipc"] * 2
    assert said == ["sweep.exclude leaves out 2 of 4 points"]
    (last, *_), _ = planned(batch, tmp_path)
    found, said = planned(batch, tmp_path, exclude=[last.point.name])  # as its folder is called
    assert len(found) == 3 and last.point.name not in [p.point.name for p in found]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"exclude": ["*ipc*", "*nccl*"]}, r"no point matches \*nccl\*; there are tiny-pair-ipc-"),
        ({"exclude": ["*"]}, "it leaves out all points; there are tiny-pair-ipc-"),
        ({"exclude": "*ipc*"}, r"sweep\.exclude=\*ipc\* is not a list of patterns"),
        ({"repeat": 0}, r"sweep\.repeat=0: must be 1 or more"),
        ({"mode": "again"}, r"sweep\.mode=again is not one of"),
    ],
)
def test_a_wrong_setting_runs_nothing(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        planned([["refit=ipc"], ["refit=gloo"]], tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_a_misspelt_word_runs_nothing(tmp_path: Path) -> None:
    for batch in ([["refit=ipc"], ["refit=glo"]], [["refit=glo"]]):
        with pytest.raises(UserError, match=r"no refit method 'glo'; .*did you mean gloo"):
            planned(batch, tmp_path)
    with pytest.raises(UserError, match="build=megtron is not one of megatron, shards; did you"):
        plan_points([[]], lambda _: replace(composed([]), build="megtron"), tmp_path, print)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_becomes_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compose(overrides: Sequence[str]) -> Job:
        made = composed(overrides, mode="cached")
        return replace(made, cluster=replace(made.cluster, ranks_per_node=2 + made.seed))

    kept = Point.of(compose(["seed=0"]), tmp_path)  # three ranks do not fit on a node of two
    kept.freeze()
    write(kept.timing, ended(begin(kept, {}), "skipped", "too large"))
    plan = plan_points([["seed=0"], ["seed=1"]], compose, tmp_path, print)
    print_plan(plan, tmp_path, Display())
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[0] == kept.name and first.endswith("keep: skipped")
    assert second.endswith("3 of 3 ranks, 1 node(s)  local  run")


def test_many_names_are_cut_short(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"and 5 more$"):
        planned([[f"seed={n}"] for n in range(15)], tmp_path, exclude=["zzz"])


def test_read_only_needs_a_record_of_every_point(tmp_path: Path) -> None:
    batch = [["seed=0"], ["seed=1"]]
    found, _ = planned(batch, tmp_path)
    with pytest.raises(UserError, match=r"^sweep\.mode=read-only, and 2 of 2 points have no"):
        planned(batch, tmp_path, mode="read-only")
    for planned_point, how in zip(found, ("ok", "crashed"), strict=True):
        leave(planned_point.point, how)
    kept, _ = planned(batch, tmp_path, mode="read-only")
    assert [p.kept and p.kept.status for p in kept] == ["ok", "crashed"]


def leave(point: Point, how: Any) -> None:
    """Leave a record of a point that ended so."""
    point.freeze()
    write(point.timing, ended(begin(point, {}), how, f"it is {how}"))


def test_what_is_left_to_slurm(tmp_path: Path) -> None:
    here = job()
    there = replace(here, cluster=replace(here.cluster, launcher="slurm"))
    point = Point.of(there, tmp_path)
    assert Planned(point).is_distant
    assert not Planned(Point.of(here, tmp_path)).is_distant
    assert not Planned(Point.of(replace(there, mode="plan"), tmp_path)).is_distant
    assert not Planned(point, skip="too large").is_distant
    assert not Planned(point, kept=ended(begin(point, {}), "ok", "")).is_distant


def test_read_only_names_three(tmp_path: Path) -> None:
    def refused(count: int) -> str:
        with pytest.raises(UserError) as raised:
            planned([[f"seed={n}"] for n in range(count)], tmp_path, mode="read-only")
        return str(raised.value)

    assert refused(3).count("tiny-pair") == refused(4).count("tiny-pair") == 3
    assert ", ..." not in refused(3) and ", ...; run them" in refused(4)


@pytest.mark.parametrize(
    ("mode", "kept"),
    [("retry", ["ok", None]), ("cached", ["ok", "failed"]), ("force", [None, None])],
)
def test_a_mode_keeps_what_it_says(mode: str, kept: list[str | None], tmp_path: Path) -> None:
    batch = [["seed=0"], ["seed=1"], ["seed=2"]]
    for one, how in zip(planned(batch, tmp_path)[0], ("ok", "failed"), strict=False):
        leave(one.point, how)
    found, _ = planned(batch, tmp_path, mode=mode)
    assert [p.kept and p.kept.status for p in found] == [*kept, None]


def test_outcomes_are_of_this_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def compose(overrides: Sequence[str]) -> Job:
        made = composed(overrides)
        return replace(made, cluster=replace(made.cluster, ranks_per_node=4 - made.seed))

    # two kept, and four ranks that do not fit on a node of two, of which an older record says ok
    batch = [["seed=0"], ["seed=1"], ["seed=2"], ["seed=0", "refit=gloo"]]
    plan = plan_points(batch, compose, tmp_path, print)
    for one in plan.points:
        leave(one.point, "ok")
    again = plan_points(batch[:2] + batch[3:], compose, tmp_path, print)
    points = (*again.points, replace(plan.points[2], kept=None))
    outcomes = run_points(replace(again, points=points), tmp_path, Display())
    assert [o.state for o in outcomes] == ["ok", "ok", "ok", "skipped"]
    assert [o.point for o in outcomes] == [p.point for p in points]
    print_summary(outcomes, tmp_path, Display())
    lines, table, skipped, counts = capsys.readouterr().out.split("\n\n")
    assert [line.split()[:5] for line in lines.splitlines()] == [
        [f"[{n}/4]", "ok", "pair", method, f"seed={seed}"]
        for n, (method, seed) in enumerate((("ipc", 0), ("ipc", 1), ("gloo", 0)), 1)
    ]
    assert lines.count("(kept from 20") == 3
    assert [line.split()[-1] for line in table.splitlines()[2:]] == ["ok", "ok", "ok"]
    assert skipped.startswith("skipped: pair: needs 3 GPUs")
    assert counts == f"4 points: 3 ok, 1 skipped; records below {tmp_path}\n"


def test_what_ran_on_other_nodes_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = replace(job().cluster, launcher="slurm", slurm={"partition": "main"})
    point = Point.of(replace(job(), cluster=cluster), tmp_path)
    for partition, lines in (("main", 0), ("low", 1)):
        moved = ended(begin(point, {"partition": partition}), "ok", "")
        print_summary([outcome(point, Standing(), moved, None, True)], tmp_path, Display())
        said = capsys.readouterr().out
        words = f"{point.name}: it ran in partition low, and cluster.slurm.partition=main is asked"
        assert said.count(words) == lines


def test_points_left_to_slurm_have_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [p.point for p in planned([["seed=0"], ["seed=1"], ["seed=2"]], tmp_path)[0]]
    leave(points[2], "crashed")
    outcomes = [
        outcome(points[0], Standing("submitted", "0", "12"), None, None, True),
        outcome(points[1], Standing("ok", "0", "12"), None, None, True),
        outcome(points[2], Standing(), None, Record.find(points[2].timing), False),
    ]
    print_summary(outcomes, tmp_path, Display())
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines()[3:6]] == [
        "submitted",
        "failed",
        "crashed",
    ]
    assert f"\nfailed: {points[1].name}\n  {points[1].timing} is gone\n" in out
    assert f"\ncrashed: {points[2].name}\n  it is crashed\n  record: {points[2].timing}\n" in out
    assert "\n3 points: 1 submitted, 1 failed, 1 crashed; records below " in out


def test_an_interrupted_sweep_says_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def as_job(point: Point, run: Callable[[], Record]) -> Record:
        if point.job.seed == 2:
            leave(point, "interrupted")  # as the agent does
            raise KeyboardInterrupt
        return run()

    def compose(overrides: Sequence[str]) -> Job:
        return replace(composed(overrides), mode="plan")

    batch = [[f"seed={n}"] for n in range(5)]
    with pytest.raises(KeyboardInterrupt):
        run_sweep(batch, compose, tmp_path, Display(), as_job=as_job)
    out = capsys.readouterr().out
    lines, table, bad, counts = out.split("\n\n")
    assert [line.split()[1] for line in lines.splitlines()] == ["predicted", "predicted"]
    states = [line.split()[-1] for line in table.splitlines() if line[:1].isdigit()]
    assert states == ["ok", "ok", "interrupted"]
    assert bad.startswith("interrupted: tiny-pair-ipc") and "is gone" not in out
    assert counts == f"5 points: 2 ok, 1 interrupted, 2 pending; records below {tmp_path}\n"


def test_a_damaged_record_is_said_kept_aside_and_runs_again(tmp_path: Path) -> None:
    point = Point.of(replace(job(), mode="plan"), tmp_path)
    point.directory.mkdir()
    point.timing.write_text('{"status": "ok", "schema_version": 2}')
    said: list[str] = []
    plan = plan_points([()], lambda _: point.job, tmp_path, said.append)
    assert said == [
        f"{point.name}: its record is not kept: not a record: reason is missing; it is kept aside"
        " once there is another"
    ]
    assert [o.state for o in run_points(plan, tmp_path, Display())] == ["ok"]
    assert Record.load(point.timing).status == "ok"
    aside = point.directory / "timing.json.damaged-1"
    assert aside.read_text() == '{"status": "ok", "schema_version": 2}'


def test_a_method_that_is_none_is_unsupported_and_the_others_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("ipc", "nomod:Cls")

    def compose(overrides: Sequence[str]) -> Job:
        what = job(method=overrides[0])
        return replace(what, mode="plan") if overrides[0] == "ipc" else what

    plan = plan_points([(m,) for m in methods], compose, tmp_path, lambda _: None)
    print_plan(plan, tmp_path, Display())
    assert "unsupported: no refit method 'nomod:Cls': it cannot be" in capsys.readouterr().out
    outcomes = run_points(plan, tmp_path, Display())
    assert [o.state for o in outcomes] == ["ok", "unsupported"]
    assert outcomes[1].record and outcomes[1].reason.startswith("no refit method 'nomod:Cls'")
    assert not (outcomes[1].point.directory / "attempts").exists()


@pytest.mark.parametrize("said", ["x", "-1", "", "1e3", "9" * 5000])
def test_an_allocation_of_no_number_of_nodes(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", said)
    with pytest.raises(UserError, match=r"SLURM_JOB_NUM_NODES=.* is no number of nodes, which"):
        here.run_steps([Point.of(job(), tmp_path)], 1, lambda _: None)
