"""The fork server: how it ended is said, whatever ended it, and why it starts nobody."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from refit.ranks import server
from refit.weights.memory import Room, oom_kills
from tests.support.forks import fork_of

LITTLE = 1_200_000_000


def room(kills: int | None = None) -> Room:
    return Room(3 * LITTLE, LITTLE, oom_kills() if kills is None else kills)


def a_server_that_ends(
    how: Callable[[int], None] | None, modules: str = "errno", kind: str = "forkserver"
) -> None:
    """Let it start one process; `how` is then told its own process id."""
    os.environ[server.AHEAD] = modules
    context: Any = multiprocessing.get_context(kind)
    context.set_forkserver_preload(["refit.ranks.ahead"])
    server.forget_words()
    with server.words_kept():
        process = context.Process(target=os.getpid)
        process.start()
        process.join()
    assert process.exitcode == 0 and server.ended() is None
    if how:
        how(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _sockets_go_with_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("said", "read", "others"),
    [
        (None, "0x8000", {}),
        ("", "0x8000", {}),
        ("glibc.malloc.check=3", "0x8000", {"glibc.malloc.check": "3"}),
        ("glibc.cpu.x86_non_temporal_threshold=0x200000", "0x200000", {}),
    ],
)
def test_the_c_library_reads_from_what_size_it_stores_past_the_caches(
    said: str | None, read: str, others: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loader says what it has read."""
    maps = Path("/proc/self/maps").read_text().split()
    loader = next((word for word in maps if "/ld-linux-x86-64" in word), None)
    if loader is None:
        pytest.skip("not glibc on x86-64")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if said is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", said)
    server.tune()
    server.tune()  # by each agent of a process
    words = subprocess.run(
        [loader, "--list-tunables"], capture_output=True, text=True, check=True
    ).stdout
    for name, value in {"glibc.cpu.x86_non_temporal_threshold": read, **others}.items():
        assert f"{name}: {value} (min" in words


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_server_that_is_killed_is_said_and_the_next_rank_has_another() -> None:
    def main() -> None:
        a_server_that_ends(kill)
        print(server.lost(room()), server.lost(room(kills=-1)), sep="\n")
        a_server_that_ends(None)
        print(server.lost(room()))

    server_end, server.END_S = server.END_S, 0.2
    try:
        said = fork_of(main)
    finally:
        server.END_S = server_end
    assert said.code == 0, said.stderr
    crashed, oom, alive = said.stdout.splitlines()
    what = "the process that ranks are forked from"
    assert crashed == f"Ended(status='crashed', reason='{what} ended by SIGKILL')"
    assert f"status='oom', reason='{what} was killed by the kernel for memory; 1.20 GB" in oom
    assert "weights alone take 3.60 GB" in oom and "model.num_layers" in oom
    assert alive == "None"


def test_what_cannot_be_imported_ahead_is_left_to_the_ranks(tmp_path: Path) -> None:
    """As torch whose library does not load, or any module with warnings made errors."""
    (tmp_path / "broken_library.py").write_text("raise OSError('libbroken.so: cannot open')")

    def main() -> None:
        a_server_that_ends(None, "broken_library,errno,nowhere")

    said = fork_of(main, PYTHONPATH=str(tmp_path))
    assert (said.code, said.stderr) == (0, "")


def test_a_refused_fork_is_said_with_the_limits(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("root makes another user for whom forks are refused; run as root to test it")
    (tmp_path / "of_another_user.py").write_text("import os; os.setuid(65534)")
    import_module("multiprocessing.popen_spawn_posix")  # which the other user cannot read

    def main() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # which root need not heed
        for kind in ("forkserver", "spawn"):
            try:
                a_server_that_ends(None, "of_another_user", kind)
            except (OSError, EOFError) as error:
                print(server.refusal(error, room(), 3, 8))
            os.setuid(65534)

    said = fork_of(main, PYTHONPATH=str(tmp_path))
    assert said.code == 0, said.stderr
    by_server, by_us = said.stdout.splitlines()
    for line in (by_server, by_us):
        assert line.startswith("Ended(status='failed', reason='rank 3 of 8 could not be started: ")
        assert "BlockingIOError: [Errno 11] Resource temporarily unavailable" in line
        assert "ulimit -u 0" in line and "use fewer ranks" in line
    assert "forked from exited with code 1" in by_server


def test_a_folder_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()

    def main() -> None:
        # another test of this process may have asked for one, which is kept
        multiprocessing.current_process()._config.pop("tempdir", None)  # type: ignore[attr-defined]
        tempfile.tempdir = str(deep)
        with pytest.raises(OSError) as refused:
            a_server_that_ends(None)
        print(server.refusal(refused.value, room(), 0, 8))

    said = fork_of(main)
    assert f"path too long; its socket is below {deep}: set TMPDIR to a shorter" in said.stdout


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [(1024, 20000, server.OPEN_FILES), (1024, 4096, 4096), (20000, 20000, 20000)],
)
def test_an_agent_asks_for_the_files_that_hundreds_of_ranks_need(
    soft: int, hard: int, then: int
) -> None:
    def asked() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        server.open_more_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (then, hard)

    assert fork_of(asked).code == 0
