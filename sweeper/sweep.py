"""A sweep: points -> records. Submit or run what has no record, wait, print how each ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from refit.display import Display
from refit.forecast import predict
from refit.job import UserError
from refit.layout.place import place
from refit.ranks.agent import Agent
from refit.record import environment, record, varied
from refit.record.point import Point
from refit.record.record import Record
from refit.running import Running
from sweeper import clients, here, points, room, slurm, status, submitit_side, watch
from sweeper.decisions import Outcome, holds, outcome
from sweeper.hydra_job import AsJob
from sweeper.lock import controller_lock
from sweeper.points import Compose, HydraOf, Planned, SweepPlan
from sweeper.summary import print_summary


def run_sweep(
    batch: Sequence[Sequence[str]],
    compose: Compose,
    root: Path,
    display: Display,
    hydra_of: HydraOf = lambda _: None,
    as_job: AsJob = lambda point, run: run(),
) -> list[Outcome]:
    """Plan a sweep, do it and print how it ended; of sweep.dry_run print only what would be done.

    Args:
        batch: the overrides of each point.
        compose: overrides -> job.
        root: the sweep's folder.
        hydra_of: see `sweeper.points.plan_points`.
        as_job: runs a point that runs here.

    Returns:
        How each point ended; empty for a dry run.

    Raises:
        UserError: what is asked for is wrong (`sweeper.points.plan_points`), another controller
            holds the folder, or Slurm refuses a job.
    """
    plan = points.plan_points(batch, compose, root, display.line, hydra_of)
    if plan.settings.dry_run:
        print_plan(plan, root, display)
        return []
    made: dict[str, Record] = {}
    try:
        outcomes = run_points(plan, root, display, as_job, made)
    except KeyboardInterrupt:
        print_summary(so_far(plan, made), root, display)
        raise
    print_summary(outcomes, root, display)
    return outcomes


def print_plan(plan: SweepPlan, root: Path, display: Display) -> None:
    """Print every point, its ranks, nodes and what would become of it; then the sbatch files."""
    for planned in plan.points:
        display.line(_fate(planned))
    for alike in slurm.groups(p.point for p in plan.points if p.is_distant).values():
        jobs = -(-len(alike) // plan.settings.pack)
        display.line(f"\n{len(alike)} points in {jobs} jobs:")
        display.line(submitit_side.sbatch_text(slurm.executor(alike[0], root)))


def _fate(planned: Planned) -> str:
    """A point's name, ranks and nodes, where it would run, and what becomes of it."""
    job, shape = planned.point.job, ""
    where = job.cluster.launcher
    if not planned.skip:
        placement = place(job)
        where = where if job.mode == "measure" else "plan"
        ranks = f"{placement.used} of {placement.world} ranks"
        shape = f"{ranks}, {placement.nodes} node(s)"
    fate = f"skip: {planned.skip}" if planned.skip else "run"
    if planned.kept:
        fate = f"keep: {planned.kept.status}"
    return f"{planned.point.name}  {shape}  {where}  {fate}"


def run_points(
    plan: SweepPlan,
    root: Path,
    display: Display,
    as_job: AsJob = lambda point, run: run(),
    made: dict[str, Record] | None = None,
) -> list[Outcome]:
    """Submit what goes to Slurm, run the rest here one after another, wait; how each point ended.

    Args:
        root: the sweep's folder; one controller at a time works on it.
        as_job: runs a point that runs here.
        made: takes each record that this process makes or keeps, by the point's name.

    Raises:
        UserError: another controller holds the folder, or Slurm refuses a job.
    """
    made = {} if made is None else made
    numbered = _numbered([p.point for p in plan.points])
    idle = sum(bool(p.kept or p.skip) for p in plan.points)
    with controller_lock(root), display.running(len(plan.points), idle) as running:
        distant = [p.point for p in plan.points if p.is_distant]
        queued: list[Point] = []
        if distant and plan.settings.here:
            here.run_steps(distant, plan.settings.pack, display.line)
            _tell(distant, running, numbered)
        elif distant:
            queued, refused = _queue(distant, root, plan, display)
            made |= refused
        local = [p for p in plan.points if not p.is_distant]
        _Here(display, running, numbered, as_job, made).run(local)
        if queued and plan.settings.wait:
            watch.watch(queued, root, plan.settings, display.line, running, numbered)
    with_slurm = {point.name for point in queued}
    return [_outcome(p.point, made, p.point.name in with_slurm) for p in plan.points]


def _tell(points: Sequence[Point], running: Running, numbered: watch.Numbered) -> None:
    for point in points:
        if ended := Record.find(point.timing):
            running.told(*numbered[point.name], ended)


def _numbered(points: Sequence[Point]) -> watch.Numbered:
    configs = [point.job.to_dict() for point in points]
    labels = varied.labels(configs, varied.axes(configs))
    named = enumerate(zip(points, labels, strict=True), 1)
    return {point.name: (number, label) for number, (point, label) in named}


def so_far(plan: SweepPlan, made: Mapping[str, Record]) -> list[Outcome]:
    """How each point stands where a sweep is interrupted; `pending` where it had not begun.

    Args:
        made: what this process has made or kept.
    """
    return [
        _outcome(p.point, made, p.is_distant)
        if p.is_distant or p.point.name in made
        else Outcome(p.point, "pending", None)
        for p in plan.points
    ]


def _outcome(point: Point, made: Mapping[str, Record], is_distant: bool) -> Outcome:
    found = made.get(point.name)
    stored = None if found else Record.find(point.timing)
    return outcome(point, status.get(point), found, stored, is_distant=is_distant)


def _queue(
    distant: Sequence[Point], root: Path, plan: SweepPlan, display: Display
) -> tuple[list[Point], dict[str, Record]]:
    """Submit what no job holds and no other controller has done meanwhile.

    Returns:
        What is then queued, and the records of what Slurm refuses, by the points' names.

    Raises:
        UserError: it refuses all points of the sweep, in its own words; then there is no record.
    """
    clients.check()
    alive = clients.queue()
    standings = [(p, status.get(p)) for p in distant]
    without_job = [p for p, standing in standings if not holds(standing, standing.slurm_id, alive)]
    done = {p.name for p in without_job if _is_done(p, plan.settings.mode)}
    missing = [p for p in without_job if p.name not in done]
    display.line(f"{len(distant) - len(missing)} points are queued, {len(missing)} submitted")
    refused = slurm.submit(missing, root, plan.settings.pack)
    if len(refused) == len(plan.points):
        raise UserError(next(iter(refused.values())).words)
    made: dict[str, Record] = {}
    for point in (p for p in missing if p.name in refused):
        attempt, words = refused[point.name]
        display.line(f"{point.name}: {words}")
        made[point.name] = _ended(point, "failed", words)
        status.put(point, "failed", attempt, "")
    return [p for p in distant if p.name not in done | refused.keys()], made


def _is_done(point: Point, mode: str) -> bool:
    """Whether a job of another controller has ended it, unless all is to run again."""
    standing = status.get(point)
    if standing.state in ("submitted", "running"):
        watch.take_in_record(point, standing)  # killed before it could say so for the point
    return points.earlier(point, mode)[0] is not None


class _Here:
    """Runs, predicts, keeps or skips each point that needs no Slurm, and says how it ended."""

    def __init__(
        self,
        display: Display,
        running: Running,
        numbered: watch.Numbered,
        as_job: AsJob,
        made: dict[str, Record],
    ) -> None:
        self._display, self._running, self._numbered = display, running, numbered
        self._as_job, self._made = as_job, made

    def run(self, local: Sequence[Planned]) -> None:
        """One after another; each record is in `made` as soon as the point has ended."""
        runs = [p.point.job for p in local if not p.kept and not p.skip]
        if said := room.shortage([job for job in runs if job.mode == "measure"]):
            self._display.line(said)
        with Agent(p.point.job for p in local) as agent:
            for planned in local:
                point = planned.point
                if planned.kept:
                    self._keep(point, planned.kept)
                elif planned.skip:  # the summary says why, once for all of a reason
                    self._made[point.name] = _ended(point, "skipped", planned.skip)
                else:
                    self._run_one(point, agent)

    def _keep(self, point: Point, kept: Record) -> None:
        self._made[point.name] = kept
        note = f" (kept from {kept.finished_at[:16]}Z)"
        self._running.told(*self._numbered[point.name], kept, note)

    def _run_one(self, point: Point, agent: Agent) -> None:
        """Predict or measure a point, and say how it ended."""
        number, label = self._numbered[point.name]
        if self._display.is_verbose:
            self._display.begin(point.job, f"[{number}/{len(self._numbered)}] ")
        self._running.doing(label)

        def run() -> Record:
            if point.job.mode == "plan":
                return predict.predict_point(point)
            return agent.measure_point(point, lambda what: self._running.doing(f"{label}: {what}"))

        try:
            record = self._made[point.name] = self._as_job(point, run)
        except KeyboardInterrupt:
            if (stored := Record.find(point.timing)) and stored.status == "interrupted":
                self._made[point.name] = stored
            raise
        if self._display.is_verbose:
            self._display.result(record)
        else:
            self._running.told(number, label, record)
        self._running.ended()


def _ended(point: Point, how: record.Status, reason: str) -> Record:
    """A record for a point that cannot run; an earlier one stays in its attempt's folder."""
    try:
        point.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write results to {point.directory}: {error.strerror}") from None
    begun = record.begin(point, _environment())
    return record.keep(record.ended(begun, how, reason), point.timing)


@cache
def _environment() -> dict[str, Any]:
    """This machine and code, asked once per process and not once per point that is skipped."""
    return environment.of_controller()
