"""Records of a results folder as a table, CSV or Parquet: `python -m sweeper.collect DIR`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_type_hints

from refit import program
from refit.errors import UserError
from refit.record.files import write_output
from refit.record.record import NotARecord, Record
from refit.record.row import Row
from refit.show.display import Display
from sweeper import where

EXIT_INCOMPLETE = 1


def read(folder: Path) -> tuple[list[Record], dict[Path, str]]:
    """Every record one level below a folder, by name, and why other files are none."""
    records, refused = by_file(folder)
    return list(records.values()), refused


def by_file(folder: Path) -> tuple[dict[Path, Record], dict[Path, str]]:
    """As `read`, with each record's file."""
    records, refused = {}, {}
    for path in sorted(folder.glob("*/timing.json")):
        try:
            records[path] = Record.load(path)
        except NotARecord as error:
            refused[path] = str(error)
    return records, refused


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per row below the names; empty where there is no value.

    A text that a spreadsheet would take for a formula and run has an apostrophe before it.

    Raises:
        OSError: as from the file system.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in asdict(row).items()})
    write_output(path, text.getvalue())


def _cell(value: object) -> object:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """The same columns in their types, also where no row has a value.

    Raises:
        UserError: pyarrow is not installed.
        OSError: as from the file system.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "--parquet needs pyarrow: pip install 'refit-sweep[parquet]'; --csv needs nothing"
        ) from None
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    types[bool] = pyarrow.bool_()
    columns = []
    for name, hint in get_type_hints(Row).items():
        plain = getattr(hint, "__args__", (hint,))[0]  # X of X | None
        columns.append(pyarrow.field(name, types[plain]))
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], pyarrow.schema(columns))
    parquet.write_table(table, path)


def main(arguments: Sequence[str]) -> int:
    """Print the table and write what is asked for; 1 if a file had to be left out.

    Raises:
        UserError: the folder holds no record, or none of those asked for; or a file cannot be
            written.
    """
    parser = program.parser("sweeper.collect", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds <point>/timing.json")
    parser.add_argument("--csv", metavar="FILE", type=Path)
    parser.add_argument("--parquet", metavar="FILE", type=Path)
    where.add_option(parser)
    options = parser.parse_args(arguments)
    wanted = where.parsed(options.where)
    records, refused = read(options.folder)
    for path, why in refused.items():
        print(f"left out: {path}: {why}", file=sys.stderr)
    if not records:
        left_out = f" that can be read; {len(refused)} left out" if refused else ""
        raise UserError(f"no records in {options.folder}: it has no */timing.json{left_out}")
    records = where.chosen(records, wanted)
    display = Display()
    display.listing(records)
    frozen = {path.parent for path in options.folder.glob("*/point.json")}
    waiting = len([point for point in frozen if not (point / "timing.json").exists()])
    display.line(f"\n{len(records)} records, {len(refused)} left out, {waiting} points without one")
    rows = [Row.of(record) for record in records]
    for write, path in ((write_csv, options.csv), (write_parquet, options.parquet)):
        if path:
            try:
                write(rows, path)
            except OSError as error:
                raise UserError(f"cannot write {path}: {error.strerror or error}") from None
            display.line(f"written: {path}")
    return EXIT_INCOMPLETE if refused else 0


if __name__ == "__main__":
    program.exit_with(main)
