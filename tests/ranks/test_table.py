"""The ten rows of the reference table: real GPTModels with logits compared; every CPU transport.

The table's own model by real models, its twin with gated experts by the transports besides.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refit import run
from refit.ranks.agent import Agent
from sweeper import logs, trace
from sweeper.export import __main__ as export
from tests.support.forks import fork_in
from tests.support.records import check_verified
from tests.support.table import ROWS, mode

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("model", "pairs", "methods", "build", "verify"),
    [
        ("moe_16e", "*", "ipc,gloo", "megatron", "logits"),
        ("moe_16e_swiglu", "*collocated_*", "symmetric,nixl", "shards", "bits"),
    ],
)
def test_the_whole_group_is_verified_or_skipped(
    agent: Agent, tmp_path: Path, model: str, pairs: str, methods: str, build: str, verify: str
) -> None:
    narrow = ["num_layers=1", "moe_ffn_hidden_size=256", "hidden_size=256", "vocab_size=2000"]
    sweep = [
        "-m",
        f"model={model}",
        f"parallel=glob({pairs})",
        f"refit={methods}",
        "bench.iterations=1",
    ]
    sweep += [f"build={build}", f"verify={verify}", *(f"model.{said}" for said in narrow)]
    done = fork_in(ROOT, run.main, *sweep, f"hydra.sweep.dir={tmp_path}")
    assert done.code == 0, done.stdout + done.stderr
    records = [json.loads(p.read_text()) for p in tmp_path.glob("*/timing.json")]
    options = {p.stem for p in (ROOT / "conf" / "parallel").glob(f"{pairs}.yaml")}
    assert len(records) == 2 * len(options)
    for record in records:
        name = record["config"]["parallel"]["name"]
        if record["status"] == "skipped":
            assert name not in ROWS and record["reason"], name
            continue
        check_verified(record)
        assert verify == "bits" or record["verification"]["logits"]["ok"]
        assert record["model_build"]["build"] == build
        # the same plan, whoever carries it out
        twin = next(
            r
            for r in records
            if r["config"]["parallel"] == record["config"]["parallel"] and r is not record
        )
        assert twin["plan"] == record["plan"]
        if name not in ROWS:
            continue
        (tp, ep), (to_tp, to_ep), used, idle, _ = ROWS[name]
        begins = 0 if mode(name) == "collocated" else tp * ep
        layout = record["layout"]
        assert (record["placement"], layout["world"]) == (mode(name), 8)
        assert layout["source"]["ranks"] == list(range(tp * ep))
        assert layout["destination"]["ranks"] == list(range(begins, begins + to_tp * to_ep))
        assert layout["idle"] == list(range(used, used + idle))
    assert options >= {*ROWS}
    _check_trace(tmp_path, next(name for name in ROWS if name in options))
    _check_exports(tmp_path, [record for record in records if record["status"] == "ok"])
    ok = sum(record["status"] == "ok" for record in records)
    assert f"{len(records)} points: {ok} ok" in done.stdout


def _check_trace(results: Path, name: str) -> None:
    """The traces of a row: of every rank each phase is as long as the record says, in its refit."""
    traced = [p for p in results.glob(f"*-{name}-*") if (p / "attempts").exists()]
    assert len(traced) == 2  # methods
    for point in traced:
        assert trace.main([str(point)]) == 0
        seconds = json.loads((point / "timing.json").read_text())["seconds"]
        events = json.loads((point / "trace.json").read_text())["traceEvents"]
        for rank, phases in seconds["phases_per_rank"].items():
            of_rank = [e for e in events if e["ph"] == "X" and e["tid"] == int(rank)]
            found = {e["name"]: e["args"]["seconds"] for e in of_rank}
            assert {phase: found[phase] for phase in phases} == phases
            refits = {e["name"]: e for e in of_rank if e["name"] not in phases}
            refits.pop("unattributed", None)
            assert list(refits) == ["cold", "iteration 1 of 1 (first, slowest, last)"]
            (_, warm) = refits.values()
            assert warm["args"]["seconds"] == seconds["per_rank"][rank]
            inside = [e for e in of_rank if warm["ts"] <= e["ts"] and e["name"] in phases]
            assert all(e["ts"] + e["dur"] <= warm["ts"] + warm["dur"] + 1 for e in inside)


def _check_exports(results: Path, ok: list[dict[str, Any]]) -> None:
    """What other tools are given of the sweep is what its records say."""
    out = results / "exported"
    for name in ("jsonl", "github", "refit-timing", "nixl"):
        assert export.main([str(results), f"--{name}", "--output", f"{out}-{name}"]) == 0
    rows = [json.loads(line) for line in Path(f"{out}-jsonl").read_text().splitlines()]
    medians = {row["name"]: row["median_s"] for row in rows if row["status"] == "ok"}
    assert medians == {record["name"]: record["seconds"]["median"] for record in ok}
    entries = json.loads(Path(f"{out}-github").read_text())
    assert sorted(e["value"] for e in entries) == sorted(medians.values())
    (timed,) = logs.read(Path(f"{out}-refit-timing").read_text().splitlines(), "x").found
    assert len(timed.seconds) == len(ok)
    for record in ok:
        lines = Path(f"{out}-nixl", record["name"], "hop0.txt").read_text().splitlines()
        sent = [[int(cell) for cell in line.split()] for line in lines]
        remote = sum(map(sum, sent)) - sum(row[rank] for rank, row in enumerate(sent))
        assert remote == record["plan"]["bytes"] - record["plan"]["local_bytes"]
