"""Records in the form of another tool: `python -m sweeper.export results --github`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from refit import program
from refit.errors import UserError
from refit.record.point import write_atomic
from refit.record.record import Record
from refit.show.display import Display
from sweeper import where
from sweeper.collect import EXIT_INCOMPLETE, by_file
from sweeper.export import github, jsonl, mlflow, nixl, refit_timing, wandb

TEXTS: dict[str, tuple[Callable[[Sequence[Record]], str], str]] = {
    "jsonl": (jsonl.text, "one flat line a point, for Grafana and DuckDB"),
    "github": (github.text, "the list that github-action-benchmark takes"),
    "refit-timing": (refit_timing.text, "ModelExpress's MX_REFIT_TIMING lines"),
}
"""Formats that are one text: printed, or with --output written."""


def main(arguments: Sequence[str]) -> int:
    """Export what is asked for; 1 if a file had to be left out.

    Raises:
        UserError: the folder holds no record, or none of those asked for; a library is missing, or
            a file cannot be written.
    """
    options = _parser().parse_args(arguments)
    wanted = where.parsed(options.where)
    found, refused = by_file(options.folder)
    for path, why in refused.items():
        print(f"left out: {path}: {why}", file=sys.stderr)
    if not found:
        raise UserError(f"no records in {options.folder}: it has no */timing.json that can be read")
    if wanted:
        chosen = {id(record) for record in where.chosen(list(found.values()), wanted)}
        found = {path: record for path, record in found.items() if id(record) in chosen}
    try:
        _export(options, found)
    except OSError as error:
        if program.is_of_stdout(error) or isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"cannot write {error.filename}: {error.strerror or error}") from None
    return EXIT_INCOMPLETE if refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = program.parser("sweeper.export", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds <point>/timing.json")
    form = parser.add_mutually_exclusive_group(required=True)
    for name, (_, text) in TEXTS.items():
        form.add_argument(f"--{name}", dest="text", action="store_const", const=name, help=text)
    form.add_argument(
        "--nixl", action="store_true", help="each plan's bytes, rank by rank, for its ct-perftest"
    )
    form.add_argument("--mlflow", metavar="URI", help="a run each; sqlite:///mlflow.db, http://...")
    form.add_argument("--wandb", choices=("offline", "online"), help="a run each")
    parser.add_argument(
        "--output", metavar="PATH", type=Path, help="a file, for --nixl and --wandb a folder"
    )
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        default="refit-sweep",
        help="of --mlflow, the project of --wandb (default: refit-sweep)",
    )
    where.add_option(parser)
    return parser


def _export(options: argparse.Namespace, found: Mapping[Path, Record]) -> None:
    display, files, records = Display(), list(found.items()), list(found.values())
    if options.text:
        text = TEXTS[options.text][0](records)
        untimed = sum(record.seconds is None for record in records)
        if untimed and options.text != "jsonl":
            print(f"left out: {untimed} records without verified times", file=sys.stderr)
        if options.output is None:
            sys.stdout.write(text)
            return
        write_atomic(options.output, text)
        display.line(f"written: {options.output}")
    elif options.nixl:
        for path in nixl.write(records, options.output or Path("nixl")):
            display.line(f"written: {path}")
    elif options.mlflow:
        new = mlflow.export(files, options.mlflow, options.experiment)
        display.line(f"{new} new runs of {len(files)} records in {options.experiment}")
    else:
        folder = options.output or Path()
        count = wandb.export(files, options.wandb, options.experiment, folder)
        display.line(f"{count} runs in {folder / 'wandb'}; wandb sync sends offline ones")


if __name__ == "__main__":
    program.exit_with(main)
