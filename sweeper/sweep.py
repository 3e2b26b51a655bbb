"""Points -> records: submit or run what is left to run, wait, and print how each ended."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refit.display import Display
from refit.forecast import predict
from refit.job import UserError
from refit.layout.layout import place
from refit.ranks.agent import Agent
from refit.record import environment, record
from refit.record.point import Point, read_json
from sweeper import here, slurm, status, watch
from sweeper.points import DONE, Planned

GOOD = ("ok", "skipped", "submitted", "running")  # what does not fail a sweep


def dry_run(planned: Sequence[Planned], display: Display) -> None:
    """Print every point, its ranks, nodes and what would become of it; then the sbatch files."""
    for each in planned:
        fate = f"skip: {each.skip}" if each.skip else "run"
        if each.kept:
            fate = f"keep: {each.kept['status']}"
        shape, where = "", each.point.job.cluster.launcher
        if not each.skip:
            there = place(each.point.job)
            where = each.point.job.cluster.launcher if each.point.job.mode == "measure" else "plan"
            shape = f"{there.used} of {there.world} ranks, {there.nodes} node(s)"
        display.line(f"{each.point.name}  {shape}  {where}  {fate}")
    for alike in slurm.groups(_on_slurm(planned)).values():
        jobs = -(-len(alike) // alike[0].job.sweep.pack)
        display.line(f"\n{len(alike)} points in {jobs} jobs:")
        made = slurm.executor(alike[0], each.point.directory.parent / ".submitit")
        display.line(made._make_submission_file_text("python -m submitit.core._submit", "dry-run"))


def run(planned: Sequence[Planned], root: Path, display: Display) -> list[dict[str, Any]]:
    """Submit what goes to Slurm, run the rest here one after another, wait; every point's record.

    Args:
        root: the sweep's folder; one controller at a time works on it.

    Raises:
        UserError: another controller holds the folder, or Slurm refuses a job.
    """
    with controller_lock(root):
        distant = _on_slurm(planned)
        if distant and distant[0].job.sweep.here:
            here.run(distant, display.line)
            distant = []
        if distant:
            slurm.check()
            alive = slurm.queued()
            gone = [p for p in distant if not slurm.waits(p, status.get(p)["slurm_id"], alive)]
            missing = [p for p in gone if not _done_meanwhile(p)]
            display.line(
                f"{len(distant) - len(missing)} points are queued, {len(missing)} submitted"
            )
            slurm.submit(missing, root)
        records = {p.point.id: found for p, found in _run_here(planned, display)}
        if distant and distant[0].job.sweep.wait:
            watch.watch(distant, root, display)
    # what stands in their folders is an earlier record
    going_on = {p.id for p in distant if status.get(p)["state"] not in status.FINAL}
    return [
        records.get(p.point.id)
        or (None if p.point.id in going_on else read_json(p.point.timing))
        or _open(p.point)
        for p in planned
    ]


def _done_meanwhile(point: Point) -> bool:
    """Whether a job of another controller has ended well, unless all is to run again."""
    said = status.get(point)
    if said["state"] in ("submitted", "running"):
        watch.has_ended(point, said)  # killed before it could say so for the point
    found = read_json(point.timing) or {}
    return point.job.sweep.mode != "force" and found.get("status") in DONE


def _on_slurm(planned: Sequence[Planned]) -> list[Point]:
    """The points that are to be measured and whose own cluster is a Slurm one."""
    todo = [p.point for p in planned if not p.kept and not p.skip]
    return [
        point
        for point in todo
        if point.job.cluster.launcher == "slurm" and point.job.mode == "measure"
    ]


def _open(point: Point) -> dict[str, Any]:
    """Stands in for the record of a point that was submitted and not waited for."""
    said = status.get(point)
    begun = record.ended(record.begin(point, {}), "skipped", f"{said['state']} {said['slurm_id']}")
    return {**asdict(begun), "status": said["state"]}


def _run_here(
    planned: Sequence[Planned], display: Display
) -> Iterator[tuple[Planned, dict[str, Any]]]:
    """Each point that needs no Slurm, with its record."""
    distant = {point.id for point in _on_slurm(planned)}
    mine = [p for p in planned if p.point.id not in distant]
    with Agent(p.point.job for p in mine) as agent:
        for number, each in enumerate(mine, 1):
            point = each.point
            count = f"[{number}/{len(mine)}] "
            if each.kept:
                when = each.kept["finished_at"]
                display.line(f"{count}{point.job.parallel.name}: kept from {when}")
                yield each, each.kept
            elif each.skip:
                display.line(f"{count}{point.job.parallel.name}: skipped: {each.skip}")
                yield each, _skipped(point, each.skip)
            else:
                display.begin(point.job, count)
                if point.job.mode == "plan":
                    found = predict.run(point)
                    display.predicted(found)
                    yield each, found
                    continue
                with display.progress() as progress:
                    found = agent.run(point, progress)
                display.result(found)
                yield each, found


@contextmanager
def controller_lock(root: Path) -> Iterator[None]:
    """Hold the sweep's folder; it is let go when this process ends, however it ends.

    Raises:
        UserError: another controller holds it, or the folder cannot be written.
    """
    path = root / ".controller"
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"cannot write results to {root}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another controller works on {root}: {path.read_text().strip()}; wait for it, or"
                " choose another folder with hydra.sweep.dir=..."
            ) from None
        with suppress(OSError):  # a full disk: who holds it is then not said, but it is held
            os.ftruncate(file.fileno(), 0)
            holder = f"process {os.getpid()} on {socket.gethostname()} since {record.now()}\n"
            os.write(file.fileno(), holder.encode())
        yield


def _skipped(point: Point, reason: str) -> dict[str, Any]:
    """A record for a point that cannot run; an earlier one stays in its attempt's folder."""
    final = record.ended(record.begin(point, environment.describe()), "skipped", reason)
    try:
        point.directory.mkdir(parents=True, exist_ok=True)
        record.write(point.timing, final)
    except OSError as error:
        raise UserError(f"cannot write results to {point.directory}: {error.strerror}") from None
    return asdict(final)


def summary(
    records: Sequence[dict[str, Any]], planned: Sequence[Planned], display: Display
) -> bool:
    """Print the table and each failure; True when every point is ok or skipped."""
    display.line("")
    display.table(records)
    bad: dict[tuple[str, str], list[Point]] = {}
    for failed, each in zip(records, planned, strict=True):
        if failed["status"] not in GOOD:
            bad.setdefault((failed["status"], failed["reason"]), []).append(each.point)
    for (how, reason), points in bad.items():  # a reason that many points share is said once
        who = points[0].name if len(points) == 1 else f"{len(points)} points"
        paths = "".join(f"\n  record: {point.timing}" for point in points)
        display.line(f"\n{how}: {who}\n  {reason}{paths}")
    counts = [
        f"{n} {s}" for s in dict.fromkeys(r["status"] for r in records) if (n := _count(records, s))
    ]
    display.line(
        f"\n{len(records)} points: {', '.join(counts)};"
        f" records below {planned[0].point.directory.parent}"
    )
    return not bad


def _count(records: Sequence[dict[str, Any]], status: str) -> int:
    return sum(r["status"] == status for r in records)
