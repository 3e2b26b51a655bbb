"""What github-action-benchmark takes: `tool: customSmallerIsBetter`, of its `output-file-path`.

Its README: a list of objects with `name`, `unit`, `value`, and if one likes `range` and `extra`.
Verified times alone: a history must not take an estimate, or another program's time, for one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from refit.record.record import Record
from sweeper import matched
from sweeper.comparison import name, samples


def text(records: Sequence[Record]) -> str:
    """The list, one object a point; its repetitions are one, as a chart has a line for each name.

    `range` is half of what the middle half of the iterations spans.
    """
    groups = matched.groups([record for record in records if record.seconds is not None])
    names = [name(group) for group in groups]
    entries = []
    for group, plain in zip(groups, names, strict=True):
        first = group.records[0]
        times = [second for each in samples(group) for second in each]
        entry = {
            # two points of one name are told apart by their identities
            "name": plain if names.count(plain) == 1 else f"{plain} {first.id}",
            "unit": "s",
            "value": statistics.median(times),
            "extra": _extra(first, len(times)),
        }
        if len(times) > 1:
            low, _, high = statistics.quantiles(times, n=4, method="inclusive")
            entry["range"] = f"\u00b1 {(high - low) / 2:.4g}"
        entries.append(entry)
    return json.dumps(entries, indent=2) + "\n"


def _extra(record: Record, iterations: int) -> str:
    assert record.throughput is not None
    return (
        f"{iterations} iterations\n{record.throughput.gbps:.2f} GB/s,"
        f" {record.throughput.fraction:.2f} of {record.throughput.limit}\n"
        f"{record.environment.get('host')}, {record.environment.get('device')}"
    )
