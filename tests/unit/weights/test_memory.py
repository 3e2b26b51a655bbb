"""Memory left to a process: the machine's, and that of its control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from refit.weights import slab
from refit.weights.memory import available

GB = 1_000_000_000


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A machine with 2 GiB available, as /proc and /sys show it."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert available(tree(tmp_path, "0::/\n", {})) == 2 << 30
    assert available(tmp_path / "none") is None


def test_the_tightest_group_of_version_2_counts(tmp_path: Path) -> None:
    files = {
        "job/memory.max": f"{GB}\n",
        "job/memory.current": f"{GB * 7 // 10}\n",
        "job/memory.stat": f"anon {GB // 2}\nactive_file 5\ninactive_file {GB // 10}\n",
        "job/step/memory.max": "max\n",
        "job/step/memory.current": "0\n",
        "memory.max": f"{100 * GB}\n",
        "memory.current": "0\n",
    }
    # 1 GB, of which 0.7 are used and 0.1 of these can be had back
    assert available(tree(tmp_path, "0::/job/step\n", files)) == GB * 4 // 10


def test_a_group_of_version_1_whose_path_the_container_does_not_see(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": f"{GB}\n",
        "memory/memory.usage_in_bytes": f"{2 * GB}\n",
        "memory/memory.stat": "total_inactive_file 0\n",
    }
    cgroup = "5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/1234\n1:name=systemd:/memory\n0::/\n"
    assert available(tree(tmp_path, cgroup, files)) == 0


@pytest.mark.parametrize("unshare", ["exec sleep 600", "exit 1", "echo something else; read _"])
def test_without_a_mount_slabs_are_ordinary_memory(
    unshare: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "unshare"
    command.write_text(f"#!/bin/sh\n{unshare}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slab, "MOUNT_S", 0.5)
    source = slab.SlabSource()
    assert not source.huge_pages
    made = source.slab()
    assert made.take(10) == 0 and made.nbytes == slab.ALIGNMENT
    made.close()
    source.close()
