"""What a person sees: lines, live ones where stdout is a terminal, and the table at the end."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from refit import program
from refit.job import Job
from refit.layout.place import place
from refit.model.parameters import count
from refit.record.record import Record
from refit.show import table
from refit.show.running import Running
from refit.show.words import outcome, prediction

WIDTH = 80
"""Of a terminal that does not say how wide it is."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """By `| head`, say, which has what it wanted; rich would exit here, with points to run."""
        program.write_nowhere()


class Display:
    """Prints to stdout: live and in colours where that is a terminal, plain lines elsewhere.

    Args:
        is_verbose: every point of a sweep has its header and all that is known of it.
    """

    def __init__(self, is_verbose: bool = False) -> None:
        self.is_verbose = is_verbose
        # rich would take COLUMNS=0 at its word
        said = {k: v for k, v in os.environ.items() if k != "COLUMNS" or _positive(v)}
        self._console = _Console(file=sys.stdout, highlight=False, soft_wrap=True, _environ=said)
        # FORCE_COLOR makes rich take a pipe for a terminal, of 80 columns
        self._is_terminal = sys.stdout.isatty()
        is_smart = self._console.is_terminal and not self._console.is_dumb_terminal
        self._is_live = self._is_terminal and is_smart

    def line(self, text: str | Text) -> None:
        """One line, as it is: brackets in it are no markup.

        Where stdout takes no more, points are run and recorded all the same.
        """
        plain, is_styled = (
            program.printable(str(text)),
            self._is_live and not self._console.no_color,
        )
        if isinstance(text, str) or not is_styled or plain != text.plain:
            text = plain
        try:
            self._console.print(text, markup=False)
        except OSError as error:
            if not program.is_of_stdout(error):
                raise
            program.write_nowhere()
            lost = f"cannot write to stdout: {error.strerror}; records are written all the same"
            print(lost, file=sys.stderr)

    def paragraph(self, text: str) -> None:
        """A line that may be long: on a terminal it goes on below, between words."""
        if width := self._width():
            text = textwrap.fill(
                text,
                width,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        self.line(text)

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
    def running(self, total: int, ended: int = 0) -> Iterator[Running]:
        """The points of a sweep: a line for each that ends, on a terminal below them one bar.

        Args:
            ended: how many of them need not run.
        """
        console = self._console if self._is_live else None
        with Running.of(self.paragraph, console, total, ended) as made:
            yield made

    def result(self, record: Record) -> None:
        """How a point ended, with all that is known of it: of a prediction every term."""
        for line in prediction(record) if record.prediction else ():
            self.line(f"  {line}")
        self.line(f"  {outcome(record)}")

    def summary(self, records: Sequence[Record], states: Sequence[str] = ()) -> None:
        """The table that a sweep ends with, as wide as the terminal.

        Args:
            states: where each point stands, if not as its record's status says: submitted, say.
        """
        states = states or [record.status for record in records]
        for line in table.summary(records, states, self._width()):
            self.line(line)

    def listing(self, records: Sequence[Record]) -> None:
        """As `summary`, with what was skipped; in a pipe a line per record, which has it all."""
        if self._is_terminal:
            states = [record.status for record in records]
            made = table.summary(records, states, self._width(), without=())
        else:
            made = table.plain(records)
        for line in made:
            self.line(line)

    def _width(self) -> int | None:
        """Of the terminal, or as COLUMNS says it; None in a pipe, which has any."""
        if not self._is_terminal:
            return None
        if columns := _positive(os.environ.get("COLUMNS", "")):
            return columns
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns or WIDTH
        except OSError:
            return WIDTH


def _positive(text: str) -> int:
    """The number, or 0 where it is none."""
    return int(text) if text.isdecimal() else 0
