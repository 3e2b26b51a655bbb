"""Values that a config takes from the environment: kept where they are used, never written down."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

WITHIN = ("env", "slurm")
"""Of `cluster`: what others read, tokens and accounts among it."""

SHELL = ("setup", "teardown", "srun_args")
"""Names below `cluster.slurm` whose text is a shell's: what it calls ${...} is its own."""

_ASKED = re.compile(r"\$\{\s*oc\.env\s*:\s*([A-Za-z_]\w*)\s*(?:,([^{}]*))?\}")


class Told(str):
    """A text that the environment told; `written` is what a file has of it."""

    written: str

    def __new__(cls, value: str, written: str) -> Told:
        """The text, and what was asked for."""
        made = super().__new__(cls, value)
        made.written = written
        return made

    def __reduce__(self) -> tuple[type[Told], tuple[str, str]]:
        """For copies and pickles."""
        return Told, (str(self), self.written)


def marked(value: Any, raw: Any) -> Any:
    """A resolved value whose texts that the environment told are `Told`.

    Args:
        raw: the same before it was resolved.
    """
    if isinstance(value, dict) and isinstance(raw, dict):
        return {k: v if k in SHELL else marked(v, raw.get(k)) for k, v in value.items()}
    if isinstance(value, list) and isinstance(raw, list) and len(raw) == len(value):
        return [marked(*both) for both in zip(value, raw, strict=True)]
    if isinstance(value, str) and isinstance(raw, str) and _ASKED.search(raw):
        return Told(value, raw)
    return value


def as_written(value: Any) -> Any:
    """Plain containers as a file has them: what the environment told as it was asked for."""
    if isinstance(value, dict):
        return {k: as_written(v) for k, v in value.items()}
    if isinstance(value, list):
        return [as_written(v) for v in value]
    return value.written if isinstance(value, Told) else value


def variables_as_written(found: Mapping[str, str], env: Mapping[str, Any]) -> dict[str, str]:
    """The same variables, those that `env` has from the environment as they were asked for."""
    told = {name: value.written for name, value in env.items() if isinstance(value, Told)}
    return {name: told.get(name, value) for name, value in found.items()}


def options_as_written(lines: Iterable[str], slurm: Mapping[str, Any]) -> list[str]:
    """Options like `--account=a`, those of values that the environment told as they were asked."""
    told = {f"={value}": f"={value.written}" for value in slurm.values() if isinstance(value, Told)}
    return [
        next((line.removesuffix(v) + w for v, w in told.items() if line.endswith(v)), line)
        for line in lines
    ]


def asked_again(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of `as_written`, with what this process's environment tells.

    Raises:
        KeyError: it has no such variable, whose name this is.
    """
    cluster = config.get("cluster")
    if not isinstance(cluster, dict):
        return dict(config)
    told = {name: _told(cluster[name]) for name in WITHIN if name in cluster}
    return {**config, "cluster": {**cluster, **told}}


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v if k in SHELL else _told(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_told(v) for v in value]
    if isinstance(value, str) and _ASKED.search(value):
        return Told(_ASKED.sub(_of_environment, value), value)
    return value


def _of_environment(found: re.Match[str]) -> str:
    default: str | None = found[2]
    return os.environ[found[1]] if default is None else os.environ.get(found[1], default.strip())
