"""What all ranks agree on, over threads in place of ranks: who hears how much."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

import pytest
import torch

from refit.transport import collect

LIMIT_S = 10.0


@dataclass
class Threads:
    """As torch.distributed, of ranks that are threads."""

    world: int
    heard: Counter[int] = field(default_factory=Counter)  # bytes, by the rank that they come to
    messages: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.of_thread = threading.local()
        ranks = range(self.world)
        self.queues: dict[tuple[int, int], Queue[torch.Tensor]] = {
            (sender, receiver): Queue() for sender in ranks for receiver in ranks
        }

    def get_rank(self) -> int:
        return int(self.of_thread.rank)

    def get_world_size(self) -> int:
        return self.world

    def send(self, part: torch.Tensor, peer: int) -> None:
        self.queues[self.get_rank(), peer].put(part.clone())

    def irecv(self, part: torch.Tensor, peer: int) -> _Receive:
        return _Receive(self, part, peer)

    def broadcast(self, part: torch.Tensor, root: int) -> None:
        if self.get_rank() == root:
            for peer in range(self.world):
                if peer != root:
                    self.send(part, peer)
        else:
            self.irecv(part, root).wait()


@dataclass
class _Receive:
    ranks: Threads
    part: torch.Tensor
    peer: int

    def wait(self) -> None:
        me = self.ranks.get_rank()
        self.part.copy_(self.ranks.queues[self.peer, me].get(timeout=LIMIT_S))
        self.ranks.heard[me] += self.part.numel() * self.part.element_size()
        self.ranks.messages[me] += 1


def agreed(monkeypatch: pytest.MonkeyPatch, items: list[Any]) -> tuple[list[Any], Threads]:
    """What each rank makes of the sorted items of all, the longest few; and what it heard."""
    ranks = Threads(len(items))
    monkeypatch.setattr(collect, "dist", ranks)
    found: list[Any] = [None] * len(items)

    def rank_main(rank: int) -> None:
        ranks.of_thread.rank = rank
        found[rank] = collect.agree(items[rank], lambda all_: sorted(all_, key=len)[-2:])

    threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    return found, ranks


def test_all_ranks_are_told_what_one_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    items = ["a", "bcd", "", "ef"]
    found, _ = agreed(monkeypatch, items)
    assert found == [["ef", "bcd"]] * 4
    assert agreed(monkeypatch, [["alone"]])[0] == [[["alone"]]]


def test_a_rank_hears_as_much_whatever_the_number_of_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few, many = (agreed(monkeypatch, ["x" * 1000] * count)[1] for count in (4, 32))
    for rank in range(1, 4):
        assert few.heard[rank] == many.heard[rank] < 2500
        assert few.messages[rank] == many.messages[rank] == 2
    assert sum(many.heard.values()) < 32 * 4000  # and not its square
