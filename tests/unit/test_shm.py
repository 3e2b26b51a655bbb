"""What tests count in /dev/shm: what ranks have left there, and nothing of anybody else."""

from __future__ import annotations

import os

from tests.support import shm


def test_only_what_is_left_and_ours_counts() -> None:
    names = [f"{word}_{os.getpid()}" for word in ("somebody_elses", "torch", "psm")]
    paths = [shm.SHM / name for name in names]
    try:
        for path in paths:
            path.touch()
        assert set(names) & set(shm.left()) == set(names[1:])
        with paths[1].open("rb"):  # of a rank that lives
            assert str(paths[1]) in shm.held() and names[1] not in shm.left()
        if not os.getuid():
            os.chown(paths[2], 12_345, 12_345)
            assert names[2] not in shm.left()
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
