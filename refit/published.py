"""Refits that others published, beside our floor and estimate: `python -m refit.published`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from refit import compose, program
from refit.forecast.predict import Prediction, predict
from refit.job import UserError
from refit.rules.impossible import impossible
from refit.rules.setup import Setup

DATA = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """One refit of `published.yaml`, and ours for the nearest point.

    Attributes:
        seconds: the author's, smallest and largest.
        found: None where nothing of ours can be set beside it; `why` says the reason.
        why: what was assumed, or why there is no comparison.
    """

    name: str
    seconds: tuple[float, float]
    source: str
    clock: str
    why: str
    found: Prediction | None

    @property
    def error(self) -> float | None:
        """Estimate against the middle of the author's seconds: -0.5 is half of it."""
        if self.found is None or self.found.estimate is None:
            return None
        return self.found.estimate.seconds / (sum(self.seconds) / 2) - 1


def rows() -> list[Published]:
    """Every published refit, in the order of the file.

    Raises:
        UserError: an entry makes a point that is impossible.
    """
    data = yaml.safe_load(DATA.read_text())
    with compose.configs():
        return [_row(entry, data["clocks"]) for entry in data["refits"]]


def _row(entry: dict[str, Any], clocks: dict[str, str]) -> Published:
    found, why = None, entry.get("not_comparable") or entry["assumed"]
    if "overrides" in entry:
        job = compose.job(["mode=plan", *entry["overrides"]])
        if reason := impossible(job):
            raise UserError(f"{DATA.name}: {entry['name']}: {reason}")
        found = predict(Setup.of(job))
    low, high = entry["seconds"]
    clock = clocks[entry["clock"]].strip()
    return Published(entry["name"], (low, high), entry["source"], clock, why.strip(), found)


def lines(found: Sequence[Published]) -> list[str]:
    """The table, then of each row its source, clock, and what was assumed."""
    width = max(len(row.name) for row in found)
    label = len(f"[{len(found)}]")
    head = (
        f"{'':{label}} {'refit':{width}}  published s    floor s  estimate s  error"
        "  busiest recv GB"
    )
    shown, notes = [head], []
    for number, row in enumerate(found, 1):
        low, high = row.seconds
        published = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        ours = "not comparable"
        why = f"not comparable: {row.why}" if row.found is None else f"assumed: {row.why}"
        if row.found and row.found.floor and row.found.estimate and row.error is not None:
            recv = int(row.found.traffic.received_bytes.max()) / 1e9
            ours = (
                f"{row.found.floor.seconds:9.3f}  {row.found.estimate.seconds:10.3f}"
                f"  {row.error:+5.0%}  {recv:15.2f}"
            )
            if row.found.shortage:
                why += f"; both at once do not fit: {row.found.shortage.split(', cluster')[0]}"
        shown.append(f"{f'[{number}]':{label}} {row.name:{width}}  {published:12}  {ours}")
        notes.append(f"[{number}] {row.source}\n    clock: {row.clock}\n    {why}")
    return [*shown, "", *notes]


def main(arguments: Sequence[str]) -> None:
    """Print the table.

    Raises:
        UserError: see `rows`.
    """
    program.parser("refit.published", __doc__).parse_args(arguments)
    print("\n".join(lines(rows())))


if __name__ == "__main__":
    program.run(main)
