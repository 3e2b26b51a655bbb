"""How ranks meet: what gloo's threads are told, and what the rank's own are not."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from refit.ranks import join
from refit.rules.setup import Setup
from tests.support.jobs import job

GET_TIMERSLACK = 30  # PR_GET_TIMERSLACK, in nanoseconds


def slack() -> int:
    """Of this thread, as Linux has it."""
    return int(ctypes.CDLL(None).prctl(GET_TIMERSLACK, 0, 0, 0, 0))


def of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(slack).result()


def test_threads_of_gloo_are_seldom_woken_and_no_others() -> None:
    before = slack()
    with join.seldom_woken():
        assert of_a_new_thread() == join.SLACK_S * 1e9 > 1000 * before
    assert slack() == of_a_new_thread() == before
    with pytest.raises(RuntimeError), join.seldom_woken():
        raise RuntimeError
    assert slack() == before


@pytest.mark.parametrize("world", [4, 64])
def test_gloo_starts_its_threads_there(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    monkeypatch.delenv("TORCH_GLOO_LAZY_INIT", raising=False)
    monkeypatch.setenv("TORCH_GLOO_LAZY_INIT", "")  # so that it is put back
    monkeypatch.delenv("TORCH_GLOO_LAZY_INIT")
    made: list[Any] = []

    def init(backend: str, **_: Any) -> None:
        made.append((backend, of_a_new_thread(), "TORCH_GLOO_LAZY_INIT" in os.environ))

    monkeypatch.setattr(dist, "init_process_group", init)
    monkeypatch.setattr(dist, "TCPStore", lambda *_, **__: of_store.append(slack()))
    of_store: list[int] = []
    setup = Setup.of(job())
    setup = replace(setup, placement=SimpleNamespace(world=world))  # type: ignore[arg-type]
    task: Any = SimpleNamespace(setup=setup, host="elsewhere", port=1, rank=1)
    before = slack()
    join.join(task, None)
    assert made == [("gloo", join.SLACK_S * 1e9, world == 64)]
    assert of_store == [before] == [slack()]
