"""Measured records -> a cluster option that fits them: `python -m refit.calibrate DIR`."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from refit import cost, program, record
from refit.architecture import LOCAL_SPEC, PRODUCTION, catalogue
from refit.job import Hardware, Job, UserError
from refit.layout import place
from refit.plan import build_plan
from refit.point import read_json, write_atomic


@dataclass(frozen=True)
class Row:
    """A measured point: what it moves, how, and its seconds.

    Attributes:
        stages: of its plan, as it was carried out.
        seconds: the record's median.
        rate_gbps: the best rate seen in its run: of the refit, or of the memory copy beside it.
        group: rows that differ in nothing but chance; they are left out together.
    """

    name: str
    method: str
    job: Job
    stages: tuple[cost.Traffic, ...]
    seconds: float
    rate_gbps: float
    group: str

    def features(self, hardware: Hardware) -> cost.Features:
        """What its estimate is linear in, on these links."""
        refit = self.job.refit
        return cost.total([cost.features(t, hardware, self.method, refit) for t in self.stages])


@dataclass(frozen=True)
class Left:
    """A row and what is predicted for it, in seconds, without and with a fit of the others."""

    row: Row
    before: float
    after: float

    @property
    def errors(self) -> tuple[float, float]:
        """Relative error before and after: 0.1 is ten percent too long."""
        return self.before / self.row.seconds - 1, self.after / self.row.seconds - 1


def read(folder: Path) -> list[Row]:
    """Every verified measurement below a folder.

    Raises:
        UserError: there is none, or a record is of another schema version or by another planner.
    """
    rows, others = [], 0
    for path in sorted(folder.glob("**/timing.json")):
        if path.parent.parent.name == "attempts":
            continue
        found = read_json(path)
        if found is None:
            raise UserError(f"{path} is not a whole JSON object; remove it or run its point again")
        version = found.get("schema_version")
        if version != record.SCHEMA_VERSION:
            raise UserError(
                f"{path} is of schema version {version}, and this reads {record.SCHEMA_VERSION};"
                " calibrate with the code that wrote it, or measure again"
            )
        try:
            measured = found["kind"] == "measured" and found["status"] == "ok"
            rows += [row_of(found, path)] if measured else []
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a record of ours ({type(error).__name__}: {error}); remove it, or"
                " run its point again"
            ) from None
        others += not measured
    if not rows:
        raise UserError(
            f"no verified measurement below {folder} ({others} records of other kinds);"
            " measure first: python -m refit.run -m 'parallel=glob(*)'"
        )
    return rows


def row_of(found: dict[str, Any], path: Path) -> Row:
    """The row of a record that is measured and ok.

    Raises:
        UserError: its bytes are not those of the plan that this code makes of its config.
    """
    job = Job.from_dict(found["config"])
    placement, build = place(job), found["model_build"]
    whole = build["build"] == "shards" or build.get("transformer_engine", False)
    tensors = catalogue(job.model, placement.source.tp, PRODUCTION if whole else LOCAL_SPEC)
    plan = build_plan(tensors, placement, job.refit.fanout)
    if plan.total_bytes != found["plan"]["bytes"]:
        raise UserError(
            f"{path} says {found['plan']['bytes']} bytes, its config plans {plan.total_bytes};"
            " calibrate with the code that wrote it, or measure again"
        )
    alike = (job.model, job.parallel, job.refit, job.cluster.ranks_per_node, found["method"])
    throughput = found["throughput"]
    return Row(
        found["name"],
        found["method"],
        job,
        tuple(cost.Traffic.of(stage) for stage in plan.stages),
        found["seconds"]["median"],
        max(throughput["gbps"], throughput["limit_gbps"]),
        repr(alike),
    )


def base(rows: Sequence[Row]) -> Hardware:
    """The links, before anything is fitted: what the records' cluster states, or what they show.

    A CPU's ranks share one memory. Its rate is the best seen in any run, which is what makes the
    floor one; what a rank alone can reach is not measured, and taken to be no less.

    Raises:
        UserError: the records are of clusters that state different rates, or not those they need.
    """
    stated = {repr(row.job.cluster.hardware): row.job.cluster.hardware for row in rows}
    if len(stated) > 1:
        names = sorted({row.job.cluster.name for row in rows})
        raise UserError(
            f"the records are of clusters with different hardware ({', '.join(names)});"
            " calibrate each from a folder of its own"
        )
    (hardware,) = stated.values()
    if hardware.peer_gbps is None:
        best = max(row.rate_gbps for row in rows)
        hardware = replace(
            hardware, device="cpu", node_gbps=best, peer_gbps=best, memory_gbps=2 * best
        )
    for row in rows:
        if missing := cost.lacking(hardware, row.stages[0].plan):
            raise UserError(f"{row.name} needs {missing}, which its cluster does not state")
    return replace(hardware, fitted=None)


def fit(rows: Sequence[Row], hardware: Hardware) -> dict[str, cost.Fit]:
    """Each method's terms: least squares of the relative error, with no term below its minimum."""
    fits = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        found = [row.features(hardware) for row in mine]
        wire = np.array([f.wire_s + f.imbalance_s for f in found])
        columns = np.array(
            [wire, [f.operations * 1e-6 for f in found], [f.staging_s for f in found],
             [1e-6] * len(found)]
        )  # fmt: skip
        seconds = np.array([row.seconds for row in mine])
        # wire is 1 or more: what is fitted is what comes on top of the links' own time
        extra = _not_negative((columns / seconds).T, 1 - wire / seconds)
        fits[method] = cost.Fit(1 + extra[0], extra[1], extra[2], extra[3])
    return fits


def leave_one_out(rows: Sequence[Row]) -> list[Left]:
    """Each row predicted from the others alone, links included; a row without peers is left out."""
    found = []
    for row in rows:
        others = [other for other in rows if other.group != row.group]
        if row.method not in {other.method for other in others}:
            continue
        hardware = base(others)
        fits = fit(others, hardware)
        features = row.features(hardware)
        plain = cost.Fit(latency_us=hardware.latency_us)
        before, after = (cost.estimate(features, f).seconds for f in (plain, fits[row.method]))
        found.append(Left(row, before, after))
    return found


def option(name: str, rows: Sequence[Row]) -> str:
    """The text of a cluster option with what these rows show."""
    hardware = base(rows)
    fits = {method: asdict(found) for method, found in fit(rows, hardware).items()}
    cluster = rows[0].job.cluster
    stated = {k: v for k, v in asdict(hardware).items() if v is not None}
    body = {
        "name": name,
        "launcher": cluster.launcher,
        "nodes": cluster.nodes,
        "ranks_per_node": cluster.ranks_per_node,
        "hardware": {**_rounded(stated), "fitted": {m: _rounded(f) for m, f in fits.items()}},
    }
    if cluster.slurm is not None:
        body["slurm"] = cluster.slurm
    return (
        f"# Fitted by refit.calibrate to {len(rows)} measured refits, until {record.now()[:10]}."
        f" Run it with\n#   python -m refit.run cluster={name} mode=plan\n"
        + yaml.safe_dump(body, sort_keys=False)
    )


def table(left: Sequence[Left]) -> list[str]:
    """Predicted against measured, one line per row, and the median error of each method."""
    width = max(len(one.row.name) for one in left)
    lines = [f"{'row':{width}}  method  measured s  before s   error  left out s   error"]
    for one in left:
        before, after = one.errors
        lines.append(
            f"{one.row.name:{width}}  {one.row.method:6}  {one.row.seconds:10.4f}"
            f"  {one.before:8.4f} {before:+7.0%}  {one.after:10.4f} {after:+7.0%}"
        )
    for method in dict.fromkeys(one.row.method for one in left):
        mine = [one.errors for one in left if one.row.method == method]
        sizes = [statistics.median(abs(e[i]) for e in mine) for i in (0, 1)]
        worst = [max(abs(e[i]) for e in mine) for i in (0, 1)]
        lines.append(
            f"{method}: {len(mine)} rows, median error {sizes[0]:.0%} before, {sizes[1]:.0%} after;"
            f" largest {worst[0]:.0%} before, {worst[1]:.0%} after"
        )
    return lines


def main(arguments: Sequence[str]) -> int:
    """Print the fit's errors by leave-one-out, and write the option where asked.

    Raises:
        UserError: see `read` and `base`; or the output exists or cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m refit.calibrate", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds measured timing.json files")
    parser.add_argument("--output", metavar="FILE", type=Path, help="conf/cluster/<name>.yaml")
    parser.add_argument("--force", action="store_true", help="replace the output")
    asked = parser.parse_args(arguments)
    if asked.output and asked.output.exists() and not asked.force:
        raise UserError(f"{asked.output} exists; add --force to replace it, or name another")
    rows = read(asked.folder)
    text = option(asked.output.stem if asked.output else "calibrated", rows)
    left = leave_one_out(rows)
    if left:
        print("\n".join(table(left)))
    for row in rows:
        if row not in [one.row for one in left]:
            print(f"{row.name}: no other row of method {row.method}, so it cannot be left out")
    print()
    if not asked.output:
        print(text, end="")
        return 0
    try:
        write_atomic(asked.output, text)
    except OSError as error:
        raise UserError(f"cannot write {asked.output}: {error.strerror}") from None
    print(f"written: {asked.output}")
    return 0


def _not_negative(a: cost.FloatArray, b: cost.FloatArray) -> list[float]:
    """argmin |a x - b| with x >= 0, [columns]; exact, by trying every set of columns."""
    best, found = float(b @ b), np.zeros(a.shape[1])
    for size in range(1, a.shape[1] + 1):
        for chosen in combinations(range(a.shape[1]), size):
            part = a[:, chosen]
            scale = np.linalg.norm(part, axis=0)
            if not scale.all():
                continue
            x = np.linalg.lstsq(part / scale, b, rcond=None)[0] / scale
            residual = float(((part @ x - b) ** 2).sum())
            # a larger set must be better by more than rounding
            if (x >= 0).all() and residual < best * (1 - 1e-9) - 1e-24:
                best, found = residual, np.zeros(a.shape[1])
                found[list(chosen)] = x
    return [float(v) for v in found]


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}


if __name__ == "__main__":
    program.run(main)
