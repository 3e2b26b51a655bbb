"""Which of many cases alike `make test` runs; `make test-thorough` (pytest --thorough) runs all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], every: int) -> list[Any]:
    """The cases for `parametrize`, all but each so many-th of them marked `thorough`.

    It is for cases that show one thing more than once, as those of two tables that are multiplied:
    each row of either must be among those that are left.
    """
    return [case if n % every == 0 else thorough(case) for n, case in enumerate(cases)]


def thorough(case: Any) -> Any:
    """One case, marked."""
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.thorough)
