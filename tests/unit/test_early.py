"""Ctrl-C before a program has begun: it ends at once, with exit code 130 and without a word."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# what `python -m refit.run` and the console script do, with Ctrl-C as soon as refit is imported
STRUCK = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[0] = {name!r}
import {module}
os.kill(os.getpid(), signal.SIGINT)
print("goes on")
"""


@pytest.mark.parametrize(
    ("name", "module", "code"),
    [("-m", "refit", 130), ("/usr/bin/refit-sweep", "sweeper", 130), ("pytest", "refit", 1)],
)
def test_ctrl_c_while_it_imports(name: str, module: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", STRUCK.format(name=name, module=module)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    ended = -signal.SIGINT if code == 1 else code  # Python's own way, which a library leaves alone
    assert done.returncode == ended and "goes on" not in done.stdout
    assert ("Traceback" in done.stderr) is (code == 1)
