"""Writing how a point ended, where the disk may refuse it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from refit.record.point import Point
from refit.record.record import Record, begin, ended, keep
from tests.support.jobs import job


def test_a_record_is_written_to_every_path(tmp_path: Path) -> None:
    record = ended(begin(Point.of(job(), tmp_path), {}), "crashed", "it is")
    paths = [tmp_path / "attempt.json", tmp_path / "point.json"]
    assert keep(record, *paths) == record
    assert [Record.load(path) for path in paths] == [record, record]


def test_a_record_that_is_refused_is_failed_and_the_earlier_one_stays(tmp_path: Path) -> None:
    begun = begin(Point.of(job(), tmp_path), {})
    earlier, final = ended(begun, "crashed", "first"), ended(begun, "oom", "second")
    last, no_folder = tmp_path / "last.json", tmp_path / "none" / "timing.json"
    keep(earlier, last)
    kept = keep(final, no_folder, last)
    reason = f"cannot write {no_folder}: No such file or directory"
    assert (kept.status, kept.reason) == ("failed", f"{reason}; second")
    assert Record.load(last) == earlier
    assert keep(replace(final, reason=""), no_folder).reason == reason
