"""Where the ranks of one machine meet, and that it is known at once where they cannot."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from refit.errors import UserError
from refit.ranks.nodes import Nodes
from refit.record.point import Attempt
from tests.support.forks import fork_of

NEW_NETWORK = 0x40000000  # CLONE_NEWNET, in which loopback is down
CANNOT = 77


def test_a_loopback_that_is_down_is_known_at_once(tmp_path: Path) -> None:
    def main() -> None:
        if ctypes.CDLL(None).unshare(NEW_NETWORK):
            raise SystemExit(CANNOT)
        try:
            with Nodes(Attempt(tmp_path)).meeting(3600):
                print("they would wait")
        except UserError as error:
            print(error)

    started = time.monotonic()
    ended = fork_of(main)
    if ended.code == CANNOT:
        pytest.skip("an ordinary user may make no network namespace here; run as root to test it")
    assert "127.0.0.1, which does not answer here: [Errno 101]" in ended.stdout
    assert "ip link set lo up" in ended.stdout and ended.code == 0
    assert time.monotonic() - started < 60
