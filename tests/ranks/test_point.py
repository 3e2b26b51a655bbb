"""One point through a real agent and real ranks: right weights are ok, anything else is not."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Degrees, Job
from refit.layout.place import place
from refit.ranks.agent import Agent
from refit.record.point import Point, identity
from refit.record.record import SCHEMA, Record
from refit.record.report import WHOLE_CHECKS
from refit.rules import devices, methods
from refit.rules.methods import METHODS
from refit.rules.setup import Setup
from refit.show.words import outcome
from tests.support import shm
from tests.support.jobs import TINY, job, methods_on_cpu
from tests.support.records import ran, verified
from tests.support.sample import crossed, thorough

# nixl is an extra that the test extra brings along, so that it can always run here
ON_CPU = methods_on_cpu()
ON_CUDA = [n for n, m in METHODS.items() if "cuda" in m.devices and not m.plans_itself]


def children() -> list[int]:
    """Process ids below this one, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rsplit(")")[1].split()[1]
                )
            except (OSError, IndexError):
                continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


PAIRS = {
    "tp down, idle rank": job(),
    "tp up": job(Degrees(tp=1, etp=1), Degrees(tp=2, etp=1)),
    "ep up and tp down, collocated": job(
        Degrees(tp=4, ep=1, etp=1), Degrees(tp=2, ep=2, etp=1), "collocated"
    ),
    "etp 2 to 1": job(Degrees(tp=2, ep=1, etp=2), Degrees(tp=1, ep=2, etp=1)),
    "etp 1 to 2": job(Degrees(tp=1, ep=2, etp=1), Degrees(tp=2, etp=2)),
    "pp 2 to 1": job(Degrees(pp=2, etp=1), Degrees(tp=2, etp=1)),
    "pp 1 to 2, replicas": job(Degrees(etp=1, gpus=4), Degrees(pp=2, etp=1, gpus=4), "collocated"),
    "cp 2, tied embeddings to pp 2": job(
        Degrees(cp=2, etp=1),
        Degrees(pp=2, etp=1),
        model=replace(TINY, share_embeddings_and_output_weights=True),
    ),
}


def by(what: Job, device: str, method: str) -> Job:
    """A job on a device by a method, or by a fault on top of one; skips where it cannot be."""
    what = replace(
        what,
        refit=replace(what.refit, method=method),
        cluster=replace(what.cluster, device=device),
    )
    below = method.removeprefix("tests.support.faults:").split("_")[0]
    if reason := methods.unsupported(below, what, place(what)):
        assert device == "cuda", reason
        pytest.skip(reason)
    return what


def each_once() -> list[Any]:
    """Every pair by every method and device; not `thorough` by one of them on CPUs, in turn."""
    cases = []
    for n, pair in enumerate(PAIRS):
        for m, method in enumerate(ON_CPU):
            case = (pair, "cpu", method)
            cases.append(case if m == n % len(ON_CPU) else thorough(case))
        cases += [pytest.param(pair, "cuda", m, marks=pytest.mark.gpu) for m in ON_CUDA]
    return cases


@pytest.mark.parametrize(("pair", "device", "method"), each_once())
def test_every_pair_is_bit_exact(
    agent: Agent, tmp_path: Path, pair: str, device: str, method: str
) -> None:
    what = by(PAIRS[pair], device, method)
    record = verified(agent, tmp_path, what)
    assert len(record["seconds"]["warm"]) == what.bench.iterations
    assert record["seconds"]["median"] <= record["seconds"]["max"]


def test_many_iterations_say_whether_they_drift(agent: Agent, tmp_path: Path) -> None:
    record = ran(agent, tmp_path, job(bench={"iterations": 40}))
    seconds = record["seconds"]
    first, last = sorted(seconds["warm"][:4]), sorted(seconds["warm"][-4:])
    assert seconds["drift"] == pytest.approx((last[1] + last[2]) / (first[1] + first[2]))
    # of the ranks that hold weights, each its own; no part is longer than the whole
    assert set(seconds["phases_per_rank"]) == {"0", "1", "2"}
    for phases in seconds["phases_per_rank"].values():
        assert phases["plan"] + phases["prepare"] + phases["transfer"] <= seconds["cold"]
        assert phases["copy"] <= seconds["max"]
    memory = record["memory"]
    if memory["refit_peak_bytes"] is not None:  # where the kernel keeps a peak
        assert 0 < memory["refit_peak_bytes"] <= memory["host_peak_bytes"]


EVEN, ODD = ON_CPU[::2], ON_CPU[1::2]


@pytest.mark.parametrize("method", [*EVEN, *map(thorough, ODD)])
def test_part_of_the_weights(agent: Agent, tmp_path: Path, method: str) -> None:
    sides = (Degrees(tp=2, ep=2, etp=1), Degrees(tp=4, ep=1, etp=1))
    some = {"exclude": ["*.mlp.experts.*"]}
    record = ran(agent, tmp_path, job(*sides, "collocated", method, refit=some))
    assert (record["status"], record["reason"]) == ("ok", "")
    # what is left out is said, and not among the elements that were found right
    setup = Setup.of(job(*sides, "collocated", method, refit=some))
    moves, destination = setup.travels, setup.placement.destination
    assert moves is not None
    shards = [s for rank in destination.ranks for s in setup.catalogue.held_by(destination, rank)]
    moved, left_out = (
        sum(math.prod(s.shape) for s in shards if moves[s.tensor] == travels)
        for travels in (True, False)
    )
    assert record["verification"]["elements"] == WHOLE_CHECKS * moved
    assert record["plan"]["left_out_tensors"] == 8
    assert record["plan"]["left_out_bytes"] == 2 * left_out  # experts are bfloat16
    assert "8 tensors" in outcome(Record.load(next(tmp_path.glob("*/timing.json"))))


@pytest.mark.parametrize("method", [*map(thorough, EVEN), *ODD])
def test_adapters_alone(agent: Agent, tmp_path: Path, method: str) -> None:
    lora = {"rank": 4, "targets": ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]}
    sides = (Degrees(tp=2, ep=2, etp=1), Degrees(tp=4, ep=1, etp=1))
    what = job(*sides, "collocated", method, model=replace(TINY, lora=lora))
    record, setup = ran(agent, tmp_path, what), Setup.of(what)
    assert (record["status"], record["reason"]) == ("ok", "")
    destination = setup.placement.destination
    shards = [s for rank in destination.ranks for s in setup.catalogue.held_by(destination, rank)]
    assert record["verification"]["elements"] == WHOLE_CHECKS * sum(
        math.prod(s.shape) for s in shards
    )
    assert record["plan"]["left_out_tensors"] == 0


def test_what_is_left_out_is_not_touched(agent: Agent, tmp_path: Path) -> None:
    fault = "tests.support.faults:ipc_WritesWhatIsLeftOut"
    what = job(method=fault, refit={"include": ["*.mlp.experts.*"]})
    record = ran(agent, tmp_path, what)
    assert record["status"] == "invalid"
    # of the one rank with a destination, after the cold refit and after the last
    assert record["verification"]["mismatches"] == 2
    assert "after the cold refit" in record["reason"]


def test_memory_that_grows_is_remarked(agent: Agent, tmp_path: Path) -> None:
    sides = (Degrees(tp=2, etp=1), Degrees(etp=1))
    bench = {"iterations": 20}
    kept = verified(
        agent, tmp_path, job(*sides, method="tests.support.faults:KeepsMemory", bench=bench)
    )
    growth = kept["memory"]["growth_per_rank"]
    assert set(growth) == {"0", "1", "2"}
    # after the first and the last two refits: eighteen times 4 MiB lie between their middles
    assert growth["2"] == kept["memory"]["growth"] > 1.01 > max(growth["0"], growth["1"])
    held = kept["memory"]["host_peak_bytes"]
    assert (growth["2"] - 1) * (held - 18 * (4 << 20)) == pytest.approx(18 * (4 << 20), rel=0.3)
    said = outcome(Record.load(next(tmp_path.glob("*/timing.json"))))
    assert f"remark: memory of rank 2 grew by {growth['2'] - 1:.1%}" in said
    steady = verified(agent, tmp_path / "steady", job(*sides, bench=bench))
    assert steady["memory"]["growth"] == pytest.approx(1, abs=0.01)
    assert "grew" not in outcome(Record.load(next(tmp_path.glob("steady/*/timing.json"))))


@pytest.mark.parametrize(
    ("bucket_mb", "in_flight", "max_ops", "method"),
    crossed(
        [(0.001, 2, 2), (0.02, 3, 3), (0.05, 1, 1000)], [(m,) for m in ON_CPU if METHODS[m].slots]
    ),
)
def test_small_buckets(
    agent: Agent, tmp_path: Path, method: str, bucket_mb: float, in_flight: int, max_ops: int
) -> None:
    knobs = {"bucket_mb": bucket_mb, "in_flight": in_flight, "max_ops_per_group": max_ops}
    what = job(
        Degrees(tp=2, ep=2, etp=1), Degrees(tp=4, ep=1, etp=1), "collocated", method, refit=knobs
    )
    record = verified(agent, tmp_path, what)
    # one index of the widest tensor, the whole fc1 row, may exceed the smallest bucket
    widest = 2 * TINY.hidden_size * 2
    slots = METHODS[method].slots
    assert 0 < record["memory"]["staging_bytes"] <= slots * in_flight * max(bucket_mb * 1e6, widest)
    if method == "gloo":
        assert 2 <= record["transport"]["largest_group_ops"] <= max_ops
    if method == "symmetric":
        assert record["transport"]["heap"] == "shared memory"


def test_nixl_reads_widely_spaced_rows_each_by_itself(agent: Agent, tmp_path: Path) -> None:
    def read(ffn: int, bucket_mb: float = 64.0) -> dict[str, Any]:
        wide = replace(TINY, ffn_hidden_size=ffn)
        pair = (Degrees(), Degrees(tp=2, etp=1))
        record = verified(agent, tmp_path, job(*pair, "non-collocated", "nixl", wide,
                                               refit={"bucket_mb": bucket_mb}))  # fmt: skip
        return dict(record["transport"])

    # half of each row of the dense layer's fc2: 16 000 bytes lie between two rows, or 17 000
    assert read(17_000)["descriptors"] - read(16_000)["descriptors"] == TINY.hidden_size - 1
    assert read(17_000, 0.05)["reads"] > TINY.hidden_size / 3  # of two rows each


GATE_UP = 2 * 48 * 64  # elements of one expert's fc1, gate and up


def last_block() -> int:
    """Elements of the last block that another rank sends to rank 2: of bfloat16."""
    plan = Setup.of(job()).plan()
    return int(plan.nbytes[plan.to_rank(2)][-1]) // 2


WRONG: list[tuple[str, int | None]] = [
    ("SwapsExperts", WHOLE_CHECKS * 2 * GATE_UP),
    ("MisordersGateUp", WHOLE_CHECKS * GATE_UP),
    ("DropsBlock", WHOLE_CHECKS * last_block()),
    ("DeliversStale", None),  # all of the changed ones; of the timed refits, the stamps
]
ON_A_GPU = [
    pytest.param(*wrong, "cuda", method, marks=pytest.mark.gpu)
    for wrong in WRONG
    for method in ON_CUDA
]


@pytest.mark.parametrize(
    ("fault", "wrong", "device", "method"),
    [*crossed(WRONG, [("cpu", method) for method in ON_CPU]), *ON_A_GPU],
)
def test_wrong_weights_are_invalid(
    agent: Agent, tmp_path: Path, fault: str, wrong: int | None, device: str, method: str
) -> None:
    record = ran(agent, tmp_path, by(job(), device, f"tests.support.faults:{method}_{fault}"))
    assert record["status"] == "invalid"
    assert record["seconds"] is None and record["throughput"] is None
    checked = record["verification"]
    wrong = wrong or checked["elements"] // WHOLE_CHECKS
    # of 65536 elements of bfloat16 one is what it should be by chance
    assert 0.999 * wrong <= checked["mismatches"] <= wrong
    if fault in ("SwapsExperts", "MisordersGateUp"):
        assert "decoder.layers.1.mlp.experts.linear_fc1.weight0" in record["reason"]


def test_a_changed_source_is_invalid(agent: Agent, tmp_path: Path) -> None:
    record = ran(agent, tmp_path, job(method="tests.support.faults:ipc_ScribblesOnSource"))
    assert record["status"] == "invalid"
    assert record["verification"]["source_mismatches"] == 1
    assert "changed 1 elements of the source" in record["reason"]


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("Killed", "crashed", "rank 2: ended by SIGKILL while 'timed iteration 1/2'"),
        ("Hangs", "timeout", "rank 2 in 'timed iteration 1/2'"),
        ("RunsOutOfMemory", "oom", "rank 2: "),
        ("Raises", "failed", "rank 2: ValueError: the transport's own words"),
    ],
)
def test_a_rank_that_does_not_finish(
    agent: Agent, tmp_path: Path, fault: str, status: str, words: str
) -> None:
    ran(agent, tmp_path, job())  # the fork server and its helpers are there now
    shared, processes = shm.left(), sorted(children())
    limit = {"deadline_s": 8.0} if fault == "Hangs" else {}
    started = time.monotonic()
    record = ran(agent, tmp_path, job(method=f"tests.support.faults:{fault}", bench=limit))
    assert record["status"] == status
    assert words in record["reason"]
    assert (
        f"attempts{os.sep}0{os.sep}rank" in record["reason"]
    )  # the path of a log, and it is there
    assert Path(record["reason"].rsplit("log: ", 1)[1]).is_file()
    assert time.monotonic() - started < 30
    assert not {*shm.left()} - {*shared}
    assert sorted(children()) == processes
    assert ran(agent, tmp_path, job())["status"] == "ok"  # the agent is none the worse


def test_attempts_stay(agent: Agent, tmp_path: Path) -> None:
    point = Point.of(job(), tmp_path)
    records = [asdict(agent.measure_point(point)) for _ in range(3)]
    for number, record in enumerate(records):
        kept = point.directory / "attempts" / str(number) / "timing.json"
        assert json.loads(kept.read_text()) == record
    assert json.loads(point.timing.read_text()) == records[-1]
    assert Point.load(point.directory) == point


@pytest.mark.skipif(devices.no_cuda() is None, reason="this node has a GPU")
@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("nccl", "nccl needs GPUs; this node has no NVIDIA GPU"),
        ("nvshmem", "nvshmem (pip install 'refit-sweep[nvshmem]')"),
    ],
)
def test_a_missing_device_starts_no_rank(
    agent: Agent, tmp_path: Path, method: str, words: str
) -> None:
    record = ran(agent, tmp_path, job(method=method))
    assert record["status"] == "unsupported"
    assert words in record["reason"]
    assert not list(tmp_path.rglob("rank*.log"))


def test_an_unsupported_method_starts_no_rank(agent: Agent, tmp_path: Path) -> None:
    record = ran(
        agent,
        tmp_path,
        replace(job(ranks_per_node=2), cluster=replace(job().cluster, nodes=2, ranks_per_node=2)),
    )
    assert record["status"] == "unsupported"
    assert "needs one node" in record["reason"] and "refit=gloo" in record["reason"]
    assert not list(tmp_path.rglob("rank*.log"))


def test_more_memory_than_there_is(agent: Agent, tmp_path: Path) -> None:
    huge = replace(TINY, hidden_size=1 << 16, ffn_hidden_size=1 << 18, moe_ffn_hidden_size=1 << 18)
    record = ran(agent, tmp_path, job(model=huge))
    assert record["status"] == "oom"
    assert "is available" in record["reason"] and "model.num_layers" in record["reason"]


def test_a_folder_that_cannot_be_written(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"hydra\.sweep\.dir"):
        agent.measure_point(Point.of(job(), tmp_path / "file"))


def test_schema_and_record_have_the_same_fields() -> None:
    schema = json.loads(SCHEMA.read_text())
    assert set(schema["properties"]) == set(Record.__dataclass_fields__)
    later = {
        "parameters",
        "imported",
    }  # records of this version were written before there were such fields
    assert set(schema["required"]) == set(Record.__dataclass_fields__) - later


def test_identity_is_of_what_affects_the_result() -> None:
    same = replace(
        job(),
        model=replace(TINY, name="other"),
        parallel=replace(job().parallel, name="other", use_case="words"),
        sweep=replace(job().sweep, mode="force"),
        bench=replace(job().bench, deadline_s=1.0),
    )
    assert identity(same) == identity(job())
    others = [
        job(method="gloo"),
        job(seed=1),
        job(bench={"iterations": 9}),
        job(model=replace(TINY, num_layers=4, moe_layer_freq=1)),
        job(mode="collocated"),
        job(build="megatron"),
        job(ranks_per_node=8),
    ]
    assert len({identity(j) for j in [job(), *others]}) == 1 + len(others)
