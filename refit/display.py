"""What a person sees: a header and a result line per point, and a table; rich on a terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from refit import program
from refit.job import Job
from refit.layout.place import place
from refit.model.parameters import count
from refit.record.parts import Forecast, PlanNumbers
from refit.record.record import Record
from refit.record.remarks import remarks
from refit.record.row import Row

COLUMNS: dict[str, Callable[[Row], str]] = {
    "row": lambda row: row.parallel,
    "model": lambda row: row.model,
    "placement": lambda row: row.placement,
    "method": lambda row: row.method or "",
    "ranks": lambda row: f"{row.ranks} of {row.world}" if row.world else "",
    "bytes": lambda row: "" if row.bytes is None else size(row.bytes),
    "cold": lambda row: _seconds(row.cold_s),
    "median": lambda row: _seconds(row.median_s),
    "slowest": lambda row: _seconds(row.max_s),
    "floor": lambda row: _seconds(row.floor_s),
    "estimate": lambda row: _seconds(row.estimate_s),
    "GB/s": lambda row: "" if row.gbps is None else f"{row.gbps:.2f}",
    "verified": lambda row: _verified(row),
    "status": lambda row: row.status,
}
"""The table: each column's heading, and its text; empty where the record reports nothing."""

GROUP_STATES = ("pending", "running", "done", "failed")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """By `| head`, say, which has what it wanted; rich would exit here, with points to run."""
        program.write_nowhere()


class Display:
    """Prints to stdout: live where that is a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = _Console(file=sys.stdout, highlight=False, soft_wrap=True)
        # FORCE_COLOR makes rich take a pipe for a terminal, of 80 columns
        self._is_live = self._console.is_terminal and sys.stdout.isatty()

    def line(self, text: str) -> None:
        """One line, as it is: brackets in it are no markup.

        Where stdout takes no more, points are run and recorded all the same.
        """
        try:
            self._console.print(program.printable(text), markup=False)
        except OSError as error:
            if not program.is_of_stdout(error):
                raise
            program.write_nowhere()
            lost = f"cannot write to stdout: {error.strerror}; records are written all the same"
            print(lost, file=sys.stderr)

    def begin(self, job: Job, number: str = "") -> None:
        """The point's header: its pair of layouts, its model, and which ranks are of which side.

        Args:
            number: what comes before, `[3/10] ` say.
        """
        use_case = f": {job.parallel.use_case}" if job.parallel.use_case else ""
        self.line(f"{number}{job.parallel.name}{use_case}")
        self.line(f"  Model: {job.model.name}, {count(job.model)}")
        for line in place(job).header():
            self.line(f"  {line}")

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A live line on a terminal; nothing in a pipe. What it yields says what is being done."""
        if not self._is_live:
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
        if not self._is_live:
            last: dict[str, Counter[str]] = {}

            def plain(groups: Mapping[str, Counter[str]]) -> None:
                for label, counts in groups.items():
                    if last.get(label) != counts:
                        self.line(f"{time.strftime('%H:%M:%S')} {label}: {_counted(counts)}")
                last.update(groups)

            yield plain
            return
        # a point takes minutes: all of them count for the speed, not those of the last half minute
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counted]}"),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=self._console,
            speed_estimate_period=1e6,
        ) as bars:
            tasks: dict[str, TaskID] = {}

            def live(groups: Mapping[str, Counter[str]]) -> None:
                for label, counts in groups.items():
                    ended, text = counts["done"] + counts["failed"], _counted(counts)
                    if label not in tasks:
                        tasks[label] = bars.add_task(label, total=counts.total(), counted=text)
                    bars.update(tasks[label], completed=ended, counted=text)

            yield live

    def result(self, record: Record) -> None:
        """One line on how a point ended."""
        self.line(f"  {outcome(record)}")

    def predicted(self, record: Record) -> None:
        """What a plan says of a point: bytes, bounds, memory, floor and estimate."""
        for line in prediction(record) if record.prediction else ():
            self.line(f"  {line}")
        self.line(f"  {outcome(record)}")

    def table(self, records: Sequence[Record], states: Sequence[str] = ()) -> None:
        """One row per point.

        Args:
            states: where each point stands, if not as its record's status says: submitted, say.
        """
        states = states or [record.status for record in records]
        rows = [(*row[:-1], state) for row, state in zip(_told_apart(records), states, strict=True)]
        lines = [tuple(COLUMNS), *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        # with rich's three characters between columns; a terminal folds long lines, rich cuts cells
        if not self._is_live or sum(widths) + 3 * len(widths) + 1 > self._console.width:
            for row in lines:
                self.line("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
            return
        table = Table(*COLUMNS)
        for *cells_before, state in rows:
            style = {"ok": "green", "skipped": "dim"}.get(state, "red")
            table.add_row(*map(program.printable, cells_before), Text(state, style=style))
        self._console.print(table, soft_wrap=False)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in GROUP_STATES)


def outcome(record: Record) -> str:
    """`ok: 1.61 GB in 0.21 s ...`, or the status and its reason."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    assert record.plan is not None
    what = f"{size(record.plan.bytes)} by {record.method}"
    if record.plan.left_out_tensors and record.plan.left_out_bytes:
        left_out = size(record.plan.left_out_bytes)
        what += f" ({record.plan.left_out_tensors} tensors, {left_out}, left out)"
    if record.kind == "predicted":
        return f"predicted: {what}; nothing was run{_remarked(record)}"
    seconds, throughput, checked = record.seconds, record.throughput, record.verification
    assert seconds is not None and throughput is not None and checked is not None
    limit = throughput.limit
    if throughput.limit_source == "measured":
        peers = any(each.kind == "peers" and each.what == limit for each in throughput.limits)
        limit = "plain copies between the ranks" if peers else "this machine's memory copy"
    return (
        f"ok: {what} in {seconds.median:.3f} s"
        f" (slowest rank, median of {len(seconds.warm)}; cold {seconds.cold:.3f} s),"
        f" {throughput.gbps:.2f} GB/s,"
        f" {throughput.fraction:.0%} of {limit};"
        f" {checked.elements} elements verified bit for bit{_remarked(record)}"
    )


def _remarked(record: Record) -> str:
    """Every remark on a record, as the end of a line; empty where there is none."""
    return "".join(f"; remark: {text}" for text in remarks(record))


def cells(record: Record) -> tuple[str, ...]:
    """A record's line of the table."""
    row = Row.of(record)
    return tuple(text(row) for text in COLUMNS.values())


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f} s"


def _verified(row: Row) -> str:
    if row.kind == "predicted":
        return "" if row.bytes is None else f"predicted, {row.cluster}"
    if row.elements is None:
        return ""
    return "bit-exact" if row.status == "ok" else f"{row.mismatches} wrong"


def prediction(record: Record) -> Iterator[str]:
    """What is printed of a predicted record, below the header."""
    assert record.plan is not None and record.prediction is not None
    yield from _moved(record.plan)
    yield _memory(record.prediction)
    yield from _times(record.prediction)


def _moved(plan: PlanNumbers) -> Iterator[str]:
    bounds = plan.lower_bounds
    yield f"Bytes: {_gb(plan.bytes)} in {plan.copies} blocks, {_gb(plan.local_bytes)} of them local"
    yield _against("Busiest sender", plan.max_send_bytes, bounds.send)
    if plan.max_forward_bytes:
        yield f"Busiest forwarder, within its node: {_gb(plan.max_forward_bytes)}"
    yield _against("Busiest receiver", plan.max_recv_bytes, bounds.recv)
    yield _against("Across nodes", plan.cross_node_bytes, bounds.cross_node)


def _memory(forecast: Forecast) -> str:
    device_bytes = forecast.memory.device_bytes
    of_device = ", the device's is not stated"
    if device_bytes:
        of_device = f" of {device_bytes / 1e9:g} GB"
    largest = ", ".join(
        f"{name} {max(forecast.per_rank[f'{name}_bytes']) / 1e9:.2f}"
        for name in ("source", "destination", "staging")
        if f"{name}_bytes" in forecast.per_rank
    )
    fullest = f"{forecast.memory.max_bytes / 1e9:.2f} GB on the fullest rank"
    return f"Memory: {fullest}{of_device} (largest: {largest})"


def _times(forecast: Forecast) -> Iterator[str]:
    if forecast.missing:
        yield (
            f"Floor, estimate: unknown, as {forecast.missing} is not set; use cluster=h100 or"
            " another cluster that states its rates"
        )
    for name, word, terms in (
        ("Floor", "largest of", forecast.floor),
        ("Estimate", "sum of", forecast.estimate),
    ):
        if terms:
            parts = (f"{k.removesuffix('_s')} {v:.4f}" for k, v in terms.items() if k != "seconds")
            yield f"{name}: {terms['seconds']:.4f} s ({word} {', '.join(parts)})"
    if forecast.floor and not forecast.estimate:
        yield "Estimate: none, as the method carries out a plan of its own in its own way"


def _against(name: str, nbytes: int | None, bound: int) -> str:
    assert nbytes is not None, "all numbers of a prediction are known"
    above = f"{nbytes / bound - 1:+.1%}" if bound else "nothing to move"
    return f"{name}: {_gb(nbytes)}, lower bound {_gb(bound)} ({above})"


def _gb(nbytes: int | None) -> str:
    assert nbytes is not None, "all numbers of a prediction are known"
    return f"{nbytes / 1e9:.3f} GB"


def _told_apart(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Every record's row; where several would begin alike, with the overrides that differ."""
    rows = [cells(r) for r in records]
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        alike.setdefault(row[:4], []).append(number)
    for numbers in alike.values():
        common = set.intersection(*(set(records[number].overrides) for number in numbers))
        for number in numbers:
            first, *rest = rows[number]
            differing = [o for o in records[number].overrides if o not in common]
            rows[number] = (" ".join([first, *differing]), *rest)
    return rows


def size(nbytes: int) -> str:
    """Bytes with a decimal unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes} B"
