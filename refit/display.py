"""What a person sees: a header and a result line per point, and a table; rich on a terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from refit.forecast import predict
from refit.job import Job
from refit.layout.layout import place

COLUMNS = (
    "row",
    "model",
    "mode",
    "method",
    "ranks",
    "bytes",
    "cold",
    "median",
    "slowest",
    "floor",
    "estimate",
    "GB/s",
    "verified",
    "status",
)

GROUP_STATES = ("pending", "running", "done", "failed")


class Display:
    """Prints to stdout: live where that is a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        self._console.print(text, markup=False)

    def begin(self, job: Job, count: str = "") -> None:
        """The point's header, as the seed's benchmark prints it."""
        self.line(
            f"{count}{job.parallel.name}: {job.parallel.use_case}"
            if job.parallel.use_case
            else count
        )
        for line in place(job).header():
            self.line(f"  {line}")

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A live line on a terminal; nothing in a pipe. What it yields says what is being done."""
        if not self._console.is_terminal:
            yield lambda what: None
            return
        with self._console.status("  starting") as line:
            yield lambda what: line.update(f"  {what}")

    @contextmanager
    def groups(self) -> Iterator[Callable[[Mapping[str, Counter[str]]], None]]:
        """What it yields is told, again and again, the counts of `GROUP_STATES` of each group.

        A live line per group on a terminal, with a guess of the time left; in a pipe a plain line
        for each group whose counts changed.
        """
        if not self._console.is_terminal:
            last: dict[str, Counter[str]] = {}

            def plain(groups: Mapping[str, Counter[str]]) -> None:
                for label, counts in groups.items():
                    if last.get(label) != counts:
                        self.line(f"{time.strftime('%H:%M:%S')} {label}: {_counted(counts)}")
                last.update(groups)

            yield plain
            return
        texts = (TextColumn("{task.description}"), TextColumn("{task.fields[counted]}"))
        left = (TextColumn("left:"), TimeRemainingColumn())
        # a point takes minutes: all of them count for the speed, not those of the last half minute
        with Progress(
            texts[0],
            BarColumn(),
            *texts[1:],
            *left,
            console=self._console,
            speed_estimate_period=1e6,
        ) as bars:
            tasks: dict[str, TaskID] = {}

            def live(groups: Mapping[str, Counter[str]]) -> None:
                for label, counts in groups.items():
                    ended, said = counts["done"] + counts["failed"], _counted(counts)
                    if label not in tasks:
                        tasks[label] = bars.add_task(
                            label, total=counts.total(), completed=ended, counted=said
                        )
                    bars.update(tasks[label], completed=ended, counted=said)

            yield live

    def result(self, record: dict[str, Any]) -> None:
        """One line on how a point ended."""
        self.line(f"  {outcome(record)}")

    def predicted(self, record: dict[str, Any]) -> None:
        """What a plan says of a point: bytes, bounds, memory, floor and estimate."""
        for line in predict.lines(record) if record["prediction"] else ():
            self.line(f"  {line}")
        self.line(f"  {outcome(record)}")

    def table(self, records: Sequence[dict[str, Any]]) -> None:
        """One row per point."""
        rows = _told_apart(records)
        if not self._console.is_terminal:
            widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
            for row in [COLUMNS, *rows]:
                self.line("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
            return
        table = Table(*COLUMNS)
        for record, row in zip(records, rows, strict=True):
            style = {"ok": "green", "skipped": "dim"}.get(record["status"], "red")
            table.add_row(*row[:-1], Text(row[-1], style=style))
        self._console.print(table, soft_wrap=False)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in GROUP_STATES)


def outcome(record: dict[str, Any]) -> str:
    """`ok: 1.61 GB in 0.21 s ...`, or the status and its reason."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['reason']}"
    if record["kind"] == "predicted":
        return f"predicted: {size(record['plan']['bytes'])} by {record['method']}; nothing was run"
    seconds, throughput = record["seconds"], record["throughput"]
    return (
        f"ok: {size(record['plan']['bytes'])} by {record['method']} in {seconds['median']:.3f} s"
        f" (slowest rank, median of {len(seconds['warm'])}; cold {seconds['cold']:.3f} s),"
        f" {throughput['gbps']:.2f} GB/s,"
        f" {throughput['fraction']:.0%} of {_limit(throughput)};"
        f" {record['verification']['elements']} elements verified bit for bit"
    )


def _limit(throughput: dict[str, Any]) -> str:
    if throughput.get("limit_source", "measured") == "measured":  # older records do not say
        return "this machine's memory copy"
    return str(throughput["limit"])


def cells(record: dict[str, Any]) -> tuple[str, ...]:
    """A record's row of the table; empty where it reports nothing."""
    layout, seconds, checked = record["layout"], record["seconds"], record["verification"]
    return (
        record["config"]["parallel"]["name"],
        record["config"]["model"]["name"],
        record["mode"],
        record["method"] or "",
        f"{used_ranks(layout)} of {layout['world']}" if layout else "",
        size(record["plan"]["bytes"]) if record["plan"] else "",
        *(f"{seconds[k]:.3f} s" if seconds else "" for k in ("cold", "median", "max")),
        *(
            f"{seconds_of(record, k):.3f} s" if seconds_of(record, k) is not None else ""
            for k in ("floor", "estimate")
        ),
        f"{record['throughput']['gbps']:.2f}" if record["throughput"] else "",
        f"predicted, {record['config']['cluster']['name']}"
        if record["kind"] == "predicted" and record["plan"]
        else ""
        if not checked
        else "bit-exact"
        if record["status"] == "ok"
        else f"{checked['mismatches']} wrong",
        record["status"],
    )


def _told_apart(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Every record's row; where several would begin alike, with the overrides that differ."""
    rows = [cells(r) for r in records]
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        alike.setdefault(row[:4], []).append(number)
    for numbers in alike.values():
        said = [records[n]["overrides"] for n in numbers]
        common = set.intersection(*map(set, said))
        for n, overrides in zip(numbers, said, strict=True):
            own = (o for o in overrides if o not in common)
            rows[n] = (" ".join([rows[n][0], *own]), *rows[n][1:])
    return rows


def seconds_of(record: dict[str, Any], name: str) -> float | None:
    """Seconds of a record's `floor` or `estimate`; None where nothing was predicted."""
    said = (record.get("prediction") or {}).get(name)
    return said["seconds"] if said else None


def used_ranks(layout: dict[str, Any]) -> int:
    """How many ranks of a record's layout hold weights."""
    return len({*layout["source"]["ranks"], *layout["destination"]["ranks"]})


def size(nbytes: int) -> str:
    """Bytes with a decimal unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes} B"
