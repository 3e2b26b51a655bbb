"""A sweep: points -> records. Submit or run what has no record, wait, print how each ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from refit import program
from refit.display import Display
from refit.forecast import predict
from refit.layout.place import place
from refit.ranks.agent import Agent
from refit.record import record
from refit.record.allocation import elsewhere
from refit.record.point import Point
from refit.record.record import Record
from refit.weights import memory
from sweeper import clients, distant, here, points, room, slurm, status, submitit_side, watch
from sweeper.controller import controller_lock
from sweeper.decisions import Outcome, outcome
from sweeper.hydra_job import AsJob
from sweeper.lanes import lanes
from sweeper.points import Compose, HydraOf, Planned, SweepPlan
from sweeper.snapshot import Snapshot
from sweeper.submission import How


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
    outcomes = run_points(plan, root, display, as_job)
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
    if planned.kept:
        fate = f"keep: {planned.kept.status}"
    return f"{planned.point.name}  {shape}  {where}  {fate}"


def run_points(
    plan: SweepPlan,
    root: Path,
    display: Display,
    as_job: AsJob = lambda point, run: run(),
) -> list[Outcome]:
    """Submit what goes to Slurm, run the rest here one after another, wait; how each point ended.

    Args:
        root: the sweep's folder; one controller at a time works on it.
        as_job: runs a point that runs here.

    Raises:
        UserError: another controller holds the folder, or Slurm refuses a job.
    """
    with controller_lock(root):
        theirs = [p.point for p in plan.points if p.is_distant]
        try:
            queued, made = _run_all(plan, theirs, root, display, as_job)
        except program.Interrupted:
            if said := distant.going_on([(p, status.get(p)) for p in theirs], root):
                display.line(said)
            raise
    with_slurm = {point.name for point in queued}
    return [
        outcome(
            point,
            status.get(point),
            made.get(point.name),
            None if point.name in made else Record.find(point.timing),
            is_distant=point.name in with_slurm,
        )
        for point in (p.point for p in plan.points)
    ]


def _run_all(
    plan: SweepPlan, theirs: Sequence[Point], root: Path, display: Display, as_job: AsJob
) -> tuple[list[Point], dict[str, Record]]:
    """What is with Slurm, and the records that were made here, by the points' names."""
    queued: list[Point] = []
    made: dict[str, Record] = {}
    how = How(root, plan.settings.pack, say=display.line)
    if theirs and plan.settings.here:
        here.run_steps(theirs, plan.settings.pack, display.line)
    elif theirs:
        clients.check()
        if plan.settings.snapshot:
            how = replace(how, code=Snapshot.of(root).write())
        queued, made = distant.queue(theirs, how, plan, display)
    made |= _run_here([p for p in plan.points if not p.is_distant], display, as_job)
    if queued and plan.settings.wait:
        watch.watch(queued, how, plan.settings, display)
    return queued, made


def _run_here(local: Sequence[Planned], display: Display, as_job: AsJob) -> dict[str, Record]:
    """Run, predict, keep or skip each point that needs no Slurm; the records by point's name."""
    made: dict[str, Record] = {}
    runs = [p.point.job for p in local if not p.kept and not p.skip]
    if said := room.shortage([job for job in runs if job.mode == "measure"]):
        display.line(said)
    with Agent(p.point.job for p in local) as agent:
        for number, planned in enumerate(local, 1):
            count = f"[{number}/{len(local)}] "
            point = planned.point
            if planned.kept or planned.skip:
                made[point.name] = _left_out(planned, count, display)
                continue
            display.begin(point.job, count)
            run = partial(_run_one, point, agent, display)
            made[point.name] = as_job(point, run)
    return made


def _left_out(planned: Planned, count: str, display: Display) -> Record:
    """Keep or skip a point, and print why; its record."""
    point = planned.point
    if planned.kept:
        when = planned.kept.finished_at
        display.line(f"{count}{point.job.parallel.name}: kept from {when}")
        return planned.kept
    assert planned.skip
    display.line(f"{count}{point.job.parallel.name}: skipped: {planned.skip}")
    return distant.end_here(point, "skipped", planned.skip)


def _run_one(point: Point, agent: Agent, display: Display) -> Record:
    """Predict or measure a point, and print how it ended; its record."""
    if point.job.mode == "plan":
        predicted = predict.predict_point(point)
        display.predicted(predicted)
        return predicted
    with display.progress() as progress:
        measured = agent.measure_point(point, progress)
    display.result(measured)
    return measured


def print_summary(outcomes: Sequence[Outcome], root: Path, display: Display) -> None:
    """Print the table, why points are not ok, and how many ended how."""
    display.line("")
    # one without a record has a row all the same: what it is, and where it stands
    rows = [o.record or record.begin(o.point, {}) for o in outcomes]
    display.table(rows, [o.state for o in outcomes])
    largest = max((o.reason for o in outcomes if not o.is_good), default="", key=memory.needed_gb)
    bad: dict[tuple[str, str], list[Point]] = {}
    for ended in outcomes:
        if not ended.is_good:
            # of all that do not fit this machine's memory the largest says it
            reason = largest if memory.needed_gb(ended.reason) else ended.reason
            bad.setdefault((ended.state, reason), []).append(ended.point)
    for ended in outcomes:
        if ended.record and (where := elsewhere(ended.point.job, ended.record.environment)):
            display.line(f"\n{ended.point.name}: {where}; its record will not be kept")
    for (state, reason), alike in bad.items():  # a reason that many points share is said once
        who = alike[0].name if len(alike) == 1 else f"{len(alike)} points"
        paths = "".join(f"\n  record: {point.timing}" for point in alike)
        display.line(f"\n{state}: {who}\n  {reason}{paths}")
    counts = Counter(o.state for o in outcomes)
    states = ", ".join(f"{n} {state}" for state, n in counts.items())
    display.line(f"\n{len(outcomes)} points: {states}; records below {root}")
