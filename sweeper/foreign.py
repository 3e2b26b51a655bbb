"""Methods that a user names, package.module:Class: asked before the first point of a sweep runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable

from refit.job import Job
from refit.rules import methods

TIMEOUT_S = 300.0  # to import torch and the user's module, on a busy machine
CODE = """
import json, sys
from refit.transport import find
found = find.refusal(sys.argv[1])
print()
print(json.dumps(found))
"""  # behind whatever else is printed by what it imports


def refusals(jobs: Iterable[Job]) -> dict[str, str]:
    """Why a method of a user's is none, by its name; those that are methods are not in it.

    Each is imported once, in a process of its own: this one is to stay without torch.

    Args:
        jobs: what is to be measured.
    """
    found: dict[str, str] = {}
    for method in dict.fromkeys(job.refit.method for job in jobs if job.mode == "measure"):
        if method != "auto" and method not in methods.METHODS:
            reason = methods.not_there(method) or _asked(method)
            found |= {method: reason} if reason else {}
    return found


def _asked(method: str) -> str | None:
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE, method],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"refit.method={method}: importing it takes more than {TIMEOUT_S:g} s"
    if done.returncode:  # it has ended the process, say
        return f"refit.method={method}: importing it ends with exit code {done.returncode}"
    reason: str | None = json.loads(done.stdout.splitlines()[-1])
    return reason
