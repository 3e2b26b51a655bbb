"""Records beside others: a prediction beside its measurement, a published refit beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from refit.published import DATA
from refit.record.record import Record

CHOICES = ("model", "parallel", "cluster")


def predicted_and_measured(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Predictions with an estimate, each with every measurement of the same model, pair and refit.

    Returns:
        `predicted` and `measured`, indices of the records.
    """
    measured: dict[str, list[int]] = {}
    for n, record in enumerate(records):
        if record.kind == "measured" and record.seconds:
            measured.setdefault(_same(record), []).append(n)
    return [
        {"predicted": n, "measured": other}
        for n, record in enumerate(records)
        if record.kind == "predicted" and record.estimate_s
        for other in measured.get(_same(record), ())
    ]


def _same(record: Record) -> str:
    """What both must have in common; of `auto` the method that was chosen."""
    parts = [dict(record.config[group]) for group in ("model", "parallel", "refit")]
    for part in parts:
        part.pop("name", None)
    parts[2]["method"] = record.method
    return repr([sorted((key, repr(value)) for key, value in part.items()) for part in parts])


def published(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Refits that others published for which there is a record.

    Returns:
        `name`, `low` and `high` seconds of the author's, `source`, `clock`, and `points`, the
        indices of our records.
    """
    data = yaml.safe_load(DATA.read_text())
    found = []
    for entry in data["refits"]:
        asked = entry.get("overrides")
        ours = [n for n, r in enumerate(records) if asked and _is_of(r, asked) and r.objective_s]
        if ours:
            low, high = entry["seconds"]
            clock = data["clocks"][entry["clock"]].strip()
            source = entry["source"]
            found.append(
                {
                    "name": entry["name"],
                    "low": low,
                    "high": high,
                    "source": source,
                    "clock": clock,
                    "assumed": entry["assumed"].strip(),
                    "points": ours,
                }
            )
    return found


def _is_of(record: Record, overrides: Sequence[str]) -> bool:
    """Whether a record is of these: of options by their names, of all else as it was typed."""
    named: Mapping[str, str] = {name: record.config[name]["name"] for name in CHOICES}
    for override in overrides:
        name, _, value = override.partition("=")
        if named.get(name, value) != value:
            return False
        if name not in named and override not in record.overrides:
            return False
    return True
