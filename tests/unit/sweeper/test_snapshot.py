"""The code that is put aside for a sweep's jobs: whole, once, and known for what it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refit.errors import UserError
from refit.record import code
from sweeper.snapshot import Snapshot, exports


def test_it_is_the_code_as_it_was(tmp_path: Path) -> None:
    root = tmp_path / "re'sults"
    folder = Snapshot.of(root).write()
    assert Snapshot.of(root).write() == folder and len(list(folder.parent.iterdir())) == 1
    assert code.describe(folder) == code.describe() and (folder / "conf/config.yaml").is_file()
    size = sum(path.stat().st_size for path in folder.rglob("*"))
    assert size < 3e6
    # a checkout that is the current folder, as a job's is, and that is edited meanwhile
    checkout = tmp_path / "checkout"
    (checkout / "refit").mkdir(parents=True)
    (checkout / "refit/__init__.py").write_text("raise SystemExit('the checkout')")
    (checkout / "mine.py").write_text("")
    python = "import refit.schema, sweeper.pack, mine; print(refit.__file__, refit.schema.CONF)"
    shell = "; ".join([*exports(folder), f'{sys.executable} -c "{python}"'])
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    said = subprocess.run(
        ["bash", "-c", shell], cwd=checkout, env=clean, capture_output=True, text=True
    )
    assert said.stdout.split() == [f"{folder}/refit/__init__.py", f"{folder}/conf"], said.stderr


def test_other_code_is_another_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "refit").mkdir(parents=True)
    made = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("notes.txt", "3")):
        (source / "refit" / name).write_text(text)
        made.add(Snapshot.of(tmp_path, source).write())
    assert len(made) == 3  # notes are no code
    assert not list(tmp_path.glob(".code/.*"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".code").write_text("")
    with pytest.raises(UserError, match=r"cannot write results to .*: Not a directory"):
        Snapshot.of(tmp_path).write()
