"""Memory left to a process: the machine's, and that of its control groups."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from refit.layout.tensors import Catalogue
from refit.rules.setup import Setup
from refit.weights import memory, slab
from refit.weights.memory import available
from tests.support.jobs import SMALL, job

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


def test_a_sweep_keeps_no_more_memory_than_its_largest_point_took() -> None:
    kept, huge = slab.Kept(), slab.ALIGNMENT

    def point(needed: dict[int, int]) -> int:
        """What is kept once a point has run whose ranks need so many huge pages."""
        kept.fit({rank: pages * huge for rank, pages in needed.items()})
        for rank, pages in needed.items():
            os.ftruncate(kept.of(rank).descriptor, max(kept.of(rank).nbytes, pages * huge))
        return sum(held.nbytes for held in kept.by_rank.values()) // huge

    assert point({0: 50, 1: 10}) == 60
    assert point({0: 50, 1: 12}) == 62
    assert point({0: 40, 1: 14}) == 64  # nothing is given back for a little
    assert point({0: 10, 1: 30}) == 62  # of rank 0 there would be 50 as well, and 32 are left
    assert point({0: 30, 1: 10}) == 62  # so that this takes nothing anew
    assert point({0: 10, 1: 70}) == 80
    assert point({1: 5, 2: 70}) == 80
    assert [kept.of(rank).nbytes // huge for rank in range(3)] == [5, 5, 70]
    kept.clear()
    assert point({0: 1}) == 1
    kept.close()


def in_memory(held: slab.Slab) -> int:
    return os.fstat(held.descriptor).st_blocks * 512


def test_memory_is_touched_until_the_end_has_come() -> None:
    kept, huge, end = slab.Kept(), slab.ALIGNMENT, Event()
    sizes = {0: [huge, 1], 1: [0, 3 * huge], 2: [9 * slab.TOUCH_BYTES]}
    os.ftruncate(kept.of(1).descriptor, 5 * huge)  # of an earlier point, or of the rank itself

    def until() -> bool:
        return in_memory(kept.of(2)) >= 2 * slab.TOUCH_BYTES

    for rank, both in sizes.items():
        kept.of(rank).touch(sum(-(-size // huge) * huge for size in both), until)
    assert [in_memory(kept.of(rank)) // huge for rank in sizes] == [2, 3, 16]
    assert [kept.of(rank).nbytes // huge for rank in sizes] == [2, 5, 16]
    kept.clear()
    with kept.touching(sizes, end):
        while in_memory(kept.of(2)) < slab.TOUCH_BYTES:  # by a thread that ends with the block
            pass
    assert end.is_set()
    held = [in_memory(kept.of(rank)) for rank in sizes]
    assert held[:2] == [2 * huge, 3 * huge]
    with kept.touching(sizes, end):
        pass
    assert [in_memory(kept.of(rank)) for rank in sizes] == held
    kept.close()


def shortage_of(monkeypatch: pytest.MonkeyPatch, free: int | None, slabs: dict[int, int]) -> str:
    """What is said of TP 2 -> TP 1 of 728 parameters, which take 752, 752 and 1456 bytes."""
    setup = Setup.of(job(model=SMALL))
    monkeypatch.setattr(memory, "available", lambda: free)
    held = {rank: SimpleNamespace(nbytes=nbytes) for rank, nbytes in slabs.items()}
    found = memory.shortage(setup.catalogue, setup.placement, range(4), held)  # type: ignore[arg-type]
    return found or ""


def test_weights_of_all_ranks_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shortage_of(monkeypatch, 2960, {}) == ""
    assert shortage_of(monkeypatch, None, {}) == ""  # where the system does not say
    assert "needs 0.00 GB of memory" in shortage_of(monkeypatch, 2959, {})
    # what earlier points left is used again, as far as a rank needs it
    assert shortage_of(monkeypatch, 1504, {2: 1456}) == ""
    assert shortage_of(monkeypatch, 1503, {2: 10_000}) != ""
    assert shortage_of(monkeypatch, 1510, {2: 1450}) == ""
    assert shortage_of(monkeypatch, 1509, {2: 1450, 3: 5000}) != ""


def test_what_hundreds_of_ranks_hold_is_counted_and_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup.of(job(model=SMALL))
    each = memory.needed(setup.catalogue, setup.placement, range(4))
    assert each == ([752, 752, 0, 0], [0, 0, 1456, 0])
    assert memory.needed(setup.catalogue, setup.placement, range(1, 3)) == ([752, 0], [0, 1456])
    monkeypatch.setattr(Catalogue, "held_by", lambda *_: pytest.fail("shards are listed"))
    assert memory.needed(setup.catalogue, setup.placement, range(4)) == each


def test_a_shortage_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = replace(SMALL, hidden_size=1 << 12, ffn_hidden_size=1 << 14, vocab_size=1 << 15)
    setup = Setup.of(job(model=wide))
    monkeypatch.setattr(memory, "available", lambda: 1_234_000_000)
    # two embeddings of 2**27 elements, 5 * 2**26 of attention and MLP and a little more, twice
    said = memory.shortage(setup.catalogue, setup.placement, range(4))
    assert said is not None
    assert "needs 2.15 GB of memory (source 1.07 + destination 1.07), 1.23 GB is available" in said
    # of ranks 2 and 3 alone it is the destination's
    assert memory.shortage(setup.catalogue, setup.placement, range(2, 4)) is None
    # many ranks are processes as well
    monkeypatch.setattr(memory, "MANY_RANKS", 4)
    said = memory.shortage(setup.catalogue, setup.placement, range(4))
    assert said is not None and "needs 2.25 GB of memory (source 1.07" in said
    assert "destination 1.07 + 4 ranks' own 0.10), 1.23 GB is available; use fewer ranks, a" in said
    monkeypatch.setattr(memory, "available", lambda: 2_200_000_000)
    assert memory.shortage(setup.catalogue, setup.placement, range(4)) is not None
    monkeypatch.setattr(memory, "MANY_RANKS", 5)
    assert memory.shortage(setup.catalogue, setup.placement, range(4)) is None
    said = "needs 2.15 GB of memory (source 1.07 + destination 1.07), 1.23 GB is available"
    assert (memory.needed_gb(said), memory.needed_gb("needs rest")) == (2.15, 0.0)
