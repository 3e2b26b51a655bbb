"""Lines that training programs write on their refits -> seconds, by the metric's own name. Pure."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from refit.record.imported import Imported

TIMING = "MX_REFIT_TIMING"

CLOCKS: Mapping[str, str] = {
    TIMING: "ModelExpress's, of each rank from its refit's begin to its end (e2e_ms); the slowest"
    " rank of a version",
    "perf/update_weights_time": "slime's timer around the actor's update_weights",
    "timing_s/update_weights": "verl's timer around its update of the rollout's weights",
    "prepare_for_generation/transfer_and_update_weights": "NeMo-RL's timer around its transfer and"
    " the engine's update of weights",
    "time/broadcast_weights": "prime-rl's timer around its broadcast of weights",
}
"""The metrics that are read, all in seconds but the first, and what their clocks hold."""

_PAYLOAD = re.compile(rf"{TIMING}\s+(\{{.*)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NUMBER = r"(-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|-?nan|-?inf)"
_VALUE = re.compile(
    rf"(?:^|[^\w])(?:[\w.]+/)*({'|'.join(re.escape(name) for name in CLOCKS if name != TIMING)})"
    # "name": 1.5, 'name': np.float64(1.5), name:1.5, name=1.5, name: 1.5s
    rf"['\"]?\s*[:=]\s*(?:[\w.]+\()?{_NUMBER}",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Read:
    """What a log holds.

    Attributes:
        found: by metric.
        left_out: values that are no time: negative, 0, not a number, or half a line.
    """

    found: list[Imported]
    left_out: int


def read(lines: Iterable[str], file: str) -> Read:
    """All refits of a log's lines, in their order.

    Args:
        file: that they are of, for the record.
    """
    times: dict[str, list[float]] = defaultdict(list)
    timed: list[Mapping[str, Any]] = []
    left_out = 0
    for line in (_COLOUR.sub("", line) for line in lines):
        if starts := _PAYLOAD.search(line):
            payload = _payload(starts[1])
            timed += [payload] if payload else []
            left_out += not payload
            continue
        for name, text in _VALUE.findall(line):
            seconds = float(text)
            if math.isfinite(seconds) and seconds > 0:
                times[name].append(seconds)
            else:
                left_out += 1
    found = [_of_ranks(timed, file)] if timed else []
    found += [Imported(n, file, each, statistics.median(each)) for n, each in times.items()]
    return Read(found, left_out)


def _payload(text: str) -> dict[str, Any] | None:
    """The object behind the prefix; None where it is no whole one with a time."""
    try:
        values, _ = json.JSONDecoder().raw_decode(text)
        whole = float(values["e2e_ms"])
        stages = {name: float(each["duration_ms"]) for name, each in values["stages"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not (math.isfinite(whole) and whole > 0 and all(map(math.isfinite, stages.values()))):
        return None
    return values


def _of_ranks(payloads: Iterable[Mapping[str, Any]], file: str) -> Imported:
    """Each version's refit is as long as its slowest rank's; cold ones are no timed ones."""
    versions: dict[tuple[str, bool], list[Mapping[str, Any]]] = defaultdict(list)
    for payload in payloads:
        is_cold = payload.get("cold_warm") == "cold"
        versions[str(payload.get("version")), is_cold].append(payload)
    slowest = {
        which: max(ranks, key=lambda payload: float(payload["e2e_ms"]))
        for which, ranks in versions.items()
    }
    cold = [float(p["e2e_ms"]) / 1e3 for (_, is_cold), p in slowest.items() if is_cold]
    warm = [which for which in slowest if not which[1]] or list(slowest)
    seconds = [float(slowest[which]["e2e_ms"]) / 1e3 for which in warm]
    names = dict.fromkeys(name for which in warm for name in slowest[which]["stages"])
    spent = {
        name: statistics.median(
            float(slowest[which]["stages"].get(name, {}).get("duration_ms", 0)) / 1e3
            for which in warm
        )
        for name in names
    }
    moved = [sum(int(p.get("bytes") or 0) for p in versions[which]) for which in warm]
    return Imported(
        source=TIMING,
        file=file,
        seconds=seconds,
        median=statistics.median(seconds),
        cold=max(cold, default=None),
        stages=spent,
        bytes=int(statistics.median(moved)) or None,
    )
