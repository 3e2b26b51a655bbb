"""docs/reference.md, line by line: each row's commands, calculations, fields and names hold."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_type_hints

import pytest

from refit.job import Job
from tests.support.composed import composed
from tests.support.pages import DOCS, ROOT, planned, printed, rows, says, ticked

PAGE = DOCS / "reference.md"
DOCUMENTS = {
    ticked(row[0])[0]: int(row[1])
    for row in rows(PAGE, "The reference table and the reference documents")
}
ROWS = [(name, *row) for name in DOCUMENTS for row in rows(PAGE, name)]
CALCULATION = re.compile(r"[\d\s()*/+,=-]|max")


def lines(cell: str) -> tuple[int, int]:
    """First and last of `3-5`, or of `3`."""
    first, _, last = cell.partition("-")
    return int(first), int(last or first)


def field(job: Job, path: str) -> Any:
    """What a job has at `parallel.source.tp`."""
    value: Any = job
    for name in path.split("."):
        value = getattr(value, name)
    return value


@cache
def fields(cls: Any = Job, path: str = "") -> frozenset[str]:
    """Every field of the config by its path."""
    found: set[str] = set()
    for name, hint in get_type_hints(cls).items():
        nested = is_dataclass(hint)
        found |= fields(hint, f"{path}{name}.") if nested else {f"{path}{name}"}
    return frozenset(found)


@cache
def names(file: str) -> frozenset[str]:
    """Every function, class, constant and field that a file defines."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def fault(item: str) -> str | None:
    """What is wrong with something that a row gives as what shows its claim, or None."""
    if re.match(r"(refit|sweeper|tests|docs|conf)/", item):
        file, _, name = item.partition("::")
        if not (ROOT / file).is_file() or (name and name not in names(file)):
            return f"{item} is not there"
        return None
    if ": " in item:
        overrides, _, said = item.partition(": ")
        job = composed(*shlex.split(overrides))
        found = {pair: str(field(job, pair.partition("=")[0])) for pair in said.split()}
        return next((f"{p}: {v}" for p, v in found.items() if p.partition("=")[2] != v), None)
    if " = " in item:
        assert not CALCULATION.sub("", item), item
        ours, _, theirs = item.partition(" = ")
        return None if eval(ours) == eval(theirs) else f"{item} does not come out"
    return None if item in fields() else f"no field {item}"


def unsaid(commands: list[str], shows: str) -> str | None:
    """What a row's commands do not print, or None."""
    refused = shows.startswith("refused")
    done = [printed(command) if refused else planned(command) for command in commands]
    output = "".join(end.stdout + end.stderr for end in done)
    if any(end.code != (2 if refused else 0) for end in done):
        return output
    texts = [text for text in ticked(shows) if commands]
    return next((f"{text!r} is not in {output}" for text in texts if not says(text, output)), None)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}:{row[1]}" for row in ROWS])
def test_a_row_holds(row: tuple[str, ...]) -> None:
    _, _, claim, here, shows = row
    items = ticked(here)
    assert claim and (items or (here == "**not carried**" and shows))
    commands = [item for item in items if item.startswith("python -m ")]
    assert [fault(item) for item in items if item not in commands if fault(item)] == []
    assert unsaid(commands, shows) is None
    assert not commands or ticked(shows)  # a command without words to look for shows nothing


def test_the_rows_are_all_of_each_document() -> None:
    assert len(DOCUMENTS) == 5
    for name, length in DOCUMENTS.items():
        spans = [lines(row[1]) for row in ROWS if row[0] == name]
        assert [first for first, _ in spans] == [1, *(last + 1 for _, last in spans[:-1])], name
        assert spans[-1][1] == length and all(first <= last for first, last in spans)


def test_every_script_has_a_command_that_is_possible() -> None:
    scripts = [row for row in rows(PAGE, "From the scripts") if "refit.run" in row[1]]
    assert len(scripts) == 6
    for row in scripts:
        commands = [item for item in ticked(row[1]) if item.startswith("python -m ")]
        assert len(commands) == 1
        done = planned(commands[0])
        assert done.code == 0 and " skip: " not in done.stdout, done.stderr
        if "128 GPUs" in row[0]:
            assert done.stdout.count("  128 of 128 ranks, 16 node(s)  slurm  run") == 2


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("16 / 8 = 3", "does not come out"),
        ("model.num_expert", "no field"),
        ("model=moe_8e: model.num_layers=4", "model.num_layers=4: 2"),
        ("tests/conf/test_options.py::test_no_such", "is not there"),
        ("refit/rules/none.py", "is not there"),
    ],
)
def test_what_does_not_hold_is_found(item: str, says: str) -> None:
    assert says in (fault(item) or "")


def test_what_a_command_does_not_print_is_found() -> None:
    row = "python -m refit.run mode=plan"
    assert "is not in" in (unsaid([row], "`using 4 GPUs`") or "")
    assert "using 3 GPUs" in (unsaid([row], "refused: `using 3 GPUs`") or "")
    assert "no field" not in (unsaid(["python -m refit.run bench.iteration=3"], "refused") or "")
