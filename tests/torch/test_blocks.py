"""A copy of a run is of bits: no NaN becomes another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from refit.plan.runs import NO_CAST, Runs
from refit.transport import blocks

EVERY = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)  # all there are of 16 bits
TO_FLOAT32 = 2  # bfloat16, the first of all dtypes, to the third

on_each = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def table_of(*runs: Sequence[int]) -> Runs:
    return Runs(*np.array(runs, dtype=np.int64).T)


@on_each
def test_every_value_arrives_as_it_is(device: str) -> None:
    values = EVERY.to(device).view(torch.uint8)
    one, columns = (torch.zeros_like(values) for _ in range(2))
    _, start = blocks.mover(table_of((0, 0, 0, 1, 0, 0, 1 << 17, NO_CAST)), one, {0: values})
    start()
    assert torch.equal(one, values)
    # each second value into the place before it
    _, start = blocks.mover(table_of((0, 2, 0, 1 << 15, 4, 4, 2, NO_CAST)), columns, {0: values})
    start()
    words = columns.view(torch.int16)
    assert torch.equal(words[::2], values.view(torch.int16)[1::2]) and not words[1::2].any()


@on_each
def test_what_is_cast_is_copied_as_values(device: str) -> None:
    values = torch.arange(64, dtype=torch.float32, device=device).bfloat16().view(torch.uint8)
    into = torch.zeros(256, dtype=torch.uint8, device=device)
    # 8 of them as they are, then rows of 4 of 8 columns as four bytes each
    runs = (0, 0, 0, 1, 0, 0, 16, NO_CAST), (0, 16, 32, 3, 16, 32, 8, TO_FLOAT32)
    _, start = blocks.mover(table_of(*runs), into, {0: values})
    start()
    assert into[:16].view(torch.bfloat16).tolist() == list(range(8))
    rows = into[32:128].view(torch.float32).view(3, 8)
    assert rows[:, :4].tolist() == [[8, 9, 10, 11], [16, 17, 18, 19], [24, 25, 26, 27]]
    assert not rows[:, 4:].any()
