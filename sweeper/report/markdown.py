"""Records as Markdown for a pull request: a table, and below it what all rows share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from refit.record.record import Record
from sweeper.report import words
from sweeper.report.table import columns

_ESCAPED = {mark: f"&#{ord(mark)};" for mark in "&<@#"} | {m: f"\\{m}" for m in "\\`*_{}[]~|"}


def markdown(records: Sequence[Record], folder: str) -> str:
    """The table; then machines, versions, clocks, what failed, and the command of each row.

    Args:
        folder: of the results, as the user says it.
    """
    shown = columns(records)
    del shown["row"]  # the mapping says it, as others write it
    machines = [words.machine(record) for record in records]
    if len(set(machines)) > 1:
        shown["machine"] = [str(list(dict.fromkeys(machines)).index(m) + 1) for m in machines]
    lines = [_line(shown), _line(["---"] * len(shown))]
    lines += [_line(map(plain, cells)) for cells in zip(*shown.values(), strict=True)]
    lines += ["", *_below(records), "", "<details><summary>Commands, row by row</summary>", ""]
    commands = "\n".join(words.command(record, folder) for record in records)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", commands)), default=0))
    return "\n".join([*lines, f"{fence}bash", commands, fence, "", "</details>", ""])


def plain(text: str) -> str:
    """As text in a cell: no markup, no link, no mention of a person or an issue."""
    escaped = "".join(_ESCAPED.get(mark, mark) for mark in " ".join(text.split()))
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;")


def _below(records: Sequence[Record]) -> list[str]:
    """What the rows share, each text once, with its number where the table has one."""
    found = []
    for what, of in (("Machine", words.machine), ("Versions", words.versions), ("Clock", _clock)):
        told = list(dict.fromkeys(filter(None, map(of, records))))
        numbered = what == "Machine" and len(told) > 1
        found += [f"- {what}{f' {n}' * numbered}: {plain(t)}" for n, t in enumerate(told, 1)]
    ended = (r for r in records if r.status != "ok")
    return [*found, *(f"- {plain(r.name)}: {r.status}: {plain(r.reason)}" for r in ended)]


def _clock(record: Record) -> str:
    return record.clock.get("warm", "")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
