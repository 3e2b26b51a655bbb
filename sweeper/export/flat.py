"""What trackers take of a record: parameters, metrics and tags, flat. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from refit.record.record import Record
from refit.record.row import Row

NUMBERS = (
    "cold_s", "median_s", "p90_s", "max_s", "floor_s", "estimate_s", "gbps", "limit_gbps",
    "fraction", "bytes", "cross_node_bytes", "ranks", "elements", "mismatches", "drift", "growth",
    "refit_peak_bytes",
)  # fmt: skip
"""Columns of `Row` that are metrics."""


def parameters(record: Record) -> dict[str, str]:
    """Every field of the config by its dotted name."""
    return dict(_flat(record.config))


def metrics(record: Record) -> dict[str, float]:
    """The numbers that there are, and `proven`: 1 where every element was verified, else 0."""
    row = asdict(Row.of(record))
    found = {name: float(row[name]) for name in NUMBERS if row[name] is not None}
    proven = record.status == "ok" and record.kind == "measured"
    return {**found, "proven": float(proven)}


def tags(record: Record) -> dict[str, str]:
    """What it is, and `record`, by which it is told from all others."""
    row = Row.of(record)
    named = {
        name: str(value)
        for name in ("kind", "status", "reason", "method", "host", "device", "commit")
        if (value := getattr(row, name)) not in (None, "")
    }
    return {**named, "record": f"{record.id} {record.finished_at}", "overrides": row.overrides}


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value if isinstance(value, str) else json.dumps(value)
