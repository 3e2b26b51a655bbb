"""Ranks as threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable


def on_threads(world: int, rank_main: Callable[[int], None]) -> None:
    """Run each rank on a thread of its own, until all are done."""
    threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
