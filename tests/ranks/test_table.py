"""The ten rows of the reference table: real GPTModels with logits compared; every CPU transport."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.records import check_verified

ROOT = Path(__file__).parents[2]

# Worked out by hand from the table's degrees: bytes are not, so they are not here.
ROWS = {
    # name: mode, source ranks, destination ranks, idle ranks
    "noncollocated_1_tp2ep2_to_tp2ep1": ("non-collocated", range(4), range(4, 6), range(6, 8)),
    "noncollocated_2_tp2ep2_to_tp2ep2": ("non-collocated", range(4), range(4, 8), range(0)),
    "noncollocated_3_tp4ep1_to_tp2ep1": ("non-collocated", range(4), range(4, 6), range(6, 8)),
    "noncollocated_4_tp2ep1_to_tp1ep1": ("non-collocated", range(2), range(2, 3), range(3, 8)),
    "noncollocated_5_tp4ep1_to_tp4ep1": ("non-collocated", range(4), range(4, 8), range(0)),
    "noncollocated_6_tp1ep4_to_tp1ep2": ("non-collocated", range(4), range(4, 6), range(6, 8)),
    "collocated_1_tp4ep2_to_tp2ep4": ("collocated", range(8), range(8), range(0)),
    "collocated_2_tp8ep1_to_tp4ep2": ("collocated", range(8), range(8), range(0)),
    "collocated_3_tp4ep2_to_tp4ep1": ("collocated", range(8), range(4), range(0)),
    "collocated_4_tp2ep2_to_tp2ep1": ("collocated", range(4), range(2), range(4, 8)),
}


@pytest.mark.parametrize(
    ("pairs", "methods", "build", "verify"),
    [
        ("*", "ipc,gloo", "megatron", "logits"),
        ("*collocated_*", "symmetric,nixl", "shards", "bits"),
    ],
)
def test_the_whole_group_is_verified_or_skipped(
    tmp_path: Path, pairs: str, methods: str, build: str, verify: str
) -> None:
    narrow = ["num_layers=1", "moe_ffn_hidden_size=256", "hidden_size=256", "vocab_size=2000"]
    sweep = ["-m", f"parallel=glob({pairs})", f"refit={methods}", "bench.iterations=1"]
    sweep += [f"build={build}", f"verify={verify}", *(f"model.{said}" for said in narrow)]
    done = subprocess.run(
        [sys.executable, "-m", "refit.run", *sweep, f"hydra.sweep.dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(p.read_text()) for p in tmp_path.glob("*/timing.json")]
    options = {p.stem for p in (ROOT / "conf" / "parallel").glob(f"{pairs}.yaml")}
    assert len(records) == 2 * len(options)
    for record in records:
        name = record["config"]["parallel"]["name"]
        if name not in ROWS:
            assert record["status"] == "skipped" and record["reason"], name
            continue
        check_verified(record)
        assert verify == "bits" or record["verification"]["logits"]["ok"]
        assert record["model_build"]["build"] == build
        mode, source, destination, idle = ROWS[name]
        layout = record["layout"]
        assert (record["placement"], layout["world"]) == (mode, 8)
        assert layout["source"]["ranks"] == list(source)
        assert layout["destination"]["ranks"] == list(destination)
        assert layout["idle"] == list(idle)
        # the same plan, whoever carries it out
        twin = next(
            r
            for r in records
            if r["config"]["parallel"] == record["config"]["parallel"] and r is not record
        )
        assert twin["plan"] == record["plan"]
    assert f"{2 * len(options)} points: 20 ok" in done.stdout
