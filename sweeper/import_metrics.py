"""Refits that a training run timed itself, as records: `python -m sweeper.import_metrics FILE`.

They stand beside the plan, of kind imported, and are never ok.

FILE is a log, or lines of JSON: MX_REFIT_TIMING (ModelExpress), perf/update_weights_time (slime),
timing_s/update_weights (verl), prepare_for_generation/transfer_and_update_weights (NeMo-RL),
time/broadcast_weights (prime-rl). Overrides, as those of refit.run, say whose refit it is.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refit import __version__, compose, program
from refit.errors import UserError
from refit.job import Job
from refit.record.imported import Imported
from refit.record.point import identity
from refit.record.record import Record, now, write
from refit.show.display import Display
from sweeper import floor, logs

UNKNOWN = "unknown"
NOT_PROVEN = "not proven: times that another program wrote down, and no weight was looked at here"


def record_of(found: Imported, name: str, job: Job | None, overrides: Sequence[str]) -> Record:
    """The record of what a log says of one metric.

    Args:
        name: of the run, for the point's folder.
        job: whose refit it is; None where nobody says, and then every field of the config is null.
        overrides: that the job was made of.
    """
    of_what = identity(job) if job else name
    unique = hashlib.sha256(f"imported {found.source} {of_what}".encode()).hexdigest()[:10]
    config = job.to_dict() if job else _nothing_known(name)
    kind = found.source.lower().replace("/", "-")
    return Record(
        status="imported",
        reason=f"{NOT_PROVEN} ({found.file})",
        id=unique,
        name=f"{name}-imported-{kind}-{unique}",
        overrides=list(overrides),
        config=config,
        placement=job.placement_mode if job else UNKNOWN,
        clock={"imported": logs.CLOCKS[found.source]},
        environment=_elsewhere(),
        started_at=now(),
        finished_at=now(),
        kind="imported",
        imported=found,
    )


def _elsewhere() -> dict[str, Any]:
    """Of what ran on a machine that nobody here has seen."""
    known = dict.fromkeys(("cpus", "python", "commit", "dirty", "partition"))
    named = {"host": UNKNOWN, "platform": UNKNOWN, "refit_sweep": __version__}
    return {**known, **named, "nodes": [], "slurm": {}, "commit_missing": "it was imported"}


def _nothing_known(name: str) -> dict[str, Any]:
    """A config of nulls, so that no model or layout is claimed that nobody named."""

    def nulls(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: nulls(value) if isinstance(value, Mapping) else None
            for key, value in values.items()
        }

    plain = nulls(Job().to_dict())
    for group in ("model", "refit", "cluster"):
        plain[group]["name"] = UNKNOWN
    plain["parallel"]["name"] = name
    return {**plain, "build": UNKNOWN, "seed": 0, "sweep": {**plain["sweep"], "repetition": 1}}


def main(arguments: Sequence[str]) -> int:
    """Write a record for each metric that the file has.

    Raises:
        UserError: the file cannot be read, or has none; an override is wrong; or a record cannot
            be written.
    """
    parser = program.parser("sweeper.import_metrics", __doc__)
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="model=..., parallel=...")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("results"))
    parser.add_argument("--name", metavar="NAME", help="of the run (default: the file's)")
    parser.add_argument(
        "--limit-of",
        metavar="POINT",
        type=Path,
        help="FILE is what NIXL's ct-perftest printed of this point's plan: its limit",
    )
    options = parser.parse_intermixed_args(arguments)
    try:
        lines = options.file.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {options.file}: {error.strerror or error}") from None
    display = Display()
    if options.limit_of:
        display.line(floor.into_record(lines, options.file.name, options.limit_of))
        return 0
    job = None
    if options.overrides:
        with compose.configs():
            job = compose.job(options.overrides)
    for path, record in _write(lines, options, job):
        found = record.imported
        assert found is not None
        display.line(f"written: {path}: {len(found.seconds)} refits, median {found.median:.4g} s")
    return 0


def _write(lines: Sequence[str], options: Any, job: Job | None) -> list[tuple[Path, Record]]:
    read = logs.read(lines, options.file.name)
    if read.left_out:
        print(f"left out: {read.left_out} values that are no time", file=sys.stderr)
    if not read.found:
        raise UserError(
            f"{options.file} has none of the metrics that are read: {', '.join(logs.CLOCKS)}"
        )
    written = []
    for found in read.found:
        record = record_of(found, options.name or options.file.stem, job, options.overrides)
        path = options.output / record.name / "timing.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, record)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        written.append((path, record))
    return written


if __name__ == "__main__":
    program.exit_with(main)
