"""What megatron-core's refit asks of CUDA where there is none, so that its gloo service runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch


class _Stream:
    """The stream of a machine without streams: whatever was asked of it is done already."""

    def wait_stream(self, stream: object) -> None: ...

    def synchronize(self) -> None: ...


@contextmanager
def without_cuda() -> Iterator[None]:
    """Inside, megatron-core's copy services start and run on CPU tensors; with CUDA, as ever."""
    if torch.cuda.is_available():
        yield
        return
    empty = torch.empty

    def unpinned(*args: Any, pin_memory: bool = False, **kw: Any) -> torch.Tensor:
        return empty(*args, **kw)

    with (
        # both services make a stream for local copies when they start; `with torch.cuda.stream` of
        # None does nothing, and 0.16's gloo service asks whether it is None before it waits for it
        patch.object(torch.cuda, "Stream", lambda *_, **__: None),
        # from here on for what came after 0.16.1 (Megatron-LM d98e8a64): after its run the gloo
        # service makes the current stream wait for that one, and synchronises it after packing
        patch.object(torch.cuda, "current_stream", _Stream),
        # the executor waits for the device before and after it writes back
        patch.object(torch.cuda, "synchronize", lambda *_: None),
        # its staging buffers are pinned, for faster copies to a device; only CUDA can pin
        patch.object(torch, "empty", unpinned),
    ):
        yield
