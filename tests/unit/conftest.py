"""The unit tests and those that run with them: what they import needs no torch."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PURE = tuple(TESTS / name for name in ("unit", "conf", "commands", "install", "browser"))


def pytest_collection_finish(session: pytest.Session) -> None:
    alone = all(any(folder in item.path.parents for folder in PURE) for item in session.items)
    if alone and (found := {"torch", "megatron"} & sys.modules.keys()):
        raise pytest.UsageError(f"tests/unit imports {', '.join(sorted(found))}: see tests/torch")


@pytest.fixture(autouse=True)
def _brings_no_torch() -> Iterator[None]:
    """Others of this process show that programs do without it."""
    before = {"torch", "megatron"} & sys.modules.keys()
    yield
    assert not ({"torch", "megatron"} & sys.modules.keys()) - before, "it belongs in tests/torch"
