"""Tables of the documentation: their rows, what they quote, and their commands run in a fork."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from refit import advise, program, published, run, workloads
from tests.support.forks import Ended, fork_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MAINS: dict[str, Callable[[], object]] = {
    "refit.run": run.main,
    "refit.advise": lambda: program.exit_with(advise.main),
    "refit.workloads": lambda: program.exit_with(workloads.main),
    "refit.published": lambda: program.exit_with(published.main),
}


def rows(page: Path, heading: str) -> list[tuple[str, ...]]:
    """The cells of the table rows below a heading, without the tables' own heads."""
    sections = re.split(r"^#+ ", page.read_text(), flags=re.MULTILINE)
    (section,) = (s for s in sections if s.splitlines()[:1] == [heading])
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rules = [n for n, line in enumerate(lines) if set(line) <= set("|- ")]
    heads = {n for rule in rules for n in (rule - 1, rule)}
    return [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for n, line in enumerate(lines)
        if n not in heads
    ]


def ticked(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def says(text: str, output: str) -> bool:
    """Whether an output has a text, in which `...` stands for anything within a line."""
    return re.search(".*".join(map(re.escape, text.split("..."))), output) is not None


def module_of(command: str) -> str:
    """`refit.run` of `python -m refit.run ...`."""
    return shlex.split(command)[2]


@cache
def printed(command: str, *more: str) -> Ended:
    """How a command ended, typed as it is, with settings added; its results go nowhere."""
    words = [*shlex.split(command)[3:], *more]
    with TemporaryDirectory() as folder:
        if module_of(command) == "refit.run" and ".dir=" not in command:
            words += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
        return fork_of(MAINS[module_of(command)], *words)


def planned(command: str) -> Ended:
    """The same without ranks and jobs: predicted, and a sweep as a dry run."""
    if module_of(command) != "refit.run" or "--cfg" in command:
        return printed(command)
    sweep = "-m" in shlex.split(command)[3:]
    if sweep and "mode=plan" in command:
        return printed(command)
    return printed(command, "sweep.dry_run=true" if sweep else "mode=plan")
