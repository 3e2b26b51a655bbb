"""A method that a user names is asked for before the first point runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sweeper import foreign
from tests.support.jobs import job

MODULES = {
    "raises_here": "raise RuntimeError('no licence')\n",
    "ends_here": "import sys; sys.exit(3)\n",
    "fine_here": (
        "print('a library says something')\n"
        "from refit.transport.ipc import IpcTransport as Mine\n"
        "class Other: pass\n"
    ),
}
REFUSED = {
    "nomod:Cls": "no refit method 'nomod:Cls': it cannot be imported here; install its package, or"
    " put its folder on PYTHONPATH",
    "raises_here:X": "refit.method=raises_here:X cannot be imported: RuntimeError: no licence",
    "fine_here:Other": "refit.method=fine_here:Other is no transport; name a class that extends"
    " refit.transport.Transport",
    "ends_here:X": "refit.method=ends_here:X: importing it ends with exit code 3",
}


@pytest.mark.parametrize(
    "names",
    [("nomod:Cls", "raises_here:X", "fine_here:Mine", "fine_here:Other", "ipc"), ("ends_here:X",)],
)
def test_what_is_no_method_is_found_and_what_is_one_is_not(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    found = foreign.refusals(job(method=name) for name in names)
    assert found == {name: REFUSED[name] for name in names if name in REFUSED}
    assert not {"fine_here", "torch"} & (sys.modules.keys() - before)
