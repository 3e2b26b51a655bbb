"""Measured records -> a cluster option that fits them: `python -m refit.calibrate DIR`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from refit import program
from refit.errors import UserError
from refit.forecast.fit import HeldOut, Row, base, fit, leave_one_out, row_of
from refit.record.files import write_output
from refit.record.record import NotARecord, Record, now
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
            measurement = Record.load(path)
        except NotARecord as error:
            raise UserError(f"{path}: {error}; remove it, or run its point again") from None
        usable = _is_usable(measurement)
        rows += [row_of(measurement, path)] if usable else []
        others += not usable
    if not rows:
        raise UserError(
            f"no verified measurement below {folder} ({others} records of other kinds);"
            " measure first: python -m refit.run -m 'parallel=glob(*)'"
        )
    return rows


def _is_usable(record: Record) -> bool:
    """Whether it is a verified measurement, by a plan of ours: what an estimate is of."""
    by_another = record.method in METHODS and METHODS[record.method].plans_itself
    return record.kind == "measured" and record.status == "ok" and not by_another


def option(name: str, rows: Sequence[Row]) -> str:
    """The text of a cluster option with what these rows show."""
    hardware = base(rows)
    fits = {method: asdict(terms) for method, terms in fit(rows, hardware).items()}
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
        f"# Fitted by refit.calibrate to {len(rows)} measured refits, until {now()[:10]}."
        f" Run it with\n#   python -m refit.run cluster={name} mode=plan\n"
        + yaml.safe_dump(body, sort_keys=False)
    )


def table(held_out: Sequence[HeldOut]) -> list[str]:
    """Predicted against measured, one line per row, and the median error of each method."""
    width = max(len(test.row.name) for test in held_out)
    lines = [f"{'row':{width}}  method  measured s  before s   error  left out s   error"]
    for test in held_out:
        before, after = test.errors
        lines.append(
            f"{test.row.name:{width}}  {test.row.method:6}  {test.row.seconds:10.4f}"
            f"  {test.before:8.4f} {before:+7.0%}  {test.after:10.4f} {after:+7.0%}"
        )
    for method in dict.fromkeys(test.row.method for test in held_out):
        mine = [test.errors for test in held_out if test.row.method == method]
        sizes = [statistics.median(abs(e[i]) for e in mine) for i in (0, 1)]
        worst = [max(abs(e[i]) for e in mine) for i in (0, 1)]
        lines.append(
            f"{method}: {len(mine)} rows, median error {sizes[0]:.0%} before, {sizes[1]:.0%} after;"
            f" largest {worst[0]:.0%} before, {worst[1]:.0%} after"
        )
    return lines


def main(arguments: Sequence[str]) -> int:
    """Print the fit's errors by leave-one-out, and write the option where it is asked for.

    Raises:
        UserError: see `read` and `base`; or the output exists or cannot be written.
    """
    parser = program.parser("refit.calibrate", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds measured timing.json files")
    parser.add_argument("--output", metavar="FILE", type=Path, help="conf/cluster/<name>.yaml")
    parser.add_argument("--force", action="store_true", help="replace the output")
    options = parser.parse_args(arguments)
    if options.output and options.output.exists() and not options.force:
        raise UserError(f"{options.output} exists; add --force to replace it, or name another")
    rows = read(options.folder)
    text = option(options.output.stem if options.output else "calibrated", rows)
    held_out = leave_one_out(rows)
    if held_out:
        print("\n".join(table(held_out)))
    for row in rows:
        if row not in [test.row for test in held_out]:
            print(f"{row.name}: no other row of method {row.method}, so it cannot be left out")
    print()
    if not options.output:
        print(text, end="")
        return 0
    try:
        write_output(options.output, text)
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror}") from None
    print(f"written: {options.output}")
    return 0


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}


if __name__ == "__main__":
    program.exit_with(main)
