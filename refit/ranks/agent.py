"""One per node, torch-free: starts a point's ranks, watches a deadline, says how they ended."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing.util import get_temp_dir
from typing import Any

from refit.job import Job
from refit.layout.layout import Placement, place
from refit.layout.tensors import Catalogue
from refit.model.architecture import catalogue
from refit.model.convention import convention
from refit.plan.build import build_plan
from refit.ranks import processes
from refit.ranks.nodes import Nodes, Stopped
from refit.ranks.task import Task
from refit.record import environment, moved, record
from refit.record.point import Point, read_json, write_atomic
from refit.record.record import Ended, Record
from refit.rules import devices, methods
from refit.weights import memory
from refit.weights.slab import Slab, SlabSource

Progress = Callable[[str], None]

RECORD_S = 60.0  # for node 0 to write the record, once a node has ended


class Agent:
    """Runs points on this node, one after another, each with fresh rank processes.

    The ranks are forked from a server that has imported torch and megatron-core once. Use it as a
    context manager: on the way out, whatever the reason, no rank is left.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        """
        Args:
            jobs: what will run: megatron-core and nixl are imported ahead only where one of them
                uses them.
        """
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["refit.ranks.worker", *_preloads(jobs)])
        # made here, the children's sockets go below it, and it goes with this process
        get_temp_dir()
        self._slab_source = SlabSource()
        pages = self._slab_source.huge_pages
        self._environment = {**environment.describe(), "huge_pages": pages}
        self._slabs: dict[int, Slab] = {}

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        for slab in self._slabs.values():
            slab.close()
        self._slab_source.close()

    def run(
        self,
        point: Point,
        progress: Progress = lambda _: None,
        attempt: str | None = None,
        node: int = 0,
        nodes: int = 1,
    ) -> dict[str, Any]:
        """Run this node's part of a point; returns its timing.json, read back from the disk.

        The job must be possible (`refit.rules`). Whatever happens to its ranks is a status in the
        record, not an exception. A record that the disk refuses is returned all the same, as
        failed.

        Args:
            attempt: the attempt's name, on which the agents of all nodes agree; None: the next
                number, and the config is frozen here.
            node, nodes: this node's number among those that run the point together.

        Raises:
            UserError: the point's folder cannot be made.
        """
        if attempt is None:
            point.freeze()
        team = Nodes(point.attempt(attempt), node, nodes)
        begun = record.begin(point, self._environment)
        try:
            final = self._measure(point, team, begun, progress)
        except Exception as error:  # the other nodes must not wait for this one's last words
            with suppress(OSError):
                team.say(Ended("failed", f"agent of node {node}: {type(error).__name__}: {error}"))
                if node > 0:  # whose end may have Slurm end node 0 before that has written it down
                    team.wait_for_record(RECORD_S)
            raise
        timing = team.attempt.timing
        try:
            if node > 0:
                team.wait_for_record(RECORD_S)
            elif final is not None:
                record.write(timing, final)
            text = timing.read_text()
            if node == 0:
                write_atomic(point.timing, text)
            return dict(json.loads(text))
        except OSError as error:
            lost = f"cannot write {point.timing}: {error.strerror or error}"
            reason = f"{lost}; {final.reason}" if final and final.reason else lost
            return asdict(record.ended(final or begun, "failed", reason))

    def _measure(
        self, point: Point, team: Nodes, begun: Record, progress: Progress
    ) -> Record | None:
        """The record of a point without times, or None where rank 0 has written one."""
        job = point.job
        placement = place(job)
        method, why = methods.choose(job, placement)
        form, build = convention(job)
        tensors = catalogue(job.model, placement.source.tp, form)
        begun = record.placed(
            begun, placement, build_plan(tensors, placement, job.refit.fanout), method, why, build
        )
        if method in methods.PLANS_ITSELF and begun.plan is not None:
            begun = replace(begun, plan=moved.unknown(begun.plan))
        reason = methods.unsupported(method, job, placement)
        if reason:
            return record.ended(begun, "unsupported", reason)
        here = range(placement.world)  # one agent alone also runs the ranks of pretended nodes
        if team.count > 1:
            start = team.node * placement.ranks_per_node
            here = here[start : start + placement.ranks_per_node]
        # what a GPU has free only its ranks can ask: see refit.ranks.device
        reason = self._shortage(tensors, placement, here) if devices.device(job) == "cpu" else None
        ended: Ended | None = Ended("oom", reason) if reason else None
        if ended is None:
            ended = self._run_ranks(job, team, placement, here, begun, progress)
        team.say(ended)
        if team.node > 0:
            return None
        verdict = team.verdict(ended)
        if verdict.status in ("ok", "invalid") and read_json(team.attempt.timing):
            return None
        return record.ended(begun, verdict.status, verdict.reason)

    def _run_ranks(
        self,
        job: Job,
        team: Nodes,
        placement: Placement,
        here: range,
        begun: Record,
        progress: Progress,
    ) -> Ended | None:
        deadline_s = job.bench.deadline_s
        try:
            with team.meeting(deadline_s) as (host, port, listener):
                tasks = [
                    Task(
                        job,
                        team.attempt,
                        rank,
                        placement.world,
                        host,
                        port,
                        threads=max(1, (os.cpu_count() or 1) // placement.ranks_per_node),
                        slab=self._slab(rank),
                        begun=begun if rank == 0 else None,
                    )
                    for rank in here
                ]
                stop = team.another_failed if team.count > 1 else None
                return processes.run(self._context, tasks, listener, deadline_s, progress, stop)
        except Stopped:
            return None
        except TimeoutError as error:
            return Ended("timeout", str(error))

    def _shortage(self, tensors: Catalogue, placement: Placement, here: range) -> str | None:
        """As `memory.shortage`; what earlier points left is given back before it says no."""
        reason = memory.shortage(tensors, placement, here, self._slabs)
        if reason:
            for slab in self._slabs.values():
                slab.clear()
            reason = memory.shortage(tensors, placement, here)
        return reason

    def _slab(self, rank: int) -> Slab:
        if rank not in self._slabs:
            self._slabs[rank] = self._slab_source.slab()
        return self._slabs[rank]


def _preloads(jobs: Iterable[Job]) -> list[str]:
    """What takes seconds to import and can be forked.

    Nothing where ranks use a GPU: a process that has touched CUDA cannot be forked, and whether
    these imports do depends on what else is installed.
    """
    found = set()
    for job in jobs:
        if devices.device(job) == "cpu":
            found |= {"refit.weights.megatron_build"} if job.build == "megatron" else set()
            found |= {"nixl"} if job.refit.method == "nixl" else set()
    return sorted(found)
