"""What a record's readers look up, field by field; and what a record of version 1 becomes."""

from __future__ import annotations

from typing import Any

import pytest

from refit.record import sound
from tests.support.anything import changed

GOOD: dict[str, Any] = {
    "config": {
        "model": {"name": "m", "num_moe_experts": None},
        "parallel": {"name": "p", "source": {}},
        "refit": {"name": "r"},
        "cluster": {"name": "c"},
        "build": "shards",
        "seed": 1,
        "sweep": {"repetition": 1},
    },
    "environment": {
        "host": "h",
        "nodes": ["a", "b"],
        "partition": None,
        "device": "cpu",
        "commit": "1a",
        "dirty": False,
        "slurm": {"job": "1"},
        "env_set": {},
    },
    "seconds": {"warm": [0.5], "median": 0.5},
    "memory": {"growth": 1.5, "growth_per_rank": {"0": 1.5}},
    "prediction": {
        "floor": {"seconds": 1.0},
        "estimate": {"seconds": 2.0},
        "per_rank": {"source_bytes": [1]},
    },
}


@pytest.mark.parametrize("name", sound.CONFIG)
def test_a_config_says_what_is_looked_up(name: str) -> None:
    place = ("config", *name.split("."))
    assert sound.fault(changed(GOOD, place, ...)) == f"config.{name} is missing"
    kind = sound.CONFIG[name][0].__name__
    wrong = sound.fault(changed(GOOD, place, []))
    assert wrong == f"config.{name} is '[]', which is no {kind}"


@pytest.mark.parametrize("name", sound.ENVIRONMENT)
def test_an_environment_says_it_in_its_type_or_not_at_all(name: str) -> None:
    place, kind = ("environment", name), sound.ENVIRONMENT[name][0].__name__
    wrong = sound.fault(changed(GOOD, place, 3))
    assert wrong == f"environment.{name} is '3', which is no {kind}"
    assert sound.fault(changed(GOOD, place, ...)) is None
    assert sound.fault(changed(GOOD, place, None)) is None


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ((), GOOD, None),
        (("environment",), None, None),
        (("config", "model"), 3, "config.model.name is missing"),
        (("config", "seed"), True, "config.seed is 'True', which is no int"),
        (("config", "build"), [9] * 20, f"config.build is '[{'9, ' * 13}', which is no str"),
        (("environment", "nodes", 1), 3, "environment.nodes's '3' is '3', which is no str"),
        (("environment", "slurm", "job"), 1, "environment.slurm's '1' is '1', which is no str"),
        (("environment", "env_set"), {"A": 1}, "environment.env_set's '1' is '1', which is no str"),
        (
            ("environment", "env_set"),
            {"A": [9] * 20},
            f"environment.env_set's '[{'9, ' * 13}' is '[{'9, ' * 13}', which is no str",
        ),
        (("seconds",), None, None),
        (("seconds", "warm"), [], "seconds.warm is empty, or seconds.median no time"),
        (("seconds", "median"), 0.0, "seconds.warm is empty, or seconds.median no time"),
        (("seconds", "median"), 1e-9, None),
        (("memory",), None, None),
        (("memory", "growth_per_rank"), {}, "memory.growth is of no rank"),
        (("memory",), {"growth": None, "growth_per_rank": {}}, None),
        (("prediction",), None, None),
        (("prediction", "floor"), {}, "prediction.floor.seconds is missing"),
        (("prediction", "estimate"), {}, "prediction.estimate.seconds is missing"),
        (("prediction", "floor"), None, None),
        (("prediction", "estimate"), None, None),
        (
            ("prediction", "per_rank", "source_bytes"),
            [],
            "prediction.per_rank.source_bytes is empty",
        ),
    ],
    ids=str,
)
def test_what_is_not_as_readers_need_it(
    place: tuple[str | int, ...], value: Any, words: str | None
) -> None:
    assert sound.fault(changed(GOOD, place, value) if place else value) == words


def test_forty_within_each_other_are_not_too_many() -> None:
    value: Any = 1
    for depth in range(1, 43):
        value = [value, 2] if depth % 2 else {"a": value, "b": 2}
        assert sound.too_deep(value) is (depth > 40)


def test_a_record_of_version_1_gets_what_held_before() -> None:
    old = {
        "schema_version": 1,
        "mode": "collocated",
        "throughput": {"gbps": 2.0},
        "seconds": {"drift": 3.0},
        "memory": None,
        "config": {"seed": 1, "sweep": {"mode": "retry"}},
    }
    assert sound.from_version_1(old, 2) == {
        "schema_version": 2,
        "placement": "collocated",
        "throughput": {"gbps": 2.0, "limit_source": "measured", "limits": []},
        "seconds": {"drift": 3.0},
        "memory": None,
        "prediction": None,
        "config": {"seed": 1, "sweep": {"repetition": 1, "mode": "retry"}},
    }
    more = {
        "verification": {"elements": 8},
        "memory": {"growth": 1.0},
        "seconds": {"cold": 1.0},
        "prediction": {"floor": None},
        "config": {"sweep": {"repetition": 4}},
    }
    new = sound.from_version_1({**old, **more}, 2)
    assert new["verification"] == {"elements": 8, "source_mismatches": 0, "logits": None}
    assert new["memory"] == {"growth": 1.0, "refit_peak_bytes": None}
    assert new["seconds"] == {"cold": 1.0, "drift": None}
    assert new["prediction"] == {"floor": None}
    assert new["config"] == {"sweep": {"repetition": 4}}
    assert old["mode"] == "collocated"  # what it is made of stays
