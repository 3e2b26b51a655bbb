"""Methods that a user names, package.module:Class: asked before the first point of a sweep runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

from refit.job import Job
from refit.rules import methods

TIMEOUT_S = 300.0  # to import torch and the user's module, on a busy machine
CODE = """
import json, sys
from refit.transport import find
found = {method: find.refusal(method) for method in sys.argv[1:]}
print()
print(json.dumps(found))
"""  # behind whatever else is printed by what it imports


def refusals(jobs: Iterable[Job]) -> dict[str, str]:
    """Why a method of a user's is none, by its name; those that are methods are not in it.

    They are imported in a process of its own: this one is to stay without torch.

    Args:
        jobs: what is to be measured.
    """
    asked = dict.fromkeys(job.refit.method for job in jobs if job.mode == "measure")
    theirs = [method for method in asked if method != "auto" and method not in methods.METHODS]
    found = {method: methods.not_there(method) for method in theirs}
    there = [method for method, reason in found.items() if reason is None]
    if there:
        found |= _imported(there)
    return {method: reason for method, reason in found.items() if reason}


def _imported(names: Sequence[str]) -> dict[str, str | None]:
    """Of each method why it is none, or None."""
    why = "takes too long"
    try:
        done = _run(names)
        if done.returncode == 0:
            found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
            return found
        why = f"ends with exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        pass
    if len(names) == 1:  # it has ended the process, say
        return {names[0]: f"refit.method={names[0]}: importing it {why}"}
    return {name: reason for each in names for name, reason in _imported([each]).items()}


def _run(names: Sequence[str]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    return subprocess.run(
        [sys.executable, "-c", CODE, *names],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
    )
