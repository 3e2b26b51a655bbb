"""Two results side by side: who is paired with whom, what is decided, and how sure that is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refit.errors import UserError
from refit.record.point import Point
from refit.record.record import Record, ended, write
from sweeper import compare, compare_text, matched, ratio
from sweeper.comparison import compared
from tests.support.jobs import job
from tests.support.reports import write_measured

STEADY = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of pytest-xdist has 80 columns, which fold a row of the table."""
    monkeypatch.setenv("COLUMNS", "200")


def timed(record: Record, warm: Sequence[float]) -> Record:
    assert record.seconds is not None
    return replace(record, seconds=replace(record.seconds, warm=list(warm)))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """Records of two methods, of a second repetition, and of another bucket."""
    root = tmp_path_factory.mktemp("real")
    again = replace(job(), sweep=replace(job().sweep, repetition=2))
    jobs = {"ipc": job(), "gloo": job(method="gloo"), "ipc again": again}
    jobs |= {f"{n} MB": job(method="gloo", refit={"bucket_mb": float(n)}) for n in (1, 2)}
    return {name: write_measured(Point.of(each, root)) for name, each in jobs.items()}


def folder(root: Path, *records: Record) -> Path:
    for record in records:
        path = root / record.name / "timing.json"
        path.parent.mkdir(parents=True)
        write(path, record)
    return root


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str], str]:
    """The exit code, what is printed and what is said on stderr."""
    code = compare.main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err


SIDES = {
    "the same": (STEADY, STEADY, "same"),
    "a fifth slower": (STEADY, [1.2 * t for t in STEADY], "slower"),
    "a fifth faster": ([1.2 * t for t in STEADY], STEADY, "faster"),
    "surely, but by less than a hundredth": ([1.0] * 9, [1.005] * 9, "same"),
    "four iterations": (STEADY, [2.0] * 4, "not enough iterations"),
}


@pytest.mark.parametrize("case", SIDES)
def test_the_verdict(case: str) -> None:
    before, after, verdict = SIDES[case]
    found = ratio.ratio([before], [after])
    assert found.verdict == verdict
    assert found.value == float(np.median(after) / np.median(before))
    again = ratio.ratio([before], [after])
    assert (found.low, found.high) == (again.low, again.high)  # the seed is stated
    if found.low is not None and found.high is not None:
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("shape", [(1, 10), (2, 8)])
def test_false_alarms_are_rare(shape: tuple[int, int]) -> None:
    """200 pairs of one distribution; of several repetitions each has a level of its own too."""
    random = np.random.default_rng(7)

    def side() -> list[list[float]]:
        level = 1 + 0.03 * random.standard_normal((shape[0], 1)) * (shape[0] > 1)
        return (level * np.exp(0.03 * random.standard_normal(shape))).tolist()

    found = [ratio.ratio(side(), side(), number).verdict for number in range(200)]
    assert sum(verdict != "same" for verdict in found) < 0.05 * 200
    slower = [ratio.ratio(side(), (1.2 * np.array(side())).tolist(), n) for n in range(20)]
    assert sum(each.verdict == "slower" for each in slower) > 14


def test_the_geometric_mean_and_its_interval() -> None:
    ratios = [ratio.ratio([STEADY], [[f * t for t in STEADY]], n) for n, f in enumerate((2.0, 0.5))]
    found = ratio.geometric_mean([*ratios, ratio.ratio([STEADY], [[9.0]])])
    assert found is not None
    value, low, high = found
    assert value == pytest.approx(1.0) and low < 1 < high
    assert ratio.geometric_mean([ratio.ratio([STEADY], [[9.0]])]) is None


def test_repetitions_are_one_point(real: dict[str, Record]) -> None:
    one, again = timed(real["ipc"], STEADY), timed(real["ipc again"], [1.1 * t for t in STEADY])
    (group,) = matched.groups([one, again])
    (row,) = [compared(matched.Pair(group, group))]
    assert row.ratio is not None and row.ratio.verdict == "same"
    assert compare_text.cells(row)[-1] == "2x7 / 2x7"


PAIRED = {
    # by identity; what one side alone has is new or gone
    "identity": ((["ipc", "gloo"], ["gloo", "1 MB"]), None, (1, 1, 1), []),
    # no method in common: what was varied
    "another method": ((["ipc"], ["gloo"]), None, (1, 0, 0), ["refit.method"]),
    "another bucket": ((["gloo"], ["1 MB"]), None, (1, 0, 0), ["refit.bucket_mb"]),
    "two of them": ((["gloo"], ["1 MB", "2 MB"]), None, (0, 0, 0), []),
}


@pytest.mark.parametrize("case", PAIRED)
def test_points_are_paired(case: str, real: dict[str, Record]) -> None:
    sides, by, counts, varied = PAIRED[case]
    before, after = (matched.groups([real[name] for name in side]) for side in sides)
    found = matched.two(before, after, by)
    assert (len(found.pairs), len(found.new), len(found.gone)) == counts
    assert [pair.differing for pair in found.pairs][:1] in ([], [[]], [varied])
    assert bool(found.unclear) == (case == "two of them")


def test_methods_of_one_folder(
    real: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = folder(tmp_path / "ours", timed(real["ipc"], STEADY), timed(real["gloo"], [2.0] * 7))
    code, lines, _ = shown(capsys, ours, "--by", "method")
    (row,) = [line for line in lines if "gloo -> ipc" in line]
    assert code == 0 and "faster" in row
    code, lines, _ = shown(capsys, ours, "--by", "method=ipc", "--fail-above", "1.1")
    assert code == 1 and any("ipc -> gloo" in line and "slower" in line for line in lines)
    # two buckets of a method are two points
    every = folder(tmp_path / "every", *(timed(r, STEADY) for r in list(real.values())[:2]))
    folder(every, timed(real["1 MB"], STEADY))
    _, lines, _ = shown(capsys, every, "--by", "refit.bucket_mb")
    assert [line for line in lines if "64.0 -> 1.0" in line or "1.0 -> 64.0" in line]


def test_what_is_not_alike_comes_first(
    real: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = timed(real["ipc"], STEADY)
    around = {**before.environment, "host": "another", "cpus": 96}
    after = replace(before, environment=around, clock={**before.clock, "warm": "otherwise"})
    a, b = folder(tmp_path / "a", before), folder(tmp_path / "b", after)
    path = next(a.glob("*/timing.json"))
    old = json.loads(path.read_text())
    old |= {"schema_version": 1, "mode": old.pop("placement")}
    path.write_text(json.dumps(old))
    _, lines, _ = shown(capsys, a, b)
    table = next(n for n, line in enumerate(lines) if line.startswith("point "))
    said = " ".join(lines[:table])
    for words in ("schema version: 1 -> 2", "-> another", "-> 96", "clock, warm: the words differ"):
        assert f"not alike: {words}" in said or words in said
    assert "not alike" not in " ".join(shown(capsys, b, b)[1])


def test_what_has_no_pair_or_ended_otherwise_is_said(
    real: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = timed(real["ipc"], STEADY)
    lost = ended(replace(good, seconds=None, throughput=None), "failed", "rank 0: <b>|\nline")
    a = folder(tmp_path / "a", good, real["gloo"])
    b = folder(tmp_path / "b", lost, real["1 MB"])
    bad = b / "bad" / "timing.json"
    bad.parent.mkdir()
    bad.write_text("{")
    code, lines, error = shown(capsys, a, b, "--fail-above", "1.1")
    assert code == 1 and "was ok, is failed" in error and "no point could be decided" in error
    assert f"left out: {bad}" in error  # named, not fatal
    text = "\n".join(lines)
    assert "status changed: tiny-pair-ipc: ok -> failed rank 0: <b>|" in text
    assert "new: tiny-pair-gloo: ok" in text and "gone: tiny-pair-gloo: ok" in text
    assert shown(capsys, a, b)[0] == 0
    page = "\n".join(shown(capsys, a, b, "--html")[1])
    assert "&lt;b&gt;" in page and "<b>" not in page and "http" not in page
    hostile = folder(tmp_path / "c", replace(good, name="<script>"))
    assert "<td>&lt;script&gt;</td>" in "\n".join(shown(capsys, hostile, hostile, "--html")[1])
    table = shown(capsys, a, b, "--markdown")[1]
    assert any("&lt;b>\\| line" in line for line in table)
    assert sum(line.startswith("| ") for line in table) == 2 + 1
    file = tmp_path / "out.md"
    assert shown(capsys, a, b, "--markdown", "--output", file)[1] == [f"written: {file}"]
    assert file.read_text().splitlines() == table


def test_too_few_iterations_decide_nothing(
    real: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = folder(tmp_path / "ours", real["ipc"])  # two iterations
    theirs = folder(tmp_path / "theirs", timed(real["ipc"], [9.0, 9.0]))
    code, lines, error = shown(capsys, ours, theirs, "--fail-above", "1.1")
    text = "\n".join(lines)
    assert code == 1 and "no point could be decided" in error
    assert "fewer than 5 on a side decide nothing" in text and "geometric mean: none" in text


def test_a_narrow_terminal_names_points_whole(
    real: dict[str, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    long = "a-pair-with-a-very-long-name-" * 3
    ours = folder(tmp_path, replace(timed(real["ipc"], STEADY), name=f"{long}-{'0' * 10}"))
    for columns in ("80", "120", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        lines = shown(capsys, ours, ours)[1]
        at = next(n for n, line in enumerate(lines) if line.startswith(long))
        row = lines[at] if columns == "300" else lines[at + 1]
        assert row.split()[-4:] == ["same", "7", "/", "7"]


WRONG = {
    "one folder": (["DIR"], "two folders, or one and --by method"),
    "no records": (["DIR", "nowhere"], "no records in nowhere"),
    "no such field": (["DIR", "--by", "refit.bucket"], "did you mean refit.bucket_mb"),
    "no such value": (["DIR", "--by", "method=nccl"], "method is one of gloo, ipc"),
    "one value": (["DIR", "--by", "model"], "all points have tiny; nothing to compare"),
    "a ratio below": (["DIR", "DIR", "--fail-above", "-1"], "must be above 0, such as 1.10"),
    "no place": (["DIR", "DIR", "--output", "nowhere/x"], "cannot write nowhere/x"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_asked_wrongly(case: str, real: dict[str, Record], tmp_path: Path) -> None:
    words, says = WRONG[case]
    folder(tmp_path, real["ipc"], real["gloo"])
    with pytest.raises(UserError, match=says):
        compare.main([str(tmp_path) if word == "DIR" else word for word in words])
    shutil.rmtree(tmp_path)
