"""The unit tests are pure: what they import needs no torch."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    alone = all(HERE in item.path.parents for item in session.items)
    if alone and (found := {"torch", "megatron"} & sys.modules.keys()):
        raise pytest.UsageError(f"tests/unit imports {', '.join(sorted(found))}: see tests/torch")
