"""What all programs share: signals that end them once, and streams that are closed or full."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

import pytest

from refit import program
from refit.errors import UserError
from refit.show.display import Display
from tests.support.forks import fork_of


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_program_once(number: signal.Signals) -> None:
    def main(_: Sequence[str]) -> int:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            for again in (number, signal.SIGINT, signal.SIGTERM) * 10:
                os.kill(os.getpid(), again)
            print("cleaned up")
        return 0

    def program_of_a_terminal() -> None:
        signal.signal(number, signal.SIG_DFL)  # below nohup these tests ignore SIGHUP
        program.exit_with(main)

    ended = fork_of(program_of_a_terminal)
    assert (ended.code, ended.stdout, ended.stderr) == (128 + number, "cleaned up\n", "")


def test_what_is_ignored_stays_so() -> None:
    def main(_: Sequence[str]) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 7

    def under_nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        program.exit_with(main)

    assert fork_of(under_nohup).code == 7


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_closed_stream_is_not_the_next_file(closed: tuple[int, ...]) -> None:
    def main(_: Sequence[str]) -> int:
        print("out", flush=True)
        print("error", file=sys.stderr, flush=True)
        return os.open(os.devnull, os.O_RDONLY)

    def without() -> None:
        for number in closed:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python starts then
        program.exit_with(main)

    ended = fork_of(without)
    assert ended.code > 2
    assert ended.stdout == ("" if 1 in closed else "out\n")
    assert ended.stderr == ("" if 2 in closed else "error\n")


KEPT: list[TextIO] = []


def stdout_to(descriptor: int, encoding: str = "utf-8") -> None:
    KEPT.append(sys.stdout)  # which would close it
    os.dup2(descriptor, 1)
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115


def to_full_disk() -> None:
    stdout_to(os.open("/dev/full", os.O_WRONLY))


def test_points_go_on_where_stdout_is_full_or_gone() -> None:
    def run(_: Sequence[str]) -> int:
        display = Display()
        for number in range(1000):
            display.line(f"point {number}")
        print("recorded", file=sys.stderr)
        return 0

    def full() -> None:
        to_full_disk()
        program.exit_with(run)

    def gone() -> None:
        reader, writer = os.pipe()
        stdout_to(writer)
        os.close(reader)
        program.exit_with(run)

    said = "cannot write to stdout: No space left on device; records are written all the same\n"
    ended = fork_of(full)
    assert (ended.code, ended.stderr) == (0, f"{said}recorded\n")
    ended = fork_of(gone)
    assert (ended.code, ended.stderr) == (0, "recorded\n")


def test_a_program_whose_output_is_all_it_does_fails_on_a_full_disk() -> None:
    def main(_: Sequence[str]) -> int:
        print("x" * 100_000)
        return 0

    def full() -> None:
        to_full_disk()
        program.exit_with(main)

    ended = fork_of(full)
    assert ended.code == 1
    assert ended.stderr == "error: cannot write to stdout: No space left on device\n"


def test_what_the_locale_lacks_is_escaped() -> None:
    def main(_: Sequence[str]) -> int:
        Display().line("Verfügbar \u2192")
        return 0

    def in_ascii() -> None:
        stdout_to(os.dup(1), "ascii")
        program.exit_with(main)

    ended = fork_of(in_ascii)
    assert (ended.code, ended.stdout) == (0, "Verf\\xfcgbar \\u2192\n")


def test_a_mistakes_message_has_no_escape_codes() -> None:
    def main(_: Sequence[str]) -> int:
        raise UserError("no such name: \x1b[2J")

    ended = fork_of(lambda: program.exit_with(main))
    assert (ended.code, ended.stderr) == (2, "error: no such name: \\x1b[2J\n")
