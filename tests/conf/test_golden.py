"""Every shipped pair keeps its plan, its bounds and its identity: held against a file of them.

The file was written by the code of 2026-11-21, and for `moe_16e` as the reference documents' flags
build it on 2026-11-27; what was that model's before is `moe_16e_swiglu`'s. The plans' columns are
of that day too: which replica sends goes by the arenas' order since. Where a change is meant, and
the commit says why: `python -m tests.conf.test_golden` writes it anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from refit.layout.place import place
from refit.model.architecture import LOCAL_SPEC, PRODUCTION, catalogue
from refit.plan.build import build_plan
from refit.plan.plan import Plan
from refit.record.point import identity
from refit.schema import CONF
from tests.support.composed import composed
from tests.support.plans import COLUMNS
from tests.support.sample import sampled

GOLDEN = Path(__file__).parents[1] / "data" / "golden_plans.json"
CASES = sorted(json.loads(GOLDEN.read_text()))
TWIN = "model=moe_16e_swiglu"  # gated experts, untied embeddings, by the table's rows


def digest(plan: Plan) -> str:
    """Of every column of a plan, in a fixed width."""
    arrays = [getattr(plan, column).astype("<i8") for column in (*COLUMNS, "relayed")]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


def seen(case: str) -> dict[str, Any]:
    """What the file holds of a pair: with a model that is said, that it brings, or the default."""
    pair, *model = case.split()
    job = composed(f"parallel={pair}", *model)
    placement = place(job)
    found: dict[str, Any] = {"identity": identity(job)}
    for name, convention in (("production", PRODUCTION), ("local", LOCAL_SPEC)):
        tensors = catalogue(job.model, placement.source.tp, convention)
        for fanout in ("direct", "hierarchical"):
            plan = build_plan(tensors, placement, fanout)
            found[f"{name}-{fanout}"] = {
                "copies": len(plan),
                "bytes": plan.total_bytes,
                "cross_node_bytes": plan.cross_node_bytes,
                "bounds": asdict(plan.bounds),
                "columns": digest(plan),
            }
    return found


@pytest.mark.parametrize("case", sampled(CASES, 3))
def test_pair_is_as_it_was(case: str) -> None:
    assert seen(case) == json.loads(GOLDEN.read_text())[case]


def test_a_field_of_the_peer_alone_renames_no_other_point() -> None:
    ours, peer = (composed("model=dense", f"refit={method}") for method in ("ipc", "megatron"))
    as_installed = [
        replace(job, refit=replace(job.refit, peer_names="installed")) for job in (ours, peer)
    ]
    assert identity(as_installed[0]) == identity(ours)
    assert identity(as_installed[1]) != identity(peer)


if __name__ == "__main__":
    shipped = {path.stem for path in (CONF / "parallel").glob("**/*.yaml")}
    any_models = {path.stem for path in (CONF / "parallel").glob("*.yaml")}
    cases = sorted(shipped | {f"{pair} {TWIN}" for pair in any_models})
    GOLDEN.write_text(json.dumps({case: seen(case) for case in cases}, indent=1) + "\n")
