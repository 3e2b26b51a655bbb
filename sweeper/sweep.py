"""A sweep: points -> records. Submit or run what has no record, wait, print how each ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from refit.forecast import predict
from refit.layout.place import place
from refit.ranks.agent import Agent
from refit.record import lock, varied
from refit.record.point import Point
from refit.record.record import Record
from refit.show.display import Display
from refit.show.running import Running
from sweeper import clients, distant, here, points, room, slurm, status, submitit_side, watch
from sweeper.decisions import Outcome, outcome
from sweeper.hydra_job import AsJob
from sweeper.lanes import lanes
from sweeper.points import Compose, HydraOf, Planned, SweepPlan
from sweeper.snapshot import Snapshot
from sweeper.submission import How
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
        theirs = [(p.point, status.get(p.point)) for p in plan.points if p.is_distant]
        if said := distant.going_on(theirs, root):
            display.line(said)
        raise
    print_summary(outcomes, root, display)
    return outcomes


def print_plan(plan: SweepPlan, root: Path, display: Display) -> None:
    """Print every point, its ranks, nodes and what would become of it; then the sbatch files."""
    for planned in plan.points:
        display.line(_fate(planned))
    theirs = [p.point for p in plan.points if p.is_distant]
    shapes = list(slurm.groups(theirs).values())
    jobs = [-(-len(alike) // plan.settings.pack) for alike in shapes]
    code = Snapshot.of(root).folder if shapes and plan.settings.snapshot else None
    for lane in lanes(jobs, slurm.at_once(theirs)) if shapes else ():
        for number in lane.shapes:
            alike = shapes[number]
            display.line(f"\n{len(alike)} points in {jobs[number]} jobs:")
            made = slurm.executor(alike[0], root, code, lane.at_once)
            display.line(submitit_side.sbatch_text(made, jobs[number]))


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
    if planned.unsupported:
        fate = f"unsupported: {planned.unsupported}"
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
    idle = sum(not p.runs for p in plan.points)
    with lock.held(root), display.running(len(plan.points), idle) as running:
        theirs = [p.point for p in plan.points if p.is_distant]
        queued: list[Point] = []
        how = How(root, plan.settings.pack, say=display.line)
        if theirs and plan.settings.here:
            here.run_steps(theirs, plan.settings.pack, display.line)
            _tell(theirs, running, numbered)
        elif theirs:
            clients.check()
            if plan.settings.snapshot:
                how = replace(how, code=Snapshot.of(root).write())
            queued, ended = distant.queue(theirs, how, plan, display)
            made |= ended
        local = [p for p in plan.points if not p.is_distant]
        _Here(display, running, numbered, as_job, made).run(local)
        if queued and plan.settings.wait:
            watch.watch(queued, how, plan.settings, running, numbered)
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
        runs = [p.point.job for p in local if p.runs]
        if said := room.shortage([job for job in runs if job.mode == "measure"]):
            self._display.line(said)
        with Agent(p.point.job for p in local) as agent:
            for planned in local:
                point = planned.point
                if planned.kept:
                    self._keep(point, planned.kept)
                elif planned.skip:  # the summary says why, once for all of a reason
                    self._made[point.name] = distant.end_here(point, "skipped", planned.skip)
                elif planned.unsupported:
                    self._made[point.name] = distant.end_here(
                        point, "unsupported", planned.unsupported
                    )
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
