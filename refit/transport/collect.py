"""What all ranks agree on: the first hears each of them, decides, and tells all."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

FIRST = 0  # the rank that decides

Item = TypeVar("Item")
Decided = TypeVar("Decided")


def agree(item: Item, decide: Callable[[list[Item]], Decided]) -> Decided:
    """What the first rank makes of the items of all; all ranks of the world call together.

    No other rank is sent the items: of hundreds of ranks each would unpack what hundreds have to
    say. Nor do they go round a ring, which is as many steps at each rank as there are ranks.

    Args:
        item: this rank's, of any size.
        decide: of the items in rank order; it runs on the first rank alone.
    """
    mine = _packed(item)
    items = [_unpacked(each) for each in _heard(mine)]
    decided = _packed(decide(items)) if items else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([decided.numel()])
    dist.broadcast(size, FIRST)
    if not items:
        decided = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(decided, FIRST)
    told: Decided = _unpacked(decided)
    return told


def _heard(mine: torch.Tensor) -> list[torch.Tensor]:
    """On the first rank the bytes of all, in rank order, its own too; nothing on the others."""
    size = torch.tensor([mine.numel()])
    if dist.get_rank() != FIRST:
        dist.send(size, FIRST)
        dist.send(mine, FIRST)
        return []
    others = range(1, dist.get_world_size())
    sizes = [torch.empty_like(size) for _ in others]
    _receive(sizes)
    theirs = [torch.empty(int(of_rank), dtype=torch.uint8) for of_rank in sizes]
    _receive(theirs)
    return [mine, *theirs]


def _receive(into: list[torch.Tensor]) -> None:
    """One message of each other rank, in rank order."""
    for work in [dist.irecv(part, peer) for peer, part in enumerate(into, start=1)]:
        assert work is not None  # that is for ranks outside the group
        work.wait()


def _packed(item: object) -> torch.Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(item)), dtype=torch.uint8)


def _unpacked(packed: torch.Tensor) -> Any:
    return pickle.loads(packed.numpy().tobytes())
