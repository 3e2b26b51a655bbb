"""Measured records -> a cluster option that fits them: `python -m refit.calibrate DIR`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from refit import program
from refit.forecast.fit import HeldOut, Row, base, fit, leave_one_out, row_of
from refit.job import UserError
from refit.record import record
from refit.record.point import write_atomic
from refit.rules.methods import METHODS


def read(folder: Path) -> list[Row]:
    """Every verified measurement below a folder.

    Raises:
        UserError: there is none, a file is no record, or one is by another planner.
    """
    rows, others = [], 0
    for path in sorted(folder.glob("**/timing.json")):
        if path.parent.parent.name == "attempts":
            continue
        try:
            found = record.Record.load(path)
        except record.NotARecord as error:
            raise UserError(f"{path}: {error}; remove it, or run its point again") from None
        # an estimate is of a plan of ours
        measured = found.kind == "measured" and found.status == "ok" and not _by_another(found)
        rows += [row_of(found, path)] if measured else []
        others += not measured
    if not rows:
        raise UserError(
            f"no verified measurement below {folder} ({others} records of other kinds);"
            " measure first: python -m refit.run -m 'parallel=glob(*)'"
        )
    return rows


def _by_another(found: record.Record) -> bool:
    """Whether its refits were planned by the method itself."""
    return found.method in METHODS and METHODS[found.method].plans_itself


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


def table(left: Sequence[HeldOut]) -> list[str]:
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
    parser = program.parser("refit.calibrate", __doc__)
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


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}


if __name__ == "__main__":
    program.run(main)
