"""An agent that itself fails, or whose disk does: the point ends all the same."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import Cluster, Job
from refit.program import Interrupted
from refit.ranks import agent as agents
from refit.ranks import processes
from refit.ranks.agent import Agent
from refit.ranks.nodes import Nodes
from refit.record.measured import measured
from refit.record.point import Point
from refit.record.record import Ended, Record
from refit.rules import methods
from refit.rules.setup import Setup
from tests.support.jobs import job
from tests.support.records import ran


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """From now on, starting ranks raises."""

    def run_ranks(*_: Any) -> None:
        raise error

    monkeypatch.setattr(processes, "run_ranks", run_ranks)


def test_an_error_of_the_agent_is_a_failed_record(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        broken(patch, RuntimeError("a mistake of ours"))
        record = ran(agent, tmp_path, job())
    assert record["status"] == "failed"
    assert record["reason"].startswith("agent of node 0: RuntimeError: a mistake of ours")
    log = Path(record["reason"].rsplit("log: ", 1)[1])
    assert log.name == "agent0.log" and log.read_text().startswith("Traceback (most recent call")


def test_a_rank_that_cannot_be_started_is_a_failed_record(agent: Agent, tmp_path: Path) -> None:
    ran(agent, tmp_path, job())  # the agent's own memory is open now
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    # a rank takes three of them to have, and more to start
    most = [number for number in range(soft) if number not in used][12]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        record = ran(agent, tmp_path, job())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert record["status"] == "failed"
    assert re.match(r"rank \d of 4 could not be started: OSError: ", record["reason"])
    assert f"open files are limited (ulimit -n {most})" in record["reason"]
    assert ran(agent, tmp_path, job())["status"] == "ok"  # the next try, by the same agent


def test_an_interrupt_is_a_record_that_replaces_none_that_is_ok(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = Point.of(job(), tmp_path)
    agent.measure_point(point)
    other = Point.of(job(seed=1), tmp_path)
    broken(monkeypatch, Interrupted(signal.SIGHUP))
    for interrupted in (point, other):
        with pytest.raises(KeyboardInterrupt):
            agent.measure_point(interrupted)
    newest = [Record.load(p.attempt(n).timing) for p, n in ((point, "1"), (other, "0"))]
    assert [(r.status, r.reason) for r in newest] == [("interrupted", "interrupted by SIGHUP")] * 2
    assert Record.load(point.timing).status == "ok"
    assert Record.load(other.timing).status == "interrupted"


def test_a_method_that_is_not_there_is_unsupported(agent: Agent, tmp_path: Path) -> None:
    for method in ("nomod:Cls", "refit.nomod:Cls", "refit.transport.gloo:"):
        record = ran(agent, tmp_path, job(method=method))
        assert record["status"] == "unsupported"
        assert f"no refit method '{method}': it cannot be imported here" in record["reason"]


def on_node_1(folder: Path) -> tuple[Point, Nodes]:
    """A point of two nodes, whose other one has said no more than where to meet."""
    what: Job = replace(
        job(method="nomod:Cls"), cluster=Cluster(name="pair", nodes=2, ranks_per_node=2)
    )
    point = Point.of(what, folder)
    point.freeze()
    first = Nodes(point.attempt("0"), 0, 2)
    first.agree(Setup.of(what), 1.0)
    return point, first


def test_a_record_that_does_not_come_is_not_a_full_disk(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "RECORD_S", 0.3)
    point, _ = on_node_1(tmp_path)
    record = agent.measure_point(point, attempt="0", node=1, nodes=2)
    assert record.status == "failed"
    assert record.reason == "node 0 has not written its record in 0.3 s"
    assert not point.timing.exists()  # which is node 0's to write


def test_the_other_nodes_are_told_of_an_agent_that_fails(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "RECORD_S", 0.1)
    point, first = on_node_1(tmp_path)

    def breaks(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(methods, "unsupported", breaks)
    agent.measure_point(point, attempt="0", node=1, nodes=2)
    assert first.another_failed()
    verdict, reports = first.verdict(Ended("ok"), [])
    assert verdict.status == "failed" and reports == []
    assert verdict.reason.startswith("agent of node 1: RuntimeError: a mistake of ours")


def test_a_disk_that_is_full_is_a_failed_record_without_times(agent: Agent, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system to fill cannot be mounted here; run as root to test it")
    try:
        earlier = ran(agent, disk, job())
        point = Point.of(job(), disk)
        # rank logs and attempts find room, and the record does not
        (disk / "filler").write_bytes(bytes(36 * 1024))
        with pytest.MonkeyPatch.context() as patch:
            original = measured

            def fill_up(*arguments: Any) -> Any:
                with (disk / "more").open("wb", buffering=0) as file:
                    try:
                        while file.write(bytes(512)):
                            pass
                    except OSError:
                        pass
                return original(*arguments)

            patch.setattr(agents, "measured", fill_up)
            record = agent.measure_point(point)
        assert (record.status, record.seconds, record.throughput) == ("failed", None, None)
        assert "timing.json: No space left on device" in record.reason
        assert json.loads(point.timing.read_text()) == earlier
    finally:
        subprocess.run(["umount", str(disk)], check=True)
