"""One per node, torch-free: starts a point's ranks, watches a deadline, says how they ended."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.util import get_temp_dir
from typing import Any

from refit.errors import UserError
from refit.forecast import predict
from refit.job import Job
from refit.ranks import processes, server
from refit.ranks.meeting import Meeting
from refit.ranks.nodes import Nodes, Stopped
from refit.ranks.task import Task
from refit.record import environment, moved, record
from refit.record.measured import measured
from refit.record.point import Point
from refit.record.record import Ended, Record
from refit.record.report import RankReport
from refit.rules import devices, methods
from refit.rules.setup import Setup
from refit.weights import memory
from refit.weights.slab import Kept, Slab, anonymous

Progress = Callable[[str], None]

RECORD_S = 60.0  # for node 0 to write the record, once a node has ended


class Agent:
    """Runs points on this node, one after another, each with fresh rank processes.

    The ranks are forked from a server that has imported torch and megatron-core once. Use it as a
    context manager: on the way out, whatever the reason, no rank is left.
    """

    def __init__(self, jobs: Iterable[Job], around: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            jobs: what will run: megatron-core and nixl are imported ahead only where one of them
                uses them.
            around: what else is known of this environment, for the records.
        """
        server.open_more_files()
        server.tune()
        self._context = multiprocessing.get_context("forkserver")
        os.environ[server.AHEAD] = ",".join([*server.ALWAYS, *_preloads(jobs)])
        # named and not imported, as it imports torch at once
        self._context.set_forkserver_preload(["refit.ranks.ahead"])
        # made here, the children's sockets go below it, and it goes with this process
        get_temp_dir()
        self._slabs = Kept()
        pages = self._slabs.huge_pages
        self._environment = {**environment.describe(), "huge_pages": pages, **(around or {})}
        self._meetings: dict[int, Slab] = {}  # by node, of which a single agent may pretend several
        self._plan = anonymous()  # the parts of its ranks

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        for slab in (*self._meetings.values(), self._plan):
            slab.close()
        self._slabs.close()

    def measure_point(
        self,
        point: Point,
        progress: Progress = lambda _: None,
        attempt: str | None = None,
        node: int = 0,
        nodes: int = 1,
    ) -> Record:
        """Measure this node's part of a point; returns its record, which node 0 writes.

        The job must be possible (`refit.rules`). Whatever happens to its ranks, or to this agent,
        is a status in the record and no exception. A record that the disk refuses is returned all
        the same, as failed.

        Args:
            attempt: the attempt's name, on which the agents of all nodes agree; None: the next
                number, and the config is frozen here.
            node, nodes: this node's number among those that run the point together.

        Raises:
            UserError: the point's folder cannot be made.
            KeyboardInterrupt: as it came; the attempt's record says so.
        """
        if attempt is None:
            point.freeze()
        team = Nodes(point.attempt(attempt), node, nodes)
        around = {**self._environment, **environment.with_variables(point.variables)}
        begun = record.begin(point, around)
        try:
            final = self._measure(point, team, begun, progress)
        except Exception as error:
            final = self._broken(team, begun, error)
        except KeyboardInterrupt as signal:
            if node == 0:
                _interrupted(point, team, begun, signal)
            raise
        if final is not None:
            return record.keep(final, team.attempt.timing, point.timing)
        return _record_of_node_0(team, begun)

    def _broken(self, team: Nodes, begun: Record, error: Exception) -> Record | None:
        """As `_measure`, where the agent itself has failed.

        The other nodes are told, as they would wait for this one to say how it ended.
        """
        if isinstance(error, UserError):
            reason = f"agent of node {team.node}: {error}"
        else:
            reason = f"agent of node {team.node}: {type(error).__name__}: {error}"
            log = team.attempt.agent_log(team.node)
            with suppress(OSError):
                log.write_text("".join(traceback.format_exception(error)))
            reason += processes.tail(log)
        with suppress(OSError):
            team.say(Ended("failed", reason))
        return record.ended(begun, "failed", reason) if team.node == 0 else None

    def _measure(
        self, point: Point, team: Nodes, begun: Record, progress: Progress
    ) -> Record | None:
        """On node 0 the record of a point, None on the others."""
        setup, elements, forecast_s = Setup.of(point.job), [], None
        if team.node == 0:
            plan, build = setup.plan(), setup.build
            elements, forecast_s = plan.elements_to.tolist(), predict.estimate_s(setup, plan)
            begun = record.placed(
                begun, setup.job.model, setup.placement, plan, setup.method, setup.why, build
            )
            if methods.plans_itself(setup.method) and begun.plan is not None:
                begun = replace(begun, plan=moved.unknown(begun.plan))
        try:
            setup = team.agree(setup, point.job.bench.deadline_s)
            ended, reports = self._run_node(setup, team, progress, self._context_of(point))
        except Stopped:
            ended, reports = None, []
        except TimeoutError as error:
            ended, reports = Ended("timeout", str(error)), []
        team.say(ended, reports)
        if team.node > 0:
            return None
        verdict, reports = team.verdict(ended, reports)
        if verdict.status == "ok":
            return measured(begun, reports, point.job.cluster.hardware, elements, forecast_s)
        return record.ended(begun, verdict.status, verdict.reason)

    def _run_node(
        self, setup: Setup, team: Nodes, progress: Progress, context: processes.Context
    ) -> tuple[Ended | None, list[RankReport]]:
        """How this node's ranks ended, or why they were not started; and what they measured.

        Raises:
            Stopped: another node failed.
            TimeoutError: node 0 did not say where to meet.
        """
        job, placement = setup.job, setup.placement
        if reason := methods.unsupported(setup.method, job, placement):
            return Ended("unsupported", reason), []
        here = range(placement.world)  # one agent alone also runs the ranks of pretended nodes
        if team.count > 1:
            start = team.node * placement.ranks_per_node
            here = here[start : start + placement.ranks_per_node]
        # what a GPU has free only its ranks can ask: see `refit.ranks.device`
        on_cpu = devices.device(job) == "cpu"
        sides = memory.needed(setup.catalogue, placement, here) if on_cpu else ([], [])
        sizes = {rank: both for rank, *both in zip(here, *sides, strict=False)}
        if on_cpu and (reason := self._shortage(setup, here, sizes)):
            return Ended("oom", reason), []
        waits = on_cpu and context is self._context and not server.is_there()
        deadline_s, threads = job.bench.deadline_s, len(os.sched_getaffinity(0))
        nodes = {placement.node_of(rank) for rank in here}
        meetings = {node: self._meeting(node, placement.ranks_per_node) for node in nodes}
        self._plan.clear()
        with team.meeting(deadline_s) as (host, port, listener):
            tasks = [
                Task(
                    setup,
                    team.attempt,
                    rank,
                    host,
                    port,
                    threads=max(1, threads // placement.ranks_per_node),
                    slab=self._slabs.of(rank),
                    meeting=meetings[placement.node_of(rank)],
                    neighbours=placement.neighbours(rank),
                    plan=self._plan,
                    of_agent=here,
                )
                for rank in here
            ]
            stop = team.another_failed if team.count > 1 else None
            heard = threading.Event()

            def said(doing: str) -> None:
                heard.set()
                progress(doing)

            # until the first rank is there: the server still imports, on one core
            with self._slabs.touching(sizes if waits and threads > 1 else {}, heard):
                return processes.run_ranks(context, tasks, listener, deadline_s, said, stop)

    def _context_of(self, point: Point) -> processes.Context:
        """What starts its ranks: what the fork server imported was imported without variables."""
        has_variables = point.variables or point.job.cluster.env
        return multiprocessing.get_context("spawn") if has_variables else self._context

    def _shortage(
        self, setup: Setup, here: range, sizes: Mapping[int, Sequence[int]]
    ) -> str | None:
        """As `memory.shortage`; what earlier points left is given back before it says no.

        Args:
            sizes: by rank, bytes of each side.
        """
        catalogue, placement = setup.catalogue, setup.placement
        self._slabs.fit({rank: sum(both) for rank, both in sizes.items()})
        reason = memory.shortage(catalogue, placement, here, self._slabs.by_rank)
        if reason:
            self._slabs.clear()
            reason = memory.shortage(catalogue, placement, here)
        return reason

    def _meeting(self, node: int, ranks: int) -> Slab:
        if node not in self._meetings:
            self._meetings[node] = anonymous()
        return Meeting.room(self._meetings[node], ranks)


def _record_of_node_0(team: Nodes, begun: Record) -> Record:
    """On the others. Slurm may kill the whole job once this task exits: node 0 writes first."""
    try:
        team.wait_for_record(RECORD_S)
    except TimeoutError:
        reason = f"node 0 has not written its record in {RECORD_S:g} s"
        return record.ended(begun, "failed", reason)
    return Record.load(team.attempt.timing)


def _interrupted(point: Point, team: Nodes, begun: Record, signal: KeyboardInterrupt) -> None:
    """Leave a record; the point keeps an earlier one that is ok."""
    final = record.ended(begun, "interrupted", f"interrupted by {signal or 'SIGINT'}")
    earlier = Record.find(point.timing)
    kept = earlier is not None and earlier.status == "ok"
    record.keep(final, team.attempt.timing, *([] if kept else [point.timing]))


def _preloads(jobs: Iterable[Job]) -> list[str]:
    """What takes seconds to import and can be forked, as a rule (`refit.ranks.ahead`)."""
    modules: set[str] = set()
    for job in jobs:
        if devices.device(job) == "cpu":  # NIXL's UCX may ask CUDA what is there
            modules.update(methods.preload(job.refit.method))
        if job.build == "megatron":
            modules.add("refit.weights.megatron_build")
    return sorted(modules)
