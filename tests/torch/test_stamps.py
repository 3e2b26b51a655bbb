"""Stamps: every block of every plan has some, so that one that stays as it was is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from refit.job import Degrees, Job
from refit.rules.setup import Setup
from refit.weights.pattern import Pattern
from refit.weights.stamps import Stamps, positions
from refit.weights.weights import Weights
from tests.support.boxes import deliver, part
from tests.support.jobs import SMALL, TINY, dense, job

TIED = replace(dense(TINY), share_embeddings_and_output_weights=True)
JOBS = {
    "tp down": job(),
    "tp up and ep, gated experts": job(Degrees(tp=1, ep=2, etp=1), Degrees(tp=2, etp=2)),
    "pp, replicas, tied": job(
        Degrees(pp=2, gpus=4), Degrees(tp=2, gpus=4), model=TIED, ranks_per_node=8
    ),
    "keys on several ranks": job(
        Degrees(tp=2), Degrees(tp=4, kind="engine"), model=replace(dense(TINY), num_query_groups=2),
        ranks_per_node=8,
    ),
    "rows in turn": job(
        Degrees(tp=2), Degrees(tp=2, kind="engine", gate_up_interleaved=True), model=dense(TINY)
    ),
    "fsdp, uneven, padded": job(Degrees(kind="fsdp", gpus=3), Degrees(tp=2), model=SMALL,
                                ranks_per_node=8),
    "cast": job(Degrees(tp=2, dtype="float32"), Degrees(), model=SMALL),
    "two pools": job(
        Degrees(tp=2, etp=1), destinations=[Degrees(tp=1, ep=2, etp=1), Degrees(tp=4, etp=1)],
        ranks_per_node=8,
    ),
}  # fmt: skip


class Refit:
    """A refit in one process: the weights of all ranks, and the copies between them."""

    def __init__(self, what: Job) -> None:
        self.setup = Setup.of(what)
        catalogue, placement = self.setup.catalogue, self.setup.placement
        world = range(placement.world)
        self.sources = {r: Weights.allocate(catalogue.held_by(placement.source, r)) for r in world}
        layouts = {r: placement.destination_of(r) for r in world}
        self.destinations = {
            r: Weights.allocate(catalogue.held_by(layout, r))
            for r, layout in layouts.items()
            if layout
        }
        for source in self.sources.values():
            Pattern(0, 0).fill(source)
        for destination in self.destinations.values():
            Pattern(0, 0).poison(destination)
        where = positions(catalogue, placement, 0)
        self.at_source = [Stamps(0, w, where) for w in self.sources.values() if w.shards]
        self.at = {r: Stamps(0, w, where) for r, w in self.destinations.items()}
        (self.copies,) = self.setup.plan().hops

    def run(self, number: int) -> None:
        for stamps in self.at_source:
            stamps.write(number)
        for rank, destination in self.destinations.items():
            deliver(self.copies, rank, self.sources, destination)


@pytest.mark.parametrize("name", JOBS)
def test_any_block_that_stays_as_it_was_is_seen(name: str) -> None:
    refit = Refit(JOBS[name])
    refit.run(1)
    before = {r: w.arena.clone() for r, w in refit.destinations.items()}
    refit.run(2)
    for rank, destination in refit.destinations.items():
        stamps = refit.at[rank]
        found = stamps.check(2)
        assert found.elements > 0 and (found.mismatches, found.first) == (0, "")
        rows = refit.copies.to_rank(rank).tolist()
        assert found.elements >= len(rows)  # one at least in each, if of a single element
        stale = Weights.view(destination.shards, before[rank])
        for row in rows:
            into, out_of = (
                part(refit.copies, row, of.tensors, of_source=False) for of in (destination, stale)
            )
            kept = into.clone()
            into.copy_(out_of)
            seen = stamps.check(2)
            # first and last at least, by their signs alone: none agrees by chance
            assert seen.mismatches >= min(2, kept.numel())
            assert seen.first == refit.setup.catalogue.name_of(int(refit.copies.tensor[row]))
            into.copy_(kept)
        assert stamps.check(2).mismatches == 0


@pytest.mark.parametrize("name", JOBS)
def test_what_is_put_back_is_what_was_there(name: str) -> None:
    refit = Refit(JOBS[name])
    for number, source in enumerate(w for w in refit.sources.values() if w.shards):
        before, stamps = source.arena.clone(), refit.at_source[number]
        stamps.keep()
        assert stamps.check(0).mismatches == 0
        stamps.write(7)
        changed = int(torch.count_nonzero(source.arena != before))
        assert 0 < changed <= 8 * stamps.check(7).elements
        assert stamps.check(7).mismatches == 0
        assert stamps.check(8).mismatches == stamps.check(8).elements  # every one of them changes
        stamps.restore()
        assert torch.equal(source.arena, before)


def test_another_seed_stamps_elsewhere_too() -> None:
    setup = Setup.of(job())
    one, other = (positions(setup.catalogue, setup.placement, seed) for seed in (0, 1))
    assert one.keys() == other.keys()
    assert any(one[name].tolist() != other[name].tolist() for name in one)


def test_hand_worked_positions() -> None:
    # gated fc1 of 8 rows gate and 8 up, TP 2 -> TP 1: rows 0 to 3, 8 to 11 and 4 to 7, 12 to 15
    setup = Setup.of(job(model=SMALL))
    where = positions(setup.catalogue, setup.placement, 0)
    fc1 = where["decoder.layers.{layer}.mlp.linear_fc1.weight"]
    corners = {(0, 0), (3, 7), (4, 0), (7, 7), (8, 0), (11, 7), (12, 0), (15, 7)}
    assert corners <= set(map(tuple, fc1.tolist()))
    assert len(corners) < len(fc1) <= 12
    norm = where["decoder.final_layernorm.weight"]
    assert {(0,), (7,)} <= set(map(tuple, norm.tolist())) and len(norm) <= 3
