"""What tells a sweep's jobs from all others: its id, in their names and comments. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PREFIX = "refit-sweep:"

_MARKER = re.compile(rf"{PREFIX}([0-9a-f]{{10}})\b")


def sweep_id(root: Path) -> str:
    """Of the sweep whose points are below this folder: where its jobs write decides whose they are.

    Args:
        root: the sweep's folder.
    """
    return hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:10]


def found(text: str) -> str:
    """The sweep's id in a job's name and comment; empty where there is none."""
    match = _MARKER.search(text)
    return match[1] if match else ""


def marked(asked: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """What is asked of sbatch, with a name and a comment by which the job is found again.

    A name of the user's stays, and a comment is put before ours.

    Args:
        asked: `cluster.slurm`, nulls left out.
    """
    ours = f"{PREFIX}{sweep_id(root)}"
    more = dict(asked.get("additional_parameters", {}))
    theirs = [str(said) for said in (asked.get("comment"), more.pop("comment", None)) if said]
    values = {"job_name": ours, **asked, "comment": " ".join([*theirs, ours])}
    return {**values, "additional_parameters": more} if more else _without(values)


def _without(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != "additional_parameters"}
