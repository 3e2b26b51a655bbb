"""The table of published refits: each has its source and clock, and a possible point of ours."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from refit import published
from refit.published import Published, lines

ROOT = Path(__file__).parents[2]


@cache
def rows() -> list[Published]:
    """All of them, predicted once."""
    return published.rows()


def test_each_row_is_what_its_name_says() -> None:
    found = rows()
    assert len(found) == 10
    text = "\n".join(lines(found))
    for row in found:
        assert row.source in text and row.clock in text and row.why in text
        assert 0 < row.seconds[0] <= row.seconds[1]
    compared = [row for row in found if row.prediction]
    assert len(compared) == 8
    for row in compared:
        assert (
            row.prediction
            and row.prediction.floor
            and row.prediction.estimate
            and row.error is not None
        )
        assert row.prediction.floor.seconds <= row.prediction.estimate.seconds
        # nothing published is faster than the floor, but for the one that halves the bytes
        bound = row.prediction.floor.seconds / (2 if "FP8" in row.name else 1)
        assert bound < row.seconds[0]
        middle = np.mean(row.seconds)
        assert abs(row.error - (row.prediction.estimate.seconds - middle) / middle) < 1e-12
    assert text.count("not comparable: moves FP8") == 2


def test_bytes_of_a_row_by_hand() -> None:
    (row,) = [r for r in rows() if "PP 2 EP 8 to TP 8" in r.name]
    assert row.prediction is not None
    # Qwen3-30B-A3B: 28,991,029,248 of its parameters are experts, an eighth of them on each rank;
    # embeddings of 151936 * 2048, twice, are cut too, as are 48 layers of q, k, v and o
    attention = 2048 * 128 * (32 + 2 * 4) + 32 * 128 * 2048
    cut = 28_991_029_248 + 2 * 151936 * 2048 + 48 * attention
    whole = 48 * (128 * 2048 + 2 * 2048 + 2 * 128) + 2048  # router, norms
    assert row.prediction.traffic.received_bytes[16:].tolist() == [2 * (cut // 8 + whole)] * 16


@pytest.mark.parametrize("page", ["README.md", "docs/measurements.md"])
def test_the_pages_say_how_wrong_the_estimate_is(page: str) -> None:
    errors = [100 * row.error for row in rows() if row.error is not None]
    said = " ".join((ROOT / page).read_text().split())
    assert len(errors) == 8 and "eight" in said
    assert f"between {-min(errors):.0f}% too low and {max(errors):.0f}% too high" in said
