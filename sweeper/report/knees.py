"""Curves over one number: where points differ in nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

from refit.record.record import Record

NOT_SWEPT = (
    "seed", "model.published_parameters", "bench.deadline_s", "bench.iterations", "bench.warmup",
)  # fmt: skip
LEAST_VALUES = 3
"""A curve of fewer says nothing of a knee."""


def curves(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every curve that some of the records make.

    Returns:
        Of each curve `number`, the field that differs; `points`, the indices of the records by its
        values; `values`; `seconds`, `low`, `high`: median (of a prediction the estimate) and its
        interval; and `best`, the place of the smallest.
    """
    timed = [(n, r) for n, r in enumerate(records) if r.status == "ok" and r.objective_s]
    configs = {n: _flat(r.config, r.kind) for n, r in timed}
    varying = _varying(list(configs.values()))
    kept = {n: {k: v for k, v in c.items() if k in varying} for n, c in configs.items()}
    texts = {n: sorted((k, repr(v)) for k, v in c.items()) for n, c in kept.items()}
    found = []
    for number in sorted(varying):
        groups: dict[str, list[int]] = {}
        for n, config in kept.items():
            if _is_number(config.get(number)):
                rest = repr([pair for pair in texts[n] if pair[0] != number])
                groups.setdefault(rest, []).append(n)
        for of in groups.values():
            if len({kept[n][number] for n in of}) >= LEAST_VALUES:
                found.append(_curve(number, of, kept, records))
    return found


def interval(seconds: Sequence[float]) -> tuple[float, float]:
    """What the median of such times lies between with 95%, by their order alone.

    The k-th smallest and k-th largest do, where a fair coin's n throws have at most k - 1 heads
    with 2.5%; below six times there is no such k, and the smallest and largest have less than 95%.
    """
    ascending, n = sorted(seconds), len(seconds)
    tail, k = 0.0, 0
    while tail + comb(n, k) / 2**n <= 0.025:
        tail += comb(n, k) / 2**n
        k += 1
    k = max(k, 1)
    return ascending[k - 1], ascending[n - k]


def _curve(
    number: str, of: list[int], configs: Mapping[int, Mapping[str, Any]], records: Sequence[Record]
) -> dict[str, Any]:
    ordered = sorted(of, key=lambda n: configs[n][number])
    seconds = [records[n].objective_s or 0.0 for n in ordered]
    warm = [r.seconds.warm if (r := records[n]).seconds else [] for n in ordered]
    spans = [interval(w) if w else (s, s) for w, s in zip(warm, seconds, strict=True)]
    return {
        "number": number,
        "points": ordered,
        "values": [configs[n][number] for n in ordered],
        "seconds": seconds,
        "low": [low for low, _ in spans],
        "high": [high for _, high in spans],
        "best": seconds.index(min(seconds)),
    }


def _varying(configs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Fields that are not the same in all configs."""
    values: dict[str, set[str]] = {name: set() for config in configs for name in config}
    for config in configs:
        for name, of_all in values.items():
            of_all.add(repr(config.get(name)))
    return {name for name, of_all in values.items() if len(of_all) > 1}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What a point is of, by dotted names; neither texts about it nor what a sweep does with it."""
    found: dict[str, Any] = {"kind": kind}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, below in value.items():
                walk(below, f"{name}.{key}" if name else str(key))
        elif name not in NOT_SWEPT and not name.endswith((".name", ".use_case")):
            found[name] = value

    walk({key: value for key, value in config.items() if key != "sweep"}, "")
    return found
