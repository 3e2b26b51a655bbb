"""The unit tests and those that run with them: what they import needs no torch."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PURE = tuple(TESTS / name for name in ("unit", "conf", "commands", "install", "browser"))


def pytest_collection_finish(session: pytest.Session) -> None:
    alone = all(any(folder in item.path.parents for folder in PURE) for item in session.items)
    if alone and (found := {"torch", "megatron"} & sys.modules.keys()):
        raise pytest.UsageError(f"tests/unit imports {', '.join(sorted(found))}: see tests/torch")
