"""How a sweep ended, printed: the table, why points are not ok, the remarks, the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from refit.record import record
from refit.record.allocation import elsewhere
from refit.record.point import Point
from refit.record.remarks import Remark, found
from refit.show.display import Display
from refit.weights import memory
from sweeper.decisions import Outcome

NAMED = 3
"""Pairs that a line names; the others it counts."""


def print_summary(outcomes: Sequence[Outcome], root: Path, display: Display) -> None:
    """Print it all; a reason or a remark that many points share is said once.

    Args:
        root: the sweep's folder.
    """
    display.line("")
    # one without a record has a row all the same: what it is, and where it stands
    rows = [o.record or record.begin(o.point, {}) for o in outcomes]
    display.summary(rows, [o.state for o in outcomes])
    for part in (_skipped(outcomes), _elsewhere(outcomes), _remarks(outcomes)):
        for line in ["", *said] if (said := list(part)) else ():
            display.paragraph(line)
    for line in _bad(outcomes):
        display.line(f"\n{line}")
    counts = Counter(o.state for o in outcomes)
    states = ", ".join(f"{n} {state}" for state, n in counts.items())
    display.line(f"\n{len(outcomes)} points: {states}; records below {root}")


def _skipped(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line for each reason."""
    reasons: dict[str, list[Point]] = {}
    for ended in outcomes:
        if ended.state == "skipped":
            reasons.setdefault(ended.reason, []).append(ended.point)
    for reason, alike in reasons.items():
        yield f"skipped: {_who(alike)}: {reason}"


def _who(points: Sequence[Point]) -> str:
    """`2 points of collocated_1_tp4ep2_to_tp2ep4`: how many, and of which pairs."""
    pairs = list(dict.fromkeys(point.job.parallel.name for point in points))
    more = f" and {len(pairs) - NAMED} more" if pairs[NAMED:] else ""
    named = ", ".join(pairs[:NAMED]) + more
    return named if len(points) == 1 else f"{len(points)} points of {named}"


def _elsewhere(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Points that ran on other nodes than were asked for."""
    for ended in outcomes:
        if ended.record and (where := elsewhere(ended.point.job, ended.record.environment)):
            yield f"{ended.point.name}: {where}; its record will not be kept"


def _bad(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Why points are not ok, with their records; of one that had not begun there is nothing."""
    bad = [o for o in outcomes if not o.is_good and o.state != "pending"]
    largest = max((o.reason for o in bad), default="", key=memory.needed_gb)
    reasons: dict[tuple[str, str], list[Point]] = {}
    for ended in bad:
        # of all that do not fit this machine's memory the largest says it
        reason = largest if memory.needed_gb(ended.reason) else ended.reason
        reasons.setdefault((ended.state, reason), []).append(ended.point)
    for (state, reason), alike in reasons.items():
        who = alike[0].name if len(alike) == 1 else f"{len(alike)} points"
        paths = "".join(f"\n  record: {point.timing}" for point in alike)
        yield f"{state}: {who}\n  {reason}{paths}"


def _remarks(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line for each kind of remark, in the words of the first point that has it."""
    kinds: dict[str, list[tuple[Point, Remark]]] = {}
    for ended in outcomes:
        for remark in found(ended.record) if ended.record else ():
            kinds.setdefault(remark.kind, []).append((ended.point, remark))
    for alike in kinds.values():
        (point, remark), *others = alike
        first = f", the first being {point.name}" if others and remark.is_of_point else ""
        who = f"{len(alike)} points{first}" if others else point.name
        yield f"remark on {who}: {remark}"
