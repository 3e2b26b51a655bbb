"""For all tests: Ctrl-C reaches the programs under test, and `gpu` skips where there is none.

A shell without job control starts what it puts in the background, pytest say, with SIGINT ignored,
and all its children inherit that.
"""

import signal

import pytest

from refit.rules import devices

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := devices.no_cuda()):
        pytest.skip(reason)
