"""The summary of a sweep at three widths, word for word; and on terminals that cannot do much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import Job
from refit.plan.plan import Bounds
from refit.record.parts import (
    DeviceMemory,
    Forecast,
    PlanNumbers,
    Seconds,
    Throughput,
    Verification,
)
from refit.record.point import Point
from refit.record.record import begin, ended
from refit.show.display import Display
from sweeper.decisions import Outcome
from sweeper.summary import print_summary
from tests.support.jobs import job
from tests.support.terminals import on_terminal, read_as_text

DATA = Path(__file__).parents[2] / "data"
ROOT = Path("results")
ROWS = ("collocated_1_tp4ep2_to_tp2ep4", "collocated_3_tp4ep2_to_tp4ep1",
        "noncollocated_1_tp2ep2_to_tp2ep1", "noncollocated_4_tp2ep1_to_tp1ep1")  # fmt: skip
KIMI = tuple(f"kimi_k2_128_tp8pp8ep8_to_tp8ep{ep}_of_the_decode_pool" for ep in (8, 16, 32))


def asked(row: str = ROWS[0], method: str = "ipc", model: str = "moe_16e", **rest: Any) -> Job:
    mode = "collocated" if row.startswith("collocated") else "non-collocated"
    made = job(method=method, mode=mode, **rest)
    return replace(
        made,
        model=replace(made.model, name=model),
        parallel=replace(made.parallel, name=row),
    )


def moved(nbytes: int) -> PlanNumbers:
    return PlanNumbers(9, nbytes, 0, 0, 0, 0, 0, 0, 0, Bounds(0, 0, 0, 0))


def took(what: Job, median: float, fraction: float = 0.9, nbytes: int = 2_000_000_000) -> Outcome:
    """An outcome of a point that is verified."""
    warm = [median, median * 1.2, median] * 2
    seconds = Seconds(3 * median, warm, median, 1.1 * median, 1.2 * median, None, {}, {}, {}, {})
    rate = nbytes / median / 1e9
    throughput = Throughput(rate, rate / fraction, "memory copy", "measured", fraction, [])
    checked = Verification(1000, 0, 0, None, True, None)
    return outcome(what, method=what.refit.method, plan=moved(nbytes), seconds=seconds,
                   throughput=throughput, verification=checked)  # fmt: skip


def foreseen(what: Job, estimate: float | None, status: str = "ok") -> Outcome:
    """An outcome of a prediction; without rates where there is no estimate."""
    memory = DeviceMemory(1, None, None)
    forecast = Forecast({}, memory, None, None, "cluster.hardware.nic_gbps")
    if estimate:
        forecast = Forecast({}, memory, {"seconds": 0.0123}, {"seconds": estimate}, None)
    what = replace(what, mode="plan")
    reason = "" if status == "ok" else "rank 0 needs 99 GB"
    known = {"method": what.refit.method, "plan": moved(32_000_000_000), "prediction": forecast}
    return outcome(what, status, reason, **known)


def outcome(what: Job, status: Any = "ok", reason: str = "", **known: Any) -> Outcome:
    point = Point.of(what, ROOT)
    record = replace(ended(begin(point, {}), status, reason), **known)
    return Outcome(point, status, record)


def matrix() -> list[Outcome]:
    """Rows by methods, of which some failed, some were skipped and some had not begun."""
    heads = "model.num_attention_heads=4 does not divide by parallel.source.tp=8"
    found = [
        took(asked(row, method), number * factor / 10, 0.9 / factor)
        for method, factor in (("ipc", 1), ("gloo", 2.5))
        for number, row in enumerate(ROWS, 1)
    ]
    log = "rank 1: connection refused; log: results/attempts/0/rank1.log\n  the log's last line"
    found.append(outcome(asked(ROWS[0], "nixl"), "failed", log))
    found += [took(asked(row, "nixl"), 0.15) for row in ROWS[2:]]
    for name in ("collocated_2_tp8ep1_to_tp4ep2", "collocated_4_tp8ep2_to_tp2ep1"):
        found += [outcome(asked(name, method), "skipped", heads) for method in ("ipc", "gloo")]
    return [*found, Outcome(Point.of(asked(ROWS[1], "nixl"), ROOT), "pending", None)]


SWEEPS = {
    "rows by methods": matrix(),
    "methods of one row": [took(asked(method=m), t) for m, t in (("ipc", 0.151), ("gloo", 0.393))],
    "rows by methods for each model": [
        took(asked(row, method, model), time * factor, nbytes=851_000_000)
        for model, time in (("moe_8e", 0.1), ("moe_16e", 0.2))
        for row in ROWS[2:]
        for method, factor in (("ipc", 1.0), ("gloo", 3.0))
    ],
    "predictions by seven methods, of long names": [
        foreseen(asked(row, method, "kimi_k2"), 0.02 * number)
        for row in KIMI
        for number, method in enumerate(
            ("ipc", "gloo", "nccl", "symmetric", "nvshmem", "nixl", "mine.transport:Fast"), 1
        )
    ],
    "what does not fit has no estimate, though its record has one": [
        foreseen(asked(row, method), seconds, status=status)
        for row in ROWS[:2]
        for method, seconds, status in (("ipc", 0.02, "oom"), ("gloo", 0.03, "ok"))
    ],
    "a number by a number": [
        took(asked(seed=seed, bench={"iterations": n}), 0.0001 * (4 - seed) * n, nbytes=5_000)
        for seed in (0, 1)
        for n in (3, 10)
    ],
    "nothing but names": [foreseen(asked(row), None) for row in ROWS[:2]],
}


def written() -> None:
    display = Display()
    for name, outcomes in SWEEPS.items():
        display.line(f"\n== {name}")
        print_summary(outcomes, ROOT, display)


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_a_table_has_styles_only_where_they_are_wanted(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [o.record for o in SWEEPS["methods of one row"] if o.record]
    said = on_terminal(80, lambda: Display().summary(records), monkeypatch, **variables)
    assert ("\x1b[" in said) is (not variables) and read_as_text(said).count("ok\n") == 2


def test_a_listing_has_what_was_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [o.record for o in SWEEPS["rows by methods"] if o.record]
    said = read_as_text(on_terminal(99, lambda: Display().listing(records), monkeypatch))
    assert said.count("skipped") == 4 and said.count("\n") == 3 + 6
    Display().listing(records)  # in a pipe a line for each
    heading, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(records) and "floor" not in heading
    assert lines[0].split() == [
        ROWS[0], "moe_16e", "collocated", "ipc", "local", "bit-exact", "2.00", "0.300", "0.100",
        "0.120", "20.00", "90%", "ok",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_summary_word_for_word(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = read_as_text(on_terminal(columns, written, monkeypatch))
    golden = DATA / f"summary_{columns}.txt"
    assert said == golden.read_text()
    # nothing that a terminal would fold, but for paths, which are copied from it
    long = [line for line in said.splitlines() if len(line) > columns]
    assert [line for line in long if ": results/" not in line] == []
