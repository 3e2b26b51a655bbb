"""Files that are whole or not there, and those that a user names; locks; attempts."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from refit.errors import UserError
from refit.record import lock
from refit.record.files import write_atomic, write_output
from refit.record.point import Point
from refit.run import main as run
from tests.support.forks import fork_of
from tests.support.jobs import job


def test_an_output_is_written_where_its_link_leads(tmp_path: Path) -> None:
    target, link, dangling = (tmp_path / name for name in ("target", "link", "dangling"))
    target.write_text("before")
    link.symlink_to(target)
    write_output(link, "after")
    assert link.is_symlink() and target.read_text() == "after"
    os.link(target, tmp_path / "same")  # a plain file is replaced, not written into
    write_output(link, "later")
    assert target.read_text() == "later" and (tmp_path / "same").read_text() == "after"
    dangling.symlink_to(tmp_path / "new")
    write_output(dangling, "x")
    assert dangling.is_symlink() and (tmp_path / "new").read_text() == "x"


def test_an_output_goes_into_a_device_or_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    got: list[str] = []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_output(pipe, "through")
    reader.join()
    assert got == ["through"] and stat.S_ISFIFO(pipe.stat().st_mode)
    write_output(Path("/dev/null"), "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OSError, match="No space left"):
        write_output(Path("/dev/full"), "x" * 10_000)
    for folder in (tmp_path, Path(), Path("")):
        with pytest.raises(IsADirectoryError):
            write_output(folder, "x")
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(IsADirectoryError) as raised:
        write_output(link, "x")
    assert raised.value.filename == str(link)  # as it was named


def test_a_temporary_name_leads_nowhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    file = tmp_path / "timing.json"
    (tmp_path / f".timing.json.{os.getpid()}.tmp").symlink_to(victim)
    write_atomic(file, "new")
    assert victim.read_text() == "precious" and file.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["timing.json", "victim"]


def test_a_disk_without_room_for_a_file_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "x", "")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_files_mode_follows_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_no_attempt_is_given_twice(tmp_path: Path) -> None:
    point = Point.of(job(), tmp_path)
    point.freeze()
    made: list[str] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        made.extend(point.attempt().directory.name for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made, key=int) == [str(number) for number in range(40)]
    assert point.attempt("7").directory.name == "7"  # what the agents of several nodes agree on


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UserError, match=r"without locks \(flock\): No locks available; two"):
        with lock.held(tmp_path):
            pass


def test_a_single_run_keeps_out_of_a_folder_whose_sweep_runs(tmp_path: Path) -> None:
    words = ("mode=plan", f"hydra.run.dir={tmp_path}")
    with lock.held(tmp_path):
        done = fork_of(run, *words)
    assert done.code == 2 and not list(tmp_path.glob("*/timing.json"))
    assert done.stderr.startswith(f"error: another controller works on {tmp_path}: process ")
    assert fork_of(run, *words).code == 0
    assert len(list(tmp_path.glob("*/timing.json"))) == 1
