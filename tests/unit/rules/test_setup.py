"""What one node chooses for all, and the node that would build something else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from refit.errors import UserError
from refit.layout.place import place
from refit.model.architecture import catalogue
from refit.model.convention import Build
from refit.plan.build import build_plan
from refit.rules.setup import Setup
from tests.support.jobs import TINY, job


def test_a_setup_is_of_its_job() -> None:
    what = job()
    setup = Setup.of(what)
    assert (setup.job, setup.placement) == (what, place(what))
    assert setup.catalogue == catalogue(TINY, 2)
    assert (setup.method, setup.why) == ("ipc", "asked for")
    assert setup.build == Build("shards", [])


def test_the_plan_is_of_the_fanout_that_is_asked_for() -> None:
    for fanout in ("direct", "hierarchical"):
        what = job(refit={"fanout": fanout})
        setup = Setup.of(what)
        wanted = build_plan(setup.catalogue, setup.placement, fanout)
        assert setup.plan().source.tolist() == wanted.source.tolist()


def test_the_plan_moves_what_is_asked_for() -> None:
    # 500 rows, padded to a multiple of 16 * 2, of 64 columns of two bytes
    setup = Setup.of(job(refit={"include": ["output_layer.weight"]}))
    assert setup.plan().total_bytes == 512 * 64 * 2


def test_another_node_takes_what_the_first_chose() -> None:
    first = replace(Setup.of(job(method="auto")), method="gloo", why="because")
    chosen = json.loads(json.dumps(first.chosen()))  # it is read from a file
    mine = Setup.of(job(method="auto"))
    assert mine.method != "gloo"
    taken = mine.as_chosen(chosen)
    assert (taken.method, taken.why) == ("gloo", "because")
    assert (taken.placement, taken.build) == (mine.placement, mine.build)


def test_nodes_that_build_differently_say_so() -> None:
    mine = Setup.of(job())
    for build in (Build("megatron", []), Build("shards", [], "another"), Build("shards", ["x"])):
        chosen = replace(mine, build=build).chosen()
        with pytest.raises(UserError, match=r"the nodes build differently: node 0 .*this one"):
            mine.as_chosen(chosen)
