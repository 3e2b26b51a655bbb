"""One real Slurm cluster for all tests of this directory, which all carry the `slurm` marker."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing_packages
from tests.slurm.processes import commands, with_variable

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The hook is given the tests of all directories."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def short_root() -> Iterator[Path]:
    """An empty directory with a short name, as unix sockets need; pytest's own are too long."""
    if missing := missing_packages():
        pytest.skip(f"no {', '.join(missing)} here: install with `bash tests/debian.sh`")
    path = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))
    path.chmod(0o755)  # munge refuses a socket that others cannot reach
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def _nothing_stays(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Behind a test there are no jobs, no processes and so no ports, no files of /dev/shm or /tmp.

    A SIGKILL, which Slurm sends in the end, lets nobody tidy up: a test in which a job or the
    controller gets one is marked `kills`, and may leave a temporary folder.
    """
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    folder = Path(tempfile.mkdtemp(prefix="t", dir=request.getfixturevalue("short_root")))
    monkeypatch.setenv("TMPDIR", str(folder))  # whoever has this one is of this test
    yield
    cluster.end_jobs()
    cluster.wait(lambda: cluster.idle_nodes() == cluster.nodes, 30, "all nodes idle")
    mark = f"TMPDIR={folder}"
    try:
        cluster.wait(lambda: not with_variable(mark), 30, "no process of the test")
    except TimeoutError:
        pytest.fail(f"processes of the test that live on:\n{commands(with_variable(mark))}")
    assert not cluster.shared_memory()
    if not request.node.get_closest_marker("kills"):
        assert not list(folder.iterdir())


@pytest.fixture(scope="session")
def small_disk(short_root: Path) -> Iterator[Path | None]:
    """A file system of 16 MB, there before the nodes are, which else would not see it; or None."""
    disk = short_root / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield disk if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="session")
def cluster(short_root: Path, small_disk: Path | None) -> Iterator[Cluster]:
    """Two nodes of eight GPUs. A test leaves it as it found it: nodes up, controller running."""
    # A SIGTERM (of CI, say) is to end the jobs as well: by default, Python would end on the spot.
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", returncode=143))
    try:
        with Cluster(short_root / "a", accounts=("research", "students")) as running:
            yield running
    finally:
        signal.signal(signal.SIGTERM, before)
