"""The points of a sweep while they run: a line for each that has ended, one bar over all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from refit.record.record import Record
from refit.show.words import in_sweep

GROUP_STATES = ("pending", "running", "done", "failed")

Say = Callable[[str], None]
Bar = Callable[[int, str], None]
"""Shows how many points have ended, and what is being done."""


class Running:
    """Is told of what is done and of what has ended; in a pipe it has no bar."""

    def __init__(self, say: Say, bar: Bar | None, total: int, ended: int) -> None:
        self._say, self._bar, self._total, self._ended = say, bar, total, ended
        self._last: dict[str, Counter[str]] = {}

    @staticmethod
    @contextmanager
    def of(say: Say, console: Console | None, total: int, ended: int = 0) -> Iterator[Running]:
        """Over `total` points, of which `ended` need not run.

        Args:
            console: a live terminal, or None.
        """
        if console is None or ended == total:
            yield Running(say, None, total, ended)
            return
        # a point takes minutes: all of them count for the speed, not those of the last half minute
        with Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=console,
            speed_estimate_period=1e6,
            expand=True,
            transient=True,
        ) as bars:
            task = bars.add_task("", total=total, completed=ended)
            bars.advance(task, 0)  # so that the first that ends says how long the others take

            def bar(completed: int, what: str) -> None:
                bars.update(task, completed=completed, description=what)

            yield Running(say, bar, total, ended)

    def doing(self, what: str) -> None:
        """What is being done now."""
        if self._bar:
            self._bar(self._ended, what)

    def ended(self) -> None:
        """A point has run and ended; `told` says how."""
        self._ended += 1
        self.doing("")

    def told(self, number: int, label: str, record: Record, note: str = "") -> None:
        """A line on how a point ended.

        Args:
            number: its own, from 1.
            label: what tells it from the others.
            note: at the end of the line.
        """
        width = len(str(self._total))
        is_predicted = record.kind == "predicted" and record.status == "ok"
        status = "predicted" if is_predicted else record.status
        counted = f"[{number:>{width}}/{self._total}]"
        self._say(f"{counted} {status}  {label}  {in_sweep(record)}{note}")

    def counts(self, groups: Mapping[str, Counter[str]]) -> None:
        """How many points of each group are in each of `GROUP_STATES`, told again and again.

        In a pipe a line for each group whose counts changed.
        """
        if self._bar:
            every = sum(groups.values(), Counter[str]())
            self._bar(self._ended + every["done"] + every["failed"], _counted(every))
            return
        for label, counts in groups.items():
            if self._last.get(label) != counts:
                self._say(f"{time.strftime('%H:%M:%S')} {label}: {_counted(counts)}")
        self._last.update(groups)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in GROUP_STATES)
