"""Bad inputs, many in one process: how each ends, the first line it says, and what it takes."""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser

from refit import mistakes, program, run
from refit.cli import job_of
from refit.compose import configs
from refit.rules.impossible import impossible

CPU_S, MEMORY = 10, 2 << 30
"""What one bad input may take at most."""

PLAIN, RUN = "plain", "refit.run"
"""Overrides that are values alone, put into a config that is composed once; or a whole program."""


@dataclass(frozen=True)
class Said:
    """How an input ended.

    Attributes:
        first: line of what it said on stderr; a traceback is one.
        cpu_s: of this process.
    """

    code: int
    first: str
    whole: str
    cpu_s: float


def all_said(cases: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Said]:
    """How each case ends, a program's name and its arguments, in one fork of this process.

    It may have so much memory more than this one has.
    """
    with TemporaryFile("w+") as answers:
        child = os.fork()
        if child == 0:
            _answer(cases, folder, answers)
        os.waitpid(child, 0)
        answers.seek(0)
        lines = map(json.loads, answers.read().splitlines())
        return {name: Said(**values) for name, values in lines}


def _answer(cases: Mapping[str, Sequence[str]], folder: Path, answers: Any) -> NoReturn:
    try:
        _limit()
        with configs():
            base = compose("config", [])
        for name, words in cases.items():
            said = _said(words, folder, base)
            print(json.dumps([name, asdict(said)]), file=answers, flush=True)
    finally:
        os._exit(0)


def _limit() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))


def _said(words: Sequence[str], folder: Path, base: Any) -> Said:
    """One case, ended where it takes too long."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {CPU_S} s of CPU")

    main, *rest = words
    signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    begun, out, err = time.process_time(), io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            if main == PLAIN:
                code = _code(lambda: _plain(rest, base))
            else:
                code = _code(lambda: _program(main, rest, folder))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    text = err.getvalue()
    return Said(code, next(iter(text.splitlines()), ""), text, time.process_time() - begun)


def _code(main: Callable[[], None]) -> int:
    try:
        main()
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def _plain(overrides: Sequence[str], base: Any) -> None:
    """What `refit.run` says of values alone: as it composes, and as it judges."""
    try:
        config = deepcopy(base)
        ConfigLoaderImpl._apply_overrides_to_config(
            OverridesParser.create().parse_overrides(list(overrides)), config
        )
        message = impossible(job_of(config))
    except Exception as error:
        message = mistakes.message(error)
        if message is None:
            raise
    if message:
        print(f"error: {program.printable(message)}", file=sys.stderr)
        sys.exit(program.EXIT_USER_ERROR)


def _program(main: str, words: Sequence[str], folder: Path) -> None:
    os.environ.pop("HYDRA_FULL_ERROR", None)
    sys.argv = [f"python -m {main}", *words]
    if main == RUN:
        where = "hydra.sweep.dir" if "-m" in words else "hydra.run.dir"
        if not any(word.startswith("hydra.") and ".dir=" in word for word in words):
            sys.argv.append(f"{where}={folder}/results")
        run.main()
    program.exit_with(importlib.import_module(main).main)
