"""Records of a results folder as a table, CSV or Parquet: `python -m sweeper.collect DIR`."""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from refit import program
from refit.display import Display, cells, seconds_of, used_ranks
from refit.job import UserError
from refit.record import record
from refit.record.point import read_json, write_atomic

EXIT_INCOMPLETE = 1


@dataclass(frozen=True)
class Row:
    """One point, flat. `None` where the record reports nothing; docs/numbers.md says the rest."""

    name: str
    id: str
    kind: str
    model: str
    parallel: str
    refit: str
    method: str | None
    mode: str
    cluster: str
    build: str
    seed: int
    repetition: int
    status: str
    reason: str
    ranks: int | None  # that hold weights
    world: int | None
    bytes: int | None
    cross_node_bytes: int | None
    cold_s: float | None
    median_s: float | None
    p90_s: float | None
    max_s: float | None
    drift: float | None
    floor_s: float | None
    estimate_s: float | None
    gbps: float | None
    limit_gbps: float | None
    limit_source: str | None
    fraction: float | None
    refit_peak_bytes: int | None
    elements: int | None
    mismatches: int | None
    host: str | None
    commit: str | None
    dirty: bool | None
    started_at: str
    finished_at: str
    overrides: str


def flat(found: dict[str, Any]) -> Row:
    """The row of a record.

    Raises:
        KeyError, TypeError: it is no record.
    """
    config, layout = found["config"], found["layout"]
    plan, seconds = found["plan"] or {}, found["seconds"] or {}
    throughput, checked = found["throughput"] or {}, found["verification"] or {}
    around = found["environment"]
    return Row(
        name=found["name"],
        id=found["id"],
        kind=found["kind"],
        model=config["model"]["name"],
        parallel=config["parallel"]["name"],
        refit=config["refit"]["name"],
        method=found["method"],
        mode=found["mode"],
        cluster=config["cluster"]["name"],
        build=config["build"],
        seed=config["seed"],
        repetition=config["sweep"].get("repetition", 1),  # records made before it was a field
        status=found["status"],
        reason=found["reason"],
        ranks=used_ranks(layout) if layout else None,
        world=layout["world"] if layout else None,
        bytes=plan.get("bytes"),
        cross_node_bytes=plan.get("cross_node_bytes"),
        cold_s=seconds.get("cold"),
        median_s=seconds.get("median"),
        p90_s=seconds.get("p90"),
        max_s=seconds.get("max"),
        drift=seconds.get("drift"),
        floor_s=seconds_of(found, "floor"),
        estimate_s=seconds_of(found, "estimate"),
        gbps=throughput.get("gbps"),
        limit_gbps=throughput.get("limit_gbps"),
        limit_source=throughput.get("limit_source"),
        fraction=throughput.get("fraction"),
        refit_peak_bytes=(found["memory"] or {}).get("refit_peak_bytes"),
        elements=checked.get("elements"),
        mismatches=checked.get("mismatches"),
        host=around.get("host"),
        commit=around.get("commit"),
        dirty=around.get("dirty"),
        started_at=found["started_at"],
        finished_at=found["finished_at"],
        overrides=shlex.join(found["overrides"]),
    )


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """Every record one level below a folder, by name, and why other files are none."""
    records, refused = [], {}
    for path in sorted(folder.glob("*/timing.json")):
        found = read_json(path)
        if found is None:
            refused[path] = "not a whole JSON object, or it cannot be read"
        elif (version := found.get("schema_version")) != record.SCHEMA_VERSION:
            refused[path] = f"schema version {version}, and this reads {record.SCHEMA_VERSION}"
        else:
            try:
                flat(found), cells(found)
            except (KeyError, TypeError, AttributeError) as error:
                refused[path] = f"not a record: {type(error).__name__} {error}"
            else:
                records.append(found)
    return records, refused


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per row below the names; empty where there is no value.

    Raises:
        OSError: as from the file system.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomic(path, text.getvalue())


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
        UserError: the folder holds no record, or a file cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m sweeper.collect", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds <point>/timing.json")
    parser.add_argument("--csv", metavar="FILE", type=Path)
    parser.add_argument("--parquet", metavar="FILE", type=Path)
    asked = parser.parse_args(arguments)
    records, refused = read(asked.folder)
    for path, why in refused.items():
        print(f"left out: {path}: {why}", file=sys.stderr)
    if not records:
        left_out = f" that can be read; {len(refused)} left out" if refused else ""
        raise UserError(f"no records in {asked.folder}: it has no */timing.json{left_out}")
    display = Display()
    display.table(records)
    frozen = {path.parent for path in asked.folder.glob("*/point.json")}
    waiting = len([point for point in frozen if not (point / "timing.json").exists()])
    display.line(f"\n{len(records)} records, {len(refused)} left out, {waiting} points without one")
    rows = [flat(found) for found in records]
    for write, path in ((write_csv, asked.csv), (write_parquet, asked.parquet)):
        if path:
            try:
                write(rows, path)
            except OSError as error:
                raise UserError(f"cannot write {path}: {error.strerror or error}") from None
            display.line(f"written: {path}")
    return EXIT_INCOMPLETE if refused else 0


if __name__ == "__main__":
    program.run(main)
