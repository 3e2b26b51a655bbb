"""What a person sees: a header and a result line per point, and a table; rich on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from refit.job import Job
from refit.layout import place

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
    "GB/s",
    "verified",
    "status",
)


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

    def result(self, record: dict[str, Any]) -> None:
        """One line on how a point ended."""
        self.line(f"  {outcome(record)}")

    def table(self, records: Sequence[dict[str, Any]]) -> None:
        """One row per point."""
        rows = [cells(r) for r in records]
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


def outcome(record: dict[str, Any]) -> str:
    """`ok: 1.61 GB in 0.21 s ...`, or the status and its reason."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['reason']}"
    seconds, throughput = record["seconds"], record["throughput"]
    return (
        f"ok: {size(record['plan']['bytes'])} by {record['method']} in {seconds['median']:.3f} s"
        f" (slowest rank, median of {len(seconds['warm'])}; cold {seconds['cold']:.3f} s),"
        f" {throughput['gbps']:.2f} GB/s,"
        f" {throughput['fraction']:.0%} of {_limit(throughput)};"
        f" {record['verification']['elements']} elements verified bit for bit"
    )


def _limit(throughput: dict[str, Any]) -> str:
    if throughput["limit_source"] == "measured":
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
        f"{record['throughput']['gbps']:.2f}" if record["throughput"] else "",
        ""
        if not checked
        else "bit-exact"
        if record["status"] == "ok"
        else f"{checked['mismatches']} wrong",
        record["status"],
    )


def used_ranks(layout: dict[str, Any]) -> int:
    """How many ranks of a record's layout hold weights."""
    return len({*layout["source"]["ranks"], *layout["destination"]["ranks"]})


def size(nbytes: int) -> str:
    """Bytes with a decimal unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes} B"
