"""Records -> what the page draws: points, what is shown of one that is chosen, plans, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refit.record.record import Record
from refit.record.remarks import remarks
from refit.record.row import Row
from refit.show.words import outcome
from sweeper.report import attempt, knees, moves, pairs, words

COLD = ("plan", "prepare", "transfer")
"""Phases of the cold refit; all others are of a timed one."""


@dataclass(frozen=True)
class Data:
    """All that the page has, as JSON.

    Attributes:
        points: one for each record, for tables and for the pictures of many.
        more: of each point what is shown where it is chosen.
        plans: layouts and traffic, which points share that move the same.
        curves, pairs, published: see `knees` and `pairs`; they name points by their indices.
    """

    points: list[dict[str, Any]]
    more: list[dict[str, Any]]
    plans: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    published: list[dict[str, Any]]


def data(records: Sequence[Record], root: Path) -> Data:
    """What the page has of these records.

    Args:
        root: the folder that they were read from, which has a folder for each point.
    """
    varied = words.varied(records)
    plans = _Plans()
    more = [_more(record, root, plans) for record in records]
    points = [_point(r, v) for r, v in zip(records, varied, strict=True)]
    curves, beside, others = (
        f(records) for f in (knees.curves, pairs.predicted_and_measured, pairs.published)
    )
    return finite(Data(points, more, plans.made, curves, beside, others))


def finite(made: Data) -> Data:
    """Without the numbers that JSON has no word for."""

    def clean(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, list | tuple):
            return [clean(each) for each in value]
        if isinstance(value, dict):
            return {key: clean(each) for key, each in value.items()}
        return value

    plans = made.plans  # they have none, and are large
    return Data(
        clean(made.points), clean(made.more), plans, clean(made.curves), made.pairs, made.published
    )


def folder_of(record: Record, root: Path) -> Path | None:
    """A point's folder; None where its record says a name that is none."""
    return root / record.name if Path(record.name).name == record.name else None


def _point(record: Record, varied: str) -> dict[str, Any]:
    row, seconds = Row.of(record), record.seconds
    cold, warm = phases(record)
    return {
        "id": row.id,
        "name": row.name,
        "model": row.model,
        "row": " ".join(filter(None, (row.parallel, varied))),
        "mapping": words.mapping(record),
        "mode": row.kind,
        "method": row.method or record.config["refit"]["method"],
        "status": row.status,
        "gpus": row.ranks,
        "bytes": row.bytes,
        "cold_s": row.cold_s,
        "median_s": row.median_s,
        "p95_s": words.p95(seconds.warm) if seconds else None,
        "max_s": row.max_s,
        "warm_s": seconds.warm if seconds else [],
        "fraction": row.fraction,
        "limit": record.throughput.limit if record.throughput else None,
        "gbps": row.gbps,
        "floor_s": row.floor_s,
        "estimate_s": row.estimate_s,
        "cluster": row.cluster,
        "cold_phases": cold,
        "phases": warm,
    }


def phases(record: Record) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the cold refit and of a timed one, by phase, each of the rank that took longest.

    What of the time no phase of that rank holds is `unattributed`: of the cold refit's, and of the
    median. Both are empty where there are no times.
    """
    seconds = record.seconds
    if seconds is None:
        return {}, {}
    cold, warm = (
        {
            rank: {name: value for name, value in of_rank.items() if (name in COLD) == is_cold}
            for rank, of_rank in seconds.phases_per_rank.items()
        }
        for is_cold in (True, False)
    )
    of_cold = max(cold.values(), key=lambda of_rank: sum(of_rank.values()), default={})
    slowest = max(seconds.per_rank, key=lambda rank: seconds.per_rank[rank], default="")
    return _whole(of_cold, seconds.cold), _whole(warm.get(slowest, {}), seconds.median)


def _whole(parts: dict[str, float], seconds: float) -> dict[str, float]:
    return {**parts, "unattributed": max(0.0, seconds - sum(parts.values()))}


class _Plans:
    """Plans as they are asked for, each made once."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self._known: dict[str, tuple[int | None, str]] = {}

    def of(self, record: Record) -> tuple[int | None, str]:
        """The place of a record's plan, and what is to be said of it."""
        key = words.same_move(record)
        if key not in self._known:
            made, why = moves.planned(record)
            self._known[key] = (None if made is None else self.add(made), why)
        return self._known[key]

    def add(self, made: dict[str, Any]) -> int:
        """One more; its place."""
        self.made.append(made)
        return len(self.made) - 1


def _more(record: Record, root: Path, plans: _Plans) -> dict[str, Any]:
    """What is shown of a point that is chosen."""
    folder = folder_of(record, root)
    tried = attempt.find(record, folder) if folder else None
    world = record.layout.world if record.layout else 0
    reported = attempt.reports(tried, world) if tried and record.status == "ok" else []
    times = attempt.times(reported)
    number, why = plans.of(record)
    counted = attempt.moved(reported)
    if number is not None and counted and plans.made[number]["traffic"] is None:
        traffic = moves.reported(counted, moves.placed(record))
        number, why = plans.add({**plans.made[number], "traffic": traffic}), ""
    return {
        "facts": _facts(record, root),
        "plan": number,
        "plan_missing": why,
        "times": times,
        "straggler": attempt.straggler(times["slowest"]) if times else "",
        "per_rank": record.seconds.per_rank if record.seconds else {},
        "drift": record.seconds.drift if record.seconds else None,
    }


def _facts(record: Record, root: Path) -> list[tuple[str, str]]:
    facts = [
        ("outcome", outcome(record)),
        ("mapping", words.mapping(record)),
        ("placement", record.placement),
        ("method", " ".join(filter(None, (record.method, f"({record.method_reason})")))),
        ("limit", record.throughput.limit if record.throughput else ""),
        ("clock", record.clock.get("warm", "")),
        ("machine", words.machine(record)),
        ("versions", words.versions(record)),
        ("started", record.started_at),
        ("folder", f"{root}/{record.name}"),
        ("command", words.command(record, str(root))),
    ]
    if record.method is None:
        facts = [fact for fact in facts if fact[0] != "method"]
    return [fact for fact in facts if fact[1]] + [("remark", text) for text in remarks(record)]
