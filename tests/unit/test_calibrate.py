"""Fitting an estimate: known terms are found again, and real records can be read and left out."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from refit.calibrate import read
from refit.errors import UserError
from refit.forecast import cost, predict
from refit.forecast.fit import base, fit, leave_one_out
from refit.job import Cluster, Degrees, Hardware, Job
from refit.record.point import Point
from refit.rules.setup import Setup
from tests.support.jobs import TINY, job
from tests.support.reports import write_measured

LINKS = Hardware(memory_gbps=40, peer_gbps=20, node_gbps=25, nic_gbps=1, latency_us=3)
KNOWN = {
    "ipc": cost.Fit(wire=1.25, latency_us=4.0, staging=0.0, fixed_us=50.0),
    "gloo": cost.Fit(wire=2.0, latency_us=30.0, staging=1.5, fixed_us=90.0),
}
SHAPES = [(2, 1, 1, 1), (4, 1, 2, 1), (1, 4, 1, 2), (2, 2, 4, 1), (4, 2, 2, 4), (1, 2, 1, 1)]


def known_jobs() -> list[Job]:
    """Six shapes of two sizes by both methods, on links that the cluster states."""
    found = []
    for tp, ep, to_tp, to_ep in SHAPES:
        sides = Degrees(tp=tp, ep=ep, etp=1), Degrees(tp=to_tp, ep=to_ep, etp=1)
        for method in KNOWN:
            for hidden in (64, 512):
                model = replace(TINY, hidden_size=hidden)
                made = job(*sides, method=method, model=model, refit={"bucket_mb": 0.1})
                found.append(replace(made, cluster=Cluster("c", ranks_per_node=16, hardware=LINKS)))
    # one more in two stages: to four replicas on a node of their own
    staged = job(Degrees(tp=4, etp=1), Degrees(etp=1, gpus=4), method="gloo",
                 refit={"bucket_mb": 0.1, "fanout": "hierarchical"})  # fmt: skip
    return [*found, replace(staged, cluster=Cluster("c", ranks_per_node=4, hardware=LINKS))]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records whose times are exactly those of `KNOWN`."""
    root = tmp_path_factory.mktemp("known")
    for made in known_jobs():
        known = replace(LINKS, fitted={name: asdict(terms) for name, terms in KNOWN.items()})
        told = replace(made, cluster=replace(made.cluster, hardware=known))
        estimate = predict.predict(Setup.of(told)).estimate
        assert estimate is not None
        write_measured(Point.of(made, root), estimate.seconds)
    return root


@pytest.fixture
def known(written: Path, tmp_path: Path) -> Path:
    """A copy of them to change."""
    return Path(shutil.copytree(written, tmp_path / "known"))


def test_known_terms_are_found_again(known: Path) -> None:
    rows = read(known)
    assert len(rows) == 25
    fits = fit(rows, base(rows))
    for method, terms in KNOWN.items():
        assert asdict(fits[method]) == pytest.approx(asdict(terms), rel=1e-6, abs=1e-6)
    left = leave_one_out(rows)
    assert len(left) == 25
    assert max(abs(one.errors[1]) for one in left) < 1e-6
    assert min(abs(one.errors[0]) for one in left) > 0.01


def test_a_row_is_predicted_without_itself(known: Path) -> None:
    rows = read(known)
    odd = replace(rows[0], seconds=100 * rows[0].seconds)
    (left,) = [one for one in leave_one_out([odd, *rows[1:]]) if one.row is odd]
    assert left.errors[1] == pytest.approx(1 / 100 - 1, rel=1e-6)
    # a repetition of it is left out with it
    (left, _) = [one for one in leave_one_out([odd, odd, *rows[1:]]) if one.row is odd]
    assert left.errors[1] == pytest.approx(1 / 100 - 1, rel=1e-6)


def test_terms_never_go_below_the_links(known: Path) -> None:
    rows = [replace(row, seconds=row.seconds / 1e6) for row in read(known)]
    for found in fit(rows, base(rows)).values():
        assert asdict(found) == asdict(cost.Fit(1.0, 0.0, 0.0, 0.0))


def test_what_cannot_be_used_is_named(known: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no verified measurement below"):
        read(tmp_path / "nowhere")
    path = next(known.glob("*/timing.json"))
    whole = json.loads(path.read_text())
    for change, words in (
        ({"schema_version": 3}, "schema version 3, and this reads 1 and 2"),
        ({"plan": {**whole["plan"], "bytes": 1}}, "says 1 bytes, its config plans"),
    ):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(UserError, match=words):
            read(known)
    # of a method that plans for itself nothing can be estimated: it is left out
    path.write_text(json.dumps({**whole, "method": "megatron"}))
    assert len(read(known)) == len(list(known.glob("*/timing.json"))) - 1
    path.write_text('{"schema_version": 2}')
    with pytest.raises(UserError, match="not a record: "):
        read(known)
    path.write_text("{")
    with pytest.raises(UserError, match="not a whole JSON object"):
        read(known)


def test_clusters_are_not_mixed(known: Path) -> None:
    rows = read(known)
    other = replace(rows[0].job.cluster, hardware=replace(LINKS, nic_gbps=2.0))
    mixed = replace(rows[0], job=replace(rows[0].job, cluster=other))
    with pytest.raises(UserError, match="clusters with different hardware"):
        base([mixed, *rows[1:]])
