"""A method that a user names is asked for before the first point runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sweeper import foreign
from tests.support.jobs import job


def test_what_is_no_method_is_found_and_what_is_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "import sys\nif 'raises' in sys.argv[1]: raise RuntimeError('no licence')\n"
        "if 'ends' in sys.argv[1]: sys.exit(3)\n"
        "class raises: pass\nclass ends: pass\nTEXT = 'x'\n"
        "print('a library says something')\n"
        "if 'Mine' in sys.argv[1]:\n"
        "    from refit.transport.ipc import IpcTransport as Mine\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ("nomod:Cls", "mine:raises", "mine:ends", "mine:Mine", "ipc", "auto")
    assert foreign.refusals(job(method=name) for name in names) == {
        "nomod:Cls": "no refit method 'nomod:Cls': it cannot be imported here; install its package,"
        " or put its folder on PYTHONPATH",
        "mine:raises": "refit.method=mine:raises cannot be imported: RuntimeError: no licence",
        "mine:ends": "refit.method=mine:ends: importing it ends with exit code 3",
    }
    assert "mine" not in sys.modules and "torch" not in sys.modules
