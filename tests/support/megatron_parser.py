"""Megatron's own argument parser and checks on a CPU: what it makes of a command's flags.

`megatron.training` is in the wheels from 0.17. Importing this needs neither it nor torch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import typing
import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from refit.model import megatron_versions as versions

MISSING = (
    None
    if versions.HAS_TRAINING
    else f"megatron-core {versions.VERSION} has no megatron.training; the wheels do from 0.17"
)
"""Why there is no parser here, or None; a reason to skip."""


def parse(flags: Sequence[str]) -> argparse.Namespace:
    """The arguments that Megatron reads from the flags of its refit benchmark or of training.

    Raises:
        ValueError: it does not know a flag, or its value; with the parser's words.
    """
    said = io.StringIO()
    with patch.object(sys, "argv", ["megatron", *flags]), contextlib.redirect_stderr(said):
        try:
            found: argparse.Namespace = _arguments().parse_args(_benchmarks_own)
        except SystemExit:
            raise ValueError(said.getvalue().strip().splitlines()[-1]) from None
    return found


def refusal(flags: Sequence[str], world: int) -> str | None:
    """What Megatron's checks of its arguments and of its config say on a world of GPUs, or None."""
    try:
        checked(flags, world)
    except (AssertionError, ValueError, RuntimeError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def checked(flags: Sequence[str], world: int) -> tuple[argparse.Namespace, Any]:
    """The arguments as Megatron completes them on a world of GPUs, and its TransformerConfig.

    `--no-rope-fusion` is added: the fused kernel is the engine's.

    Raises:
        AssertionError, ValueError, RuntimeError: it refuses them.
    """
    import torch

    found = parse([*flags, "--no-rope-fusion"])
    found.rank, found.world_size = 0, world
    with (
        patch.dict(os.environ, CUDA_DEVICE_MAX_CONNECTIONS="1"),
        # it asks what the GPU can do
        patch.object(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(major=9)),
        patch.object(torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        contextlib.redirect_stdout(io.StringIO()),  # where it prints all of them
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        _arguments().validate_args(found, {})
        config = _arguments().core_transformer_config_from_args(found)  # which checks itself
    return found, config


@cache
def _arguments() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not hasattr(typing, "override"):  # 0.18 and later, unpacked for Python 3.11
            import typing_extensions

            typing.override = typing_extensions.override  # type: ignore[attr-defined]
        from megatron.training import arguments
    return arguments


def _benchmarks_own(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What Megatron's refit benchmark adds to the parser."""
    group: Any = parser.add_argument_group("refit benchmark")
    group.add_argument("--refit-mode", choices=["collocated", "non-collocated"])
    group.add_argument("--num-benchmark-warmup", type=int, default=2)
    group.add_argument("--num-benchmark-iterations", type=int, default=10)
    return parser
