"""The order in which ranks make process groups, replayed rank by rank for all pairs of layouts."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from refit.errors import UserError
from refit.layout.layout import Layout
from refit.weights import groups

GPUS = range(1, 9)
Made = dict[tuple[int, ...], str]  # members -> name, in the order in which a rank makes them


def layouts() -> Iterator[Layout]:
    """All that Megatron accepts up to 8 GPUs; a dense model's are those with ep = etp = 1."""
    for gpus in GPUS:
        divisors = [n for n in GPUS if gpus % n == 0]
        for tp, cp, pp, ep, etp in product(divisors, repeat=5):
            try:
                yield Layout(tp, cp, pp, ep, etp, gpus)
            except UserError:
                continue


LAYOUTS = list(layouts())


def pairs(sides: Iterable[Layout]) -> Iterator[tuple[Layout, Layout, int]]:
    """(source, destination, world) of every two, collocated and, up to 8 ranks, one after another.

    The world is of whole nodes of two ranks, so that the last one may be idle.
    """
    for source, destination in product(list(sides), repeat=2):
        used = max(source.gpus, destination.gpus)
        yield source, destination, used + used % 2
        used = source.gpus + destination.gpus
        if used in GPUS:
            yield source, replace(destination, offset=source.gpus), used + used % 2


class Rank:
    """torch.distributed as one rank sees it, as far as `new_group` goes.

    What torch does, in `_new_group_with_tag`: a group is named by the number of calls before, of
    groups of others too; with local synchronisation by its members and the number of own groups.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world, self.calls = rank, world, 0
        self.made: Made = {}
        self.group = self.WORLD = self

    def size(self) -> int:
        return self.world

    def new_group(self, ranks: list[int], use_local_synchronization: bool = False) -> Rank:
        if use_local_synchronization:
            name = f"{ranks} {len(self.made)}"
        else:
            name, self.calls = str(self.calls), self.calls + 1
        if self.rank in ranks:
            assert tuple(ranks) not in self.made, "one group for a set of ranks"
            self.made[tuple(ranks)] = name
        return self


def stuck(made: list[Made]) -> list[tuple[int, ...]]:
    """The groups that ranks wait for in the end: each is made once its members all ask for it."""
    queues = [deque(groups_.items()) for groups_ in made]
    ready = deque(range(len(made)))
    while ready:
        queue = queues[ready.popleft()]
        if queue and all(queues[m] and queues[m][0] == queue[0] for m in queue[0][0]):
            for member in queue[0][0][::-1]:
                queues[member].popleft()
                ready.append(member)
    return [queue[0][0] for queue in queues if queue]


def make(source: Layout, destination: Layout, rank: int) -> list[dict[str, Any]]:
    """What a rank does on its way to two models: see `refit.weights.models.build`."""
    return [groups.make_groups(side, rank) for side in (source, destination)]


def test_no_pair_of_layouts_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    # layouts that divide into the same groups (CP and DP, say) make the same calls: one of each
    distinct = {str(groups.members(layout)): layout for layout in LAYOUTS}
    assert (len(LAYOUTS), len(distinct)) == (333, 168)
    seen: Counter[bool] = Counter()
    for source, destination, world in pairs(distinct.values()):
        ranks = [Rank(rank, world) for rank in range(world)]
        for one in ranks:
            monkeypatch.setattr(groups, "dist", one)
            make(source, destination, one.rank)
            groups._new_group.cache_clear()
        assert stuck([one.made for one in ranks]) == [], f"{source} to {destination}"
        # and a transport's own group, made by all ranks next, has one name
        assert {one.calls for one in ranks} == {ranks[0].calls}
        seen[destination.offset > 0] += 1
    assert seen[False] == 168**2 and seen[True] > 1000


def test_torch_names_a_group_alike_on_all_its_members() -> None:
    """With torch's own `new_group`, one rank after another in this process."""
    chosen = random.Random(0).sample(list(pairs(LAYOUTS)), 300)
    for source, destination, world in chosen:
        names: list[Made] = []
        for rank in range(world):
            dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
            try:
                made = make(source, destination, rank)
                found = {g for side in made for g in side.values()} - {dist.group.WORLD}
                names.append({tuple(dist.get_process_group_ranks(g)): g.group_name for g in found})
            finally:
                dist.destroy_process_group()
        for rank, mine in enumerate(names):
            for ranks, name in mine.items():
                assert rank in ranks
                assert [names[member][ranks] for member in ranks] == [name] * len(ranks)


def test_each_rank_gets_its_own_group_of_each_role() -> None:
    """TP 2, PP 2, EP 2 on 8 ranks; by hand, in the rank order tp-cp-dp-pp and etp-ep-edp-pp."""
    of_5 = {
        "tp": (4, 5),
        "pp": (1, 5),
        "dp": (5, 7),
        "cp": (5,),
        "tp_dp_cp": (4, 5, 6, 7),
        "mp": (0, 1, 4, 5),
        "expt_tp": (5,),
        "ep": (4, 5),
        "expt_dp": (5, 7),
        "tp_ep": (4, 5),
        "tp_ep_pp": (0, 1, 4, 5),
    }
    parts = groups.members(Layout(tp=2, pp=2, ep=2, gpus=8))
    assert {role: [p for p in sets if 5 in p] for role, sets in parts.items()} == {
        role: [ranks] for role, ranks in of_5.items()
    }
    dist.init_process_group("fake", rank=5, world_size=9, store=FakeStore())
    try:
        made = groups.make_groups(Layout(tp=2, pp=2, ep=2, gpus=8), 5)
        assert {r: tuple(dist.get_process_group_ranks(g)) for r, g in made.items()} == of_5
        assert made["tp"] is made["ep"]
        assert groups.make_groups(Layout(offset=6), 5) == {}
    finally:
        dist.destroy_process_group()
