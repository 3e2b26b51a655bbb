"""What each transport takes besides the weights, on a model of many buckets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refit.agent import Agent
from refit.point import Point
from tests.jobs import TINY, job

BUCKET_MB = 4.0
IN_FLIGHT = 2
# Per rank, whatever the model: code and heap pages that the first refit touches (7 MB were measured
# with ipc, which stages nothing), and UCX's pools.
LIBRARY_BYTES = 12e6
SLOTS = {"ipc": 0, "gloo": 2 * IN_FLIGHT, "symmetric": 2 * IN_FLIGHT, "nixl": IN_FLIGHT}


@pytest.mark.parametrize("method", SLOTS)
def test_peak_is_within_the_bound(tmp_path: Path, method: str) -> None:
    wide = replace(
        TINY, hidden_size=1024, ffn_hidden_size=2048, moe_ffn_hidden_size=1536, vocab_size=8000
    )
    knobs = {"bucket_mb": BUCKET_MB, "in_flight": IN_FLIGHT}
    what = job(model=wide, method=f"tests.measured:{method}", refit=knobs, ranks_per_node=3)
    with Agent([what]) as agent:
        record = agent.run(Point.of(what, tmp_path))
    assert (record["status"], record["reason"]) == ("ok", "")
    bound = SLOTS[method] * BUCKET_MB * 1e6
    assert record["plan"]["max_recv_bytes"] > 10 * BUCKET_MB * 1e6
    assert record["memory"]["staging_bytes"] <= bound
    allowed = 3 * (bound + LIBRARY_BYTES)
    assert allowed < record["plan"]["bytes"]  # what one that stages everything would take at least
    assert record["transport"]["grown_bytes"] <= allowed
