"""Refits that others published, beside our floor and estimate: `python -m refit.published`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from refit import compose, program
from refit.errors import UserError
from refit.forecast.predict import Prediction, predict
from refit.rules.impossible import impossible
from refit.rules.setup import Setup

DATA = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """One refit of `published.yaml`, and ours for the nearest point.

    Attributes:
        seconds: the author's, smallest and largest.
        prediction: None where nothing of ours can be set beside it; `why` says the reason.
        why: what was assumed, or why there is no comparison.
    """

    name: str
    seconds: tuple[float, float]
    source: str
    clock: str
    why: str
    prediction: Prediction | None

    @property
    def error(self) -> float | None:
        """Estimate against the middle of the author's seconds: -0.5 is half of it."""
        if self.prediction is None or self.prediction.estimate is None:
            return None
        return self.prediction.estimate.seconds / (sum(self.seconds) / 2) - 1


def rows() -> list[Published]:
    """Every published refit, in the order of the file.

    Raises:
        UserError: an entry makes a point that is impossible.
    """
    data = yaml.safe_load(DATA.read_text())
    with compose.configs():
        return [_row(entry, data["clocks"]) for entry in data["refits"]]


def _row(entry: dict[str, Any], clocks: dict[str, str]) -> Published:
    prediction, why = None, entry.get("not_comparable") or entry["assumed"]
    if "overrides" in entry:
        job = compose.job(["mode=plan", *entry["overrides"]])
        if reason := impossible(job):
            raise UserError(f"{DATA.name}: {entry['name']}: {reason}")
        prediction = predict(Setup.of(job))
    low, high = entry["seconds"]
    clock = clocks[entry["clock"]].strip()
    return Published(entry["name"], (low, high), entry["source"], clock, why.strip(), prediction)


def lines(refits: Sequence[Published]) -> list[str]:
    """The table, then of each row its source, clock, and what was assumed."""
    width = max(len(row.name) for row in refits)
    label = len(f"[{len(refits)}]")
    head = (
        f"{'':{label}} {'refit':{width}}  published s    floor s  estimate s  error"
        "  busiest recv GB"
    )
    shown, notes = [head], []
    for number, row in enumerate(refits, 1):
        low, high = row.seconds
        published = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        ours = "not comparable"
        why = f"not comparable: {row.why}" if row.prediction is None else f"assumed: {row.why}"
        if (
            row.prediction
            and row.prediction.floor
            and row.prediction.estimate
            and row.error is not None
        ):
            recv = int(row.prediction.traffic.received_bytes.max()) / 1e9
            ours = (
                f"{row.prediction.floor.seconds:9.3f}  {row.prediction.estimate.seconds:10.3f}"
                f"  {row.error:+5.0%}  {recv:15.2f}"
            )
            if row.prediction.shortage:
                why += f"; both at once do not fit: {row.prediction.shortage.split(', cluster')[0]}"
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
    program.exit_with(main)
