"""Which of many cases alike `make test` runs; `make test-thorough` (pytest --thorough) runs all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def sampled(cases: Iterable[Any], every: int) -> list[Any]:
    """The cases for `parametrize`, all but each so many-th of them marked `thorough`.

    It is for cases that show one thing more than once, as those of two tables that are multiplied:
    each row of either must be among those that are left.
    """
    return [case if n % every == 0 else thorough(case) for n, case in enumerate(cases)]


def crossed(rows: Sequence[tuple[Any, ...]], columns: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Each row with each column; not `thorough` in turn, so that each of either is left once."""
    return [
        case if n % len(columns) == m or m % len(rows) == n else thorough(case)
        for n, row in enumerate(rows)
        for m, column in enumerate(columns)
        for case in [(*row, *column)]
    ]


def thorough(case: Any) -> Any:
    """One case, marked."""
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.thorough)
