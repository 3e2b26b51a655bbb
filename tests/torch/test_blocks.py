"""A copy of a block is of bits: no NaN becomes another."""

from __future__ import annotations

import pytest
import torch

from refit.transport import blocks

EVERY = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)  # all there are of 16 bits


def test_what_is_not_cast_is_copied_as_integers() -> None:
    ones = [torch.zeros(4, dtype=d) for d in (torch.bfloat16, torch.float8_e4m3fn, torch.float32)]
    others = [torch.zeros(4, dtype=d) for d in (torch.bfloat16, torch.float8_e4m3fn, torch.float16)]
    here, there = blocks.as_bits(ones, others)
    assert [view.dtype for view in here] == [torch.int16, torch.uint8, torch.float32]
    assert [view.dtype for view in there] == [torch.int16, torch.uint8, torch.float16]
    assert [v.data_ptr() for v in here] == [one.data_ptr() for one in ones]
    assert [v.data_ptr() for v in there] == [other.data_ptr() for other in others]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_arrives_as_it_is(dtype: torch.dtype) -> None:
    values = EVERY.cuda()
    here, there = torch.zeros(2, len(EVERY), dtype=dtype, device="cuda")
    there.copy_(values.view(dtype))
    blocks.copy(*blocks.as_bits([here], [there]))
    assert torch.equal(here.view(torch.int16), there.view(torch.int16))
    # what that is for; torch may mend it one day
    torch._foreach_copy_([here], [there])
    assert not torch.equal(here.view(torch.int16), there.view(torch.int16))
