"""The barrier of a node's ranks: nobody leaves before all have come, time after time."""

from __future__ import annotations

import mmap
import multiprocessing as mp
import os
import time

import numpy as np
import pytest

from refit.ranks.meeting import LINE, SLEEP_S, Meeting
from refit.weights.slab import Slab, anonymous

ROUNDS = 300


def meets(memory: Slab, board: Slab, ranks: int, number: int) -> None:
    """Says on the board that it has come, and looks there that all have, whenever it leaves."""
    said = np.frombuffer(mmap.mmap(board.descriptor, ranks * 8), dtype=np.int64)
    meeting = Meeting(memory, ranks, number)
    for times in range(1, ROUNDS + 1):
        said[number] = times
        if times % 50 == number:  # one that is late
            for _ in range(20):
                os.sched_yield()
        meeting.wait()
        if int(said.min()) < times:
            os._exit(1)
    os._exit(0)


def exit_codes(memory: Slab, ranks: int) -> list[int | None]:
    board = anonymous()
    os.ftruncate(board.descriptor, ranks * 8)
    context = mp.get_context("fork")
    started = [context.Process(target=meets, args=(memory, board, ranks, n)) for n in range(ranks)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    return [process.exitcode for process in started]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_nobody_leaves_before_all_have_come(ranks: int) -> None:
    assert exit_codes(Meeting.room(anonymous(), ranks), ranks) == [0] * ranks


def test_a_room_is_used_again_for_more_and_for_fewer() -> None:
    memory = anonymous()
    for ranks in (2, 4, 3):
        assert exit_codes(Meeting.room(memory, ranks), ranks) == [0] * ranks
        assert memory.nbytes == ranks * LINE


def test_of_hundreds_nobody_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, slept = Meeting.room(anonymous(), 2), []
    early, late = Meeting(memory, 2, 0, spin_s=0.0), Meeting(memory, 2, 1)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            late.wait()

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(os, "sched_yield", lambda: pytest.fail("it spins"))
    early.wait()
    assert slept == [SLEEP_S] * 3


def test_a_barrier_that_waits_for_nobody_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Meeting, "wait", lambda self: None)
    assert 1 in exit_codes(Meeting.room(anonymous(), 3), 3)
