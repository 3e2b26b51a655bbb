"""Two lists of times -> the ratio of their medians, how sure that is, and a verdict. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FEWEST = 5
"""Iterations of a side below which nothing is decided."""

DRAWS = 2000
LEVEL = 0.99
NOISE = 0.01
"""What is nearer to 1 than this is the same, however sure it is."""

SEED = 0
_BLOCK = 250  # draws at once, so that ten thousand iterations take no gigabytes

METHOD = (
    f"ratio: after / before, of the medians; {LEVEL:.0%} interval of {DRAWS} bootstrap draws over"
    f" repetitions and their iterations, seed {SEED}; same: 1 is in it, or less than {NOISE:.0%}"
    " away"
)

Verdict = Literal["faster", "slower", "same", "not enough iterations"]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """After over before.

    Attributes:
        value: of the medians.
        low, high: of the interval; None where nothing is decided, or nothing was drawn.
        verdict: of after.
        log_draws: [draws], natural logarithms; empty where nothing was drawn.
    """

    value: float
    low: float | None
    high: float | None
    verdict: Verdict
    log_draws: FloatArray


def ratio(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], number: int = 0
) -> Ratio:
    """Compare two sides.

    Args:
        before, after: seconds, above 0: of each repetition its iterations, of each side equally
            many.
        number: of the comparison, so that each draws on its own.
    """
    value = float(np.median(np.concatenate(after)) / np.median(np.concatenate(before)))
    if min(sum(map(len, side)) for side in (before, after)) < FEWEST:
        return Ratio(value, None, None, "not enough iterations", np.empty(0))
    random = np.random.default_rng([SEED, number])
    draws = _log_medians(after, random) - _log_medians(before, random)
    low, high = interval(draws)
    return Ratio(value, low, high, verdict(value, low, high), draws)


def exact(before: float, after: float) -> Ratio:
    """Compare two numbers that have no noise: estimates."""
    value = after / before
    return Ratio(value, None, None, verdict(value, value, value), np.full(DRAWS, np.log(value)))


def verdict(value: float, low: float, high: float) -> Verdict:
    """Of a ratio and its interval."""
    if low <= 1 <= high or abs(value - 1) < NOISE:
        return "same"
    return "slower" if value > 1 else "faster"


def geometric_mean(ratios: Sequence[Ratio]) -> tuple[float, float, float] | None:
    """Of all that were decided, and the ends of its interval; None where there is none."""
    decided = [each for each in ratios if len(each.log_draws)]
    if not decided:
        return None
    value = float(np.exp(np.mean([np.log(each.value) for each in decided])))
    return value, *interval(np.mean([each.log_draws for each in decided], axis=0))


def interval(log_draws: FloatArray) -> tuple[float, float]:
    """The ends of the middle `LEVEL` of some draws, no more as logarithms."""
    tail = (1 - LEVEL) / 2
    low, high = np.exp(np.quantile(log_draws, [tail, 1 - tail]))
    return float(low), float(high)


def _log_medians(side: Sequence[Sequence[float]], random: np.random.Generator) -> FloatArray:
    """[draws]: logarithms of the medians of what is drawn: repetitions, and iterations of each.

    Few repetitions vary less among themselves than all that there could be: by sqrt((k - 1) / k)
    of k, which is made up for.
    """
    times = np.array(side, dtype=np.float64)
    repetitions, iterations = times.shape
    drawn = []
    for _ in range(0, DRAWS, _BLOCK):
        which = random.integers(0, repetitions, (_BLOCK, repetitions, 1))
        each = random.integers(0, iterations, (_BLOCK, repetitions, iterations))
        drawn.append(np.median(times[which, each].reshape(_BLOCK, -1), axis=1))
    logs = np.log(np.concatenate(drawn))
    if repetitions == 1:
        return logs
    centre = np.log(np.median(times))
    widened: FloatArray = centre + (logs - centre) * np.sqrt(repetitions / (repetitions - 1))
    return widened
