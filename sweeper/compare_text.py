"""A comparison as plain lines, as markdown, and as an HTML page: the same columns in each."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable, Iterator, Sequence

from sweeper import ratio
from sweeper.comparison import Compared, Result, name, samples, status
from sweeper.matched import Group

HEADINGS = ("point", "before s", "after s", "ratio", "interval", "verdict", "iterations")

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>refit-sweep: before and after</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }}
table {{ border-collapse: collapse }}
th, td {{ border-bottom: 1px solid #8888; padding: .3rem .8rem; text-align: left }}
td + td {{ font-variant-numeric: tabular-nums; white-space: nowrap }}
.slower {{ color: light-dark(#a00, #f88) }} .faster {{ color: light-dark(#060, #8d8) }}
</style>
<h1>Before and after</h1>
{before}
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table>
{after}
</html>
"""


def cells(row: Compared) -> tuple[str, ...]:
    """A row of the table, as `HEADINGS`."""
    pair, found = row.pair, row.ratio
    label = name(pair.after if not pair.change else pair.before)
    if pair.change:
        label += f" ({pair.change})"
    sides = (pair.before, pair.after)
    if found is None:
        states = " -> ".join(dict.fromkeys(status(side) for side in sides))
        return (label, *map(_median, sides), "", "", f"no times: {states}", "")
    interval = "" if found.low is None else f"{found.low:.3f}-{found.high:.3f}"
    counts = " / ".join(_counted([len(each) for each in samples(side)]) for side in sides)
    return (label, *map(_median, sides), f"{found.value:.3f}", interval, found.verdict, counts)


def _counted(iterations: Sequence[int]) -> str:
    if not iterations:
        return "none"
    return f"{len(iterations)}x{iterations[0]}" if len(iterations) > 1 else f"{iterations[0]}"


def _median(group: Group) -> str:
    times = sorted(t for each in samples(group) for t in each)
    if not times:
        estimate = group.records[0].objective_s
        return "" if estimate is None else f"{estimate:.4g}"
    middle = len(times) // 2
    return f"{times[middle] if len(times) % 2 else (times[middle - 1] + times[middle]) / 2:.4g}"


def labelled(rows: Sequence[Compared]) -> list[tuple[str, ...]]:
    """All rows of the table; points of one name are told apart by their identities."""
    lines = [cells(row) for row in rows]
    names = [line[0] for line in lines]
    return [
        (f"{label} {row.pair.before.records[0].id}", *rest) if names.count(label) > 1 else line
        for row, line in zip(rows, lines, strict=True)
        for label, *rest in [line]
    ]


def before(result: Result) -> Iterator[str]:
    """What is said first: what was compared, and under which other conditions."""
    yield result.sides
    if varied := sorted({name for row in result.rows for name in row.pair.differing}):
        yield f"paired though they differ in {', '.join(varied)}"
    for line in result.conditions:
        yield f"not alike: {line}"


def after(result: Result) -> Iterator[str]:
    """What is said at the end: the mean, what has no pair, and what the interval does not know."""
    if result.mean:
        decided = sum(1 for row in result.rows if row.ratio and len(row.ratio.log_draws))
        value, low, high = result.mean
        yield f"geometric mean of {decided} row(s): {value:.3f} ({low:.3f}-{high:.3f})"
    else:
        yield "geometric mean: none, as no row could be decided"
    for row in result.changed:
        ended = row.pair.after.records[0]
        states = f"{status(row.pair.before)} -> {status(row.pair.after)}"
        yield f"status changed: {name(row.pair.after)}: {states} {ended.reason}".rstrip()
    for word, groups in (("new", result.matches.new), ("gone", result.matches.gone)):
        for group in groups:
            yield f"{word}: {name(group)}: {status(group)}"
    for words in result.matches.unclear:
        yield f"not compared: {words}"
    yield from _noise(result)


def _noise(result: Result) -> Iterator[str]:
    measured = [row for row in result.rows if row.ratio and samples(row.pair.after)]
    if any(row.ratio and row.ratio.verdict == "not enough iterations" for row in measured):
        yield (
            f"not enough iterations: fewer than {ratio.FEWEST} on a side decide nothing;"
            " bench.iterations=10, or sweep.repeat=3"
        )
    if any(row.ratio and row.ratio.low is not None for row in measured):
        yield ratio.METHOD
    if any(len(row.pair.after.records) == 1 for row in measured):
        yield (
            "one run of a point: what another run would make of it is in no interval;"
            " sweep.repeat=3 sweep.interleave=true runs each thrice, in turn"
        )


def plain(result: Result) -> str:
    """Lines for a terminal or a pipe; where it is too narrow a point has two."""
    rows = [HEADINGS, *labelled(result.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_wide = sum(widths) + 2 * len(widths) <= max(shutil.get_terminal_size((200, 24)).columns, 40)
    lines = [*before(result), ""]
    for number, (label, *rest) in enumerate(rows):
        values = "  ".join(c.ljust(w) for c, w in zip(rest, widths[1:], strict=True)).rstrip()
        if is_wide:
            lines.append(f"{label.ljust(widths[0])}  {values}".rstrip())
        else:
            lines += [label, f"  {values}"] if number else [f"  {values}"]
    return "\n".join([*lines, "", *after(result)]) + "\n"


def markdown(result: Result) -> str:
    """A table for a pull request."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *labelled(result.rows)]
    table = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    above, below = ([f"- {_cell(line)}" for line in said(result)] for said in (before, after))
    return "\n".join([*above, "", *table, "", *below]) + "\n"


def _cell(text: str) -> str:
    """Text as markdown shows it: a name makes no column, no line and no tag."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return plain.replace("|", "\\|")


def page(result: Result) -> str:
    """One HTML file; names and reasons are text there."""

    def listed(lines: Iterator[str]) -> str:
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"

    rows = "\n".join(
        f'<tr class="{row[5].split()[0].strip(":")}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in labelled(result.rows)
    )
    head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    return PAGE.format(
        before=listed(before(result)), after=listed(after(result)), head=head, rows=rows
    )


FORMS: dict[str, Callable[[Result], str]] = {"plain": plain, "markdown": markdown, "html": page}
