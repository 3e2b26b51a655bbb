"""What an attempt's folder has beside its record: each rank's own times, what it moved, its log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refit.record.point import Attempt, read_json
from refit.record.record import Record

TAIL_LINES, TAIL_BYTES = 15, 8192
LOGS = 2
"""Of an attempt that a report shows; the reason names the one that matters."""


def find(record: Record, folder: Path) -> Attempt | None:
    """The attempt that a point's record is of; without such a one the newest."""
    numbered = [p for p in (folder / "attempts").glob("*") if p.name.isdigit()]
    newest_first = [Attempt(p) for p in sorted(numbered, key=lambda p: -int(p.name))]
    for attempt in newest_first:
        if (read_json(attempt.timing) or {}).get("started_at") == record.started_at:
            return attempt
    return newest_first[0] if newest_first else None


def reports(attempt: Attempt, world: int) -> list[dict[str, Any]]:
    """What each rank reported, by rank; empty where one of them did not, or no longer has."""
    found = [read_json(attempt.rank_report(rank)) for rank in range(world)]
    return [] if None in found else [report for report in found if report]


def times(reported: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of each rank that holds weights the seconds of each timed refit, from its own start.

    Returns:
        `ranks`; `seconds`, [ranks][refits] in microseconds; and `slowest`, [refits], the rank that
        ended last by its node's clock, as the record's own times count.
    """
    active = [report for report in reported if report.get("active") and report.get("warm")]
    if not active:
        return None
    each = list(zip(*(report["warm"] for report in active), strict=True))
    slowest = []
    for spans in each:
        first: dict[int, float] = {}
        for report, span in zip(active, spans, strict=True):
            node = report["node"]
            first[node] = min(first.get(node, span["start"]), span["start"])
        took = [s["end"] - first[r["node"]] for r, s in zip(active, spans, strict=True)]
        slowest.append(active[took.index(max(took))]["rank"])
    return {
        "ranks": [report["rank"] for report in active],
        "seconds": [
            [round((span["end"] - span["start"]) * 1e6) for span in report["warm"]]
            for report in active
        ],
        "slowest": slowest,
    }


def straggler(slowest: Sequence[int]) -> str:
    """Which rank was the slowest how often."""
    (rank, count), *others = Counter(slowest).most_common()
    words = f"rank {rank} was the slowest in {count} of {len(slowest)} timed refits"
    if others:
        words += ", then " + ", ".join(f"rank {r} in {n}" for r, n in others[:3])
    return words


def moved(reported: Sequence[dict[str, Any]]) -> dict[int, dict[str, int]] | None:
    """By receiving rank the bytes by sending rank; None where a rank did not count."""
    counted = {report["rank"]: report.get("moved") for report in reported}
    if not counted or None in counted.values():
        return None
    return {rank: each["received"] for rank, each in counted.items() if each}


def tails(attempt: Attempt | None, reason: str) -> list[tuple[str, str]]:
    """The last lines of the logs of an attempt: those that its reason names, then other full ones.

    Returns:
        The log's name, and its lines.
    """
    if attempt is None:
        return []
    logs = [log for log in attempt.directory.glob("*.log") if log.stat().st_size]
    named = set(re.findall(r"\b(?:rank|agent)\d+\.log\b", reason))
    logs.sort(key=lambda log: (log.name not in named, log.name[:4] != "agen", _number(log)))
    return [(log.name, _tail(log)) for log in logs[:LOGS]]


def _number(log: Path) -> int:
    return int(re.sub(r"\D", "", log.stem) or 0)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-TAIL_LINES:])
