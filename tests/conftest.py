"""For all tests: Ctrl-C reaches programs under test, `gpu` skips without one, fixed draws.

`thorough` ones run with --thorough, which also draws more.

A shell without job control starts what it puts in the background, pytest say, with SIGINT ignored,
and all its children inherit that.
"""

import signal
from typing import Any

import pytest
from hypothesis import settings

from refit.rules import devices

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# what is drawn is the same in every run, however slow the machine
DRAWN = settings(derandomize=True, deadline=None, database=None)
settings.register_profile("thorough", DRAWN, max_examples=60)
settings.register_profile("sample", DRAWN, max_examples=25)
settings.load_profile("sample")


WHOLE = ("tests/ranks/test_models.py", "tests/ranks/test_docs.py")
"""Files whose tests all look at what one fixture is slow to make."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With -n and --dist load: test by test, but a file of `WHOLE` to one process.

    pytest-xdist 3.8 has groups for that, by names that pytest 9.2 does not take from it any more.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class ByFileWhereWhole(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return file if file in WHOLE else nodeid

    return ByFileWhereWhole(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="all cases, also those alike")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("thorough" if config.getoption("--thorough") else "sample")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--thorough"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("thorough")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := devices.no_cuda()):
        pytest.skip(reason)
