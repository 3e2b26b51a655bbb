"""What a report is made of: words, curves, plans drawn again, ranks' times; and its Markdown."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refit.errors import UserError
from refit.job import Degrees, Job
from refit.layout.tensors import Shard
from refit.record.point import Point
from refit.record.record import Record, begin, ended, placed, write
from refit.rules import stated_memory
from refit.rules.setup import Setup
from sweeper.report import __main__ as report
from sweeper.report import attempt, data, held, knees, moves, words
from sweeper.report.markdown import markdown, plain
from tests.support.jobs import job
from tests.support.reports import reports, write_measured


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a point that is measured, with its ranks' reports, and one that failed."""
    root = tmp_path_factory.mktemp("real")
    ran = Point.of(job(), root, ("refit=ipc", "refit.bucket_mb=8"))
    record = write_measured(ran)
    tried = ran.attempt()
    write(tried.timing, record)
    for each in reports(ran.job):
        tried.rank_report(each.rank).write_text(json.dumps(asdict(each)))
    failed = Point.of(job(seed=1), root, ("refit=ipc", "+x='a b'"))
    failed.freeze()
    write(failed.timing, ended(begin(failed, record.environment), "failed", "see rank2.log"))
    for number in range(4):
        lines = "\n".join(f"line {n} of {number}" for n in range(40))
        failed.attempt("0").rank_log(number).write_text(lines)
    return root


@pytest.fixture
def folder(real: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(real, tmp_path / "results"))


@pytest.fixture
def measured(real: Path) -> Record:
    (record,) = (r for r in map(Record.load, real.glob("*/timing.json")) if r.status == "ok")
    return record


PAIRS = {
    "TP2 -> TP1": job(),
    "TP2 PP2 EP2 -> TP4": job(Degrees(tp=2, pp=2, ep=2, etp=1), Degrees(tp=4, etp=1)),
    "TP2 ETP2 -> EP2": job(Degrees(tp=2), Degrees(ep=2, etp=1)),
    "TP1 -> engine TP4 EP2": job(Degrees(), Degrees(tp=4, ep=2, gpus=8, kind="engine")),
    "TP2 CP2 -> TP2 + EP4": job(
        Degrees(tp=2, cp=2, etp=1), destinations=[Degrees(tp=2, etp=1), Degrees(ep=4, etp=1)]
    ),
    "FSDP4 -> TP2 as float16": job(
        Degrees(kind="fsdp", gpus=4), Degrees(tp=2, etp=1, dtype="float16")
    ),
}


def corners(shard: Shard) -> Iterator[tuple[float, float]]:
    """Just inside the first and the last index of a shard, on the map of its kind of tensor."""
    family, indices = shard.family, shard.global_indices()
    place, expert = divmod(shard.tensor - family.base, max(1, family.num_experts))
    for index in indices[indices >= 0][[0, -1]] if (indices >= 0).any() else ():
        across = (expert + (index + 0.5) / shard.cut.length) / max(1, family.num_experts)
        yield float(across), (place + 0.5) / max(1, len(family.layers))


def planned(what: Job) -> Record:
    """The record of a job that is placed and planned, as an agent begins it."""
    setup, point = Setup.of(what), Point.of(what, Path())
    plan = setup.plan()
    return placed(
        begin(point, {}), what.model, setup.placement, plan, setup.method, setup.why, setup.build
    )


@pytest.mark.parametrize("said", PAIRS)
def test_a_pair_in_words_and_drawn(said: str) -> None:
    """Boxes have the area of what each rank holds, and the matrix what the plan's rows say."""
    record = planned(PAIRS[said])
    assert words.mapping(record) == said
    made, why = moves.planned(record)
    assert made is not None and why == ""
    setup = Setup.of(PAIRS[said])
    if not said.startswith("FSDP"):  # its shards have padding, which no box has
        for side, (name, layout) in enumerate(setup.placement.sides.items()):
            area = np.zeros(setup.placement.world)
            for kind in made["layouts"]["kinds"]:
                for rank, _, boxes in kind["held"][side]:
                    share = sum((b - a) * (d - c) for a, b, c, d in boxes)
                    area[rank] += kind["bytes"] * share
            theirs = replace(setup.placement, destinations=(layout,))
            of_side = "source" if name == "source" else "destination"
            expected = stated_memory.held(setup.catalogue, theirs)[of_side]
            assert area == pytest.approx(expected, rel=1e-3)
    for side, layout in enumerate(setup.placement.sides.values()):
        for rank in layout.ranks:
            boxes = {
                name: kept[0][2]
                if (kept := [h for h in kind["held"][side] if h[0] == rank])
                else ()
                for kind in made["layouts"]["kinds"]
                for name in kind["names"]
            }
            for shard in setup.catalogue.held_by(layout, rank):
                for x, y in corners(shard):
                    assert any(
                        a < x < b and c < y < d for a, b, c, d in boxes[held.short(shard.family)]
                    ), (side, rank, shard.name)
    plan, counted = setup.plan(), Counter[tuple[int, int]]()
    for source, destination, nbytes in zip(
        plan.source.tolist(), plan.destination.tolist(), plan.nbytes.tolist(), strict=True
    ):
        counted[source, destination] += nbytes
    traffic = made["traffic"]
    columns = (traffic[name] for name in ("source", "destination", "bytes"))
    assert {(s, d): n for s, d, n in zip(*columns, strict=True)} == counted


def test_of_too_many_pairs_of_ranks_nodes_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    record = planned(job(Degrees(tp=4, etp=1), Degrees(tp=2, etp=1), ranks_per_node=2))
    monkeypatch.setattr(moves, "MOST_PAIRS", 3)
    made, _ = moves.planned(record)
    assert made is not None and record.plan is not None
    traffic = made["traffic"]
    assert (traffic["of"], traffic["count"], traffic["per_node"]) == ("node", 3, 1)
    assert (traffic["source"], traffic["destination"]) == ([0, 1], [2, 2])
    assert sum(traffic["bytes"]) == record.plan.bytes


def test_what_cannot_be_planned_again_is_said(measured: Record) -> None:
    assert measured.plan is not None
    other = replace(measured, plan=replace(measured.plan, bytes=1))
    made, why = moves.planned(other)
    assert made is not None and made["traffic"] is None and "another version planned it" in why
    made, why = moves.planned(replace(measured, layout=None))
    assert made is None and "was not planned" in why
    made, why = moves.planned(replace(measured, config={**measured.config, "later": 1}))
    assert made is None and "cannot plan it again" in why
    made, why = moves.planned(replace(measured, method="megatron"))
    assert made is not None and made["traffic"] is None and "a plan of its own" in why


def test_kinds_that_all_sides_hold_alike_are_one() -> None:
    setup = Setup.of(job(Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, etp=1), mode="collocated"))
    kinds = held.drawn(setup.catalogue, setup.placement)["kinds"]
    named = [name for kind in kinds for name in kind["names"]]
    assert sorted(named) == sorted(map(held.short, setup.catalogue.families))
    (experts,) = (kind for kind in kinds if "mlp.experts.linear_fc1" in kind["names"])
    assert "mlp.experts.linear_fc2" in experts["names"]
    before, after = experts["held"]
    assert before[0][1:] == ("layers 1-1, experts 0-1 of 4, whole", ((0.0, 0.5, 0.0, 1.0),))
    assert after[0][1:] == ("layers 1-1, experts 0-3 of 4, whole", ((0.0, 1.0, 0.0, 1.0),))


INTERVALS = {5: (1, 5), 6: (1, 6), 9: (2, 8), 10: (2, 9), 20: (6, 15), 30: (10, 21)}
"""Of so many times the places of the 95% interval of the median, as tables of statistics have."""


def test_intervals_of_a_median() -> None:
    for n, places in INTERVALS.items():
        assert knees.interval([float(k) for k in range(n, 0, -1)]) == places


def over(record: Record, seconds: float, **refit: Any) -> Record:
    """The record with another time and other fields of `refit`."""
    assert record.seconds is not None
    config = {**record.config, "refit": {**record.config["refit"], **refit}}
    timed = replace(record.seconds, median=seconds, warm=[seconds] * 3)
    return replace(record, config=config, seconds=timed)


def test_a_curve_is_over_one_number_alone(measured: Record) -> None:
    by_bucket = {64.0: 0.2, 4.0: 0.4, 16.0: 0.1}
    records = [over(measured, s, bucket_mb=mb) for mb, s in by_bucket.items()]
    (curve,) = knees.curves(records)
    assert (curve["number"], curve["points"]) == ("refit.bucket_mb", [1, 2, 0])
    assert (curve["values"], curve["seconds"]) == ([4.0, 16.0, 64.0], [0.4, 0.1, 0.2])
    assert (curve["best"], curve["low"]) == (1, curve["seconds"])
    assert knees.curves(records[:2]) == []
    other = over(measured, 0.3, bucket_mb=64.0, in_flight=9)  # two numbers differ
    assert knees.curves([*records[1:], other]) == []
    again = replace(records[0], config={**records[0].config, "seed": 7})  # a repetition
    assert [c["points"] for c in knees.curves([*records, again])] == [[1, 2, 0, 3]]


def test_phases_add_up_to_the_time(measured: Record) -> None:
    assert measured.seconds is not None
    spent = {"0": {"plan": 0.1, "transfer": 0.3, "wire": 0.1}, "2": {"plan": 0.3, "wire": 0.4}}
    seconds = replace(measured.seconds, phases_per_rank=spent, per_rank={"0": 0.2, "2": 0.45})
    cold, warm = data.phases(replace(measured, seconds=seconds))
    assert cold == pytest.approx({"plan": 0.1, "transfer": 0.3, "unattributed": 0.6})
    assert warm == pytest.approx({"wire": 0.4, "unattributed": 0.1})


def test_p95_needs_no_interpolation() -> None:
    assert words.p95([3.0, 1.0, 2.0]) == 3.0
    assert words.p95([float(n) for n in range(100)]) == 94.0


def test_the_ranks_times_and_who_was_slowest(folder: Path, measured: Record) -> None:
    found = attempt.find(measured, folder / measured.name)
    assert found is not None
    reported = attempt.reports(found, 4)
    reported[1]["warm"] = [{"start": 0.1, "end": 0.4}, {"start": 0.0, "end": 0.9}]
    times = attempt.times(reported)
    assert times == {
        "ranks": [0, 1, 2],
        "seconds": [[500_000] * 2, [300_000, 900_000], [500_000] * 2],
        "slowest": [0, 1],
    }
    assert attempt.straggler([2, 0, 2]) == (
        "rank 2 was the slowest in 2 of 3 timed refits, then rank 0 in 1"
    )
    found.rank_report(3).unlink()
    assert attempt.reports(found, 4) == []


def test_a_failure_has_the_log_that_its_reason_names(folder: Path) -> None:
    (record,) = (r for r in map(Record.load, folder.glob("*/timing.json")) if r.status != "ok")
    tails = attempt.tails(attempt.find(record, folder / record.name), record.reason)
    assert [name for name, _ in tails] == ["rank2.log", "rank0.log"]
    lines = tails[0][1].splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("line 25 of 2", "line 39 of 2", 15)


def test_markdown_has_the_table_and_what_all_rows_share(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert report.main([str(folder), "--markdown"]) == 0
    text = capsys.readouterr().out
    head, rule, *below = text.splitlines()
    assert head == (
        "| model | mapping | placement | method | GPUs | bytes | cold | median | p95 | slowest"
        " | of limit | verified | status | set |"
    )
    assert set(rule) <= set("| -")
    ok = next(line for line in below if "| ok |" in line).split(" | ")
    assert ok[1:5] == ["TP2 -> TP1", "non-collocated", "ipc", "3"]
    assert ok[6:11] == ["1.000 s", "0.500 s", "0.500 s", "0.500 s", "50%"]
    assert ok[-3:-1] == ["bit-exact", "ok"]
    assert "- Clock: per iteration: all ranks pass a barrier" in text
    assert text.count("- Machine") == text.count("- Versions") == 1
    assert f"python -m refit.run refit=ipc refit.bucket_mb=8 hydra.run.dir={folder}\n" in text
    assert """'+x='"'"'a b'"'"''""" in text and ": failed: see rank2.log" in text
    with pytest.raises(UserError, match=r"pip install 'refit-sweep\[report\]'; --markdown"):
        report.main([str(folder)])
    assert not (folder / "report.html").exists()


def test_names_are_no_markup(measured: Record) -> None:
    config = {**measured.config, "model": {**measured.config["model"], "name": "a|b\n<b>@me"}}
    hostile = replace(measured, config=config, overrides=["model=```x"])
    text = markdown([hostile], "results")
    assert "| a\\|b &#60;b>&#64;me |" in text
    assert "````bash\npython -m refit.run 'model=```x'\n````" in text
    assert plain("[x](http://y) #12 `z` *w*") == ("\\[x\\](http&#58;//y) &#35;12 \\`z\\` \\*w\\*")


def test_where_it_goes_and_what_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table.md"
    assert report.main([str(folder), "--markdown", "--output", str(file)]) == 0
    assert file.read_text().startswith("| model |")
    assert report.main([str(folder), "--markdown", "--where", "status=ok"]) == 0
    assert "failed" not in capsys.readouterr().out
    (folder / "bad").mkdir()
    (folder / "bad" / "timing.json").write_text("{")
    assert report.main([str(folder), "--markdown"]) == 1
    assert f"left out: {folder / 'bad' / 'timing.json'}: not a whole" in capsys.readouterr().err
    with pytest.raises(UserError, match="no records in"):
        report.main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"cannot write .*; --output FILE writes elsewhere"):
        report.main([str(folder), "--markdown", "--output", "/dev/null/x"])


def test_a_record_names_no_folder_but_its_own(measured: Record) -> None:
    assert data.folder_of(measured, Path("results")) == Path("results") / measured.name
    assert data.folder_of(replace(measured, name="../other"), Path("results")) is None


def test_json_within_the_page_ends_no_element(folder: Path, measured: Record) -> None:
    """Whatever a record says."""
    pytest.importorskip("plotly", reason="needs plotly: pip install 'refit-sweep[report]'")
    name = "</script><script>alert(1)</script>\ud800"
    strange = replace(measured, name=name, environment={**measured.environment, "host": name})
    write(folder / measured.name / "timing.json", strange)
    assert report.main([str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert "<script>alert" not in text
    assert text.count("</script>") == text.count("<script") == 8
