"""How megatron-core is imported here: without its noise, and without a compiler."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def quiet() -> Iterator[None]:
    """Megatron warns of what it lacks and of what matters in training; none of it does here."""
    with warnings.catch_warnings():
        for text in (
            "(Transformer Engine and )?Apex (is|are) not installed",
            "moe_ffn_hidden_size is not set",
            "Using a large number of experts .* without fp32 routing",
            "full scope is deprecated. Use empty cuda_graph_(scope|modules)",
            "When using expert parallelism and tensor parallelism for training",
            "When using async grad allreduce",
            "Warning: tp_group is None",  # see megatron_runs
            "`torch.distributed.[a-z_]*` is deprecated",  # collectives that Megatron calls
            "absl.logging is not installed",
        ):
            warnings.filterwarnings("ignore", message=text)
        with ExitStack() as stack:
            for name in _LOGS:
                logger = logging.getLogger(name)
                logger.addFilter(_matters)
                stack.callback(logger.removeFilter, _matters)
            yield


_LOGS = {
    # what every model says of itself; it is what is run
    "megatron.core.models.gpt.gpt_model": "GPTModel IS DEPRECATED",
    # said on import, of a CUDA build of torch where there is a compiler and no GPU
    "torch.utils.cpp_extension": "No CUDA runtime is found",
}
"""By logger the beginning of a message that does not matter here."""


def _matters(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_LOGS.get(record.name, "\0"))


@contextmanager
def uncompiled() -> Iterator[None]:
    """What is decorated with torch.compile meanwhile stays as it is written.

    Megatron decorates its fused functions on import, for which torch imports its compiler, in 3 s
    of a core. None of them runs in a refit; in a forward pass quick_gelu would be compiled at its
    first call, half a minute for what it does in no time as it is.
    """
    compiled = torch.compile
    torch.compile = _as_it_is
    try:
        yield
    finally:
        torch.compile = compiled


def _as_it_is(model: Callable[..., Any] | None = None, **_: Any) -> Any:
    """As torch.compile is called: of a function, or with options, to decorate one."""
    return _as_it_is if model is None else model
