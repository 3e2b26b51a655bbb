"""Where several destinations stand, what is said of them, and which lists are refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Degrees, Job
from refit.layout.ranks import span
from refit.rules.impossible import impossible
from tests.support.jobs import TINY, job, make_job, placed

PAIR = [Degrees(tp=2, etp=1), Degrees(ep=4, etp=1)]
SOURCE = Degrees(tp=2, etp=1, gpus=4)


@pytest.mark.parametrize(
    ("mode", "source", "destinations", "ranks"),
    [
        ("non-collocated", SOURCE, PAIR, ["4-5", "6-9"]),
        ("collocated", SOURCE, PAIR, ["0-1", "2-5"]),  # beyond the source's ranks
        ("collocated", replace(SOURCE, offset=3), PAIR, ["3-4", "5-8"]),
        ("collocated", Degrees(etp=1), PAIR, ["0-1", "2-5"]),  # the second shares none with it
        (
            "non-collocated",
            SOURCE,
            [replace(PAIR[0], node_aligned=True), PAIR[1]],
            ["8-9", "10-13"],
        ),
        ("non-collocated", SOURCE, [PAIR[1], replace(PAIR[0], offset=12)], ["4-7", "12-13"]),
        (
            "non-collocated",
            replace(SOURCE, offset=6),
            [replace(PAIR[0], offset=0), replace(PAIR[1], offset=2)],
            ["0-1", "2-5"],
        ),
        ("non-collocated", SOURCE, PAIR[:1], ["4-5"]),
    ],
)
def test_where_they_stand(
    mode: str, source: Degrees, destinations: list[Degrees], ranks: list[str]
) -> None:
    placement = placed(source, mode=mode, destinations=destinations)
    assert [span(side.ranks) for side in placement.destinations] == ranks
    pool_of = [placement.destination_of(rank) for rank in range(placement.world)]
    for number, side in enumerate(placement.destinations):
        assert [pool_of[rank] for rank in side.ranks] == [side] * side.gpus
        assert set(placement.destination_numbers[list(side.ranks)].tolist()) == {number}
    held = {*placement.source.ranks, *placement.receiving_ranks}
    assert placement.used == len(held)
    assert placement.idle == sorted(set(range(placement.world)) - held)


def test_each_is_named_in_the_header() -> None:
    assert placed(SOURCE, destinations=PAIR).header() == [
        "World size: 16 (using 10 GPUs)",
        "Source ranks: 0-3 (TP=2, PP=1, EP=1)",
        "Destination 0 ranks: 4-5 (TP=2, PP=1, EP=1)",
        "Destination 1 ranks: 6-9 (TP=1, PP=1, EP=4)",
        "Idle ranks: 10-15 (not participating)",
    ]


def test_each_has_its_own_defaults() -> None:
    # etp: the source's; of an fsdp source each one's own tp
    pools = [Degrees(tp=4), Degrees(tp=2, gpus=4), Degrees(tp=2, etp=1)]
    placement = placed(Degrees(tp=2), destinations=[replace(p, gpus=4) for p in pools])
    assert [side.etp for side in placement.destinations] == [2, 2, 1]
    placement = placed(Degrees(kind="fsdp", gpus=2), destinations=pools)
    assert [side.etp for side in placement.destinations] == [4, 2, 1]
    # rows of the vocabulary: 500, padded to a multiple of 16 * tp by the source, or its own
    own = [Degrees(etp=1), Degrees(tp=2, etp=1, make_vocab_size_divisible_by=1)]
    placement = placed(Degrees(tp=2, etp=1), destinations=own)
    assert [side.vocab_rows for side in placement.destinations] == [512, 500]


def test_each_is_tied_as_the_model_is_or_unties() -> None:
    pools = [Degrees(etp=1, share_embeddings_and_output_weights=False), Degrees(etp=1)]
    sides = placed(Degrees(etp=1), destinations=pools).sides
    assert [side.tied for side in sides.values()] == [True, False, True]


def test_one_that_casts_makes_all_values_castable() -> None:
    pools = [Degrees(etp=1), Degrees(etp=1, dtype="float32")]
    sides = placed(Degrees(etp=1), destinations=pools).sides
    assert list(sides) == ["source", "destinations[0]", "destinations[1]"]
    assert all(side.casts for side in sides.values())
    assert not any(
        s.casts for s in placed(Degrees(etp=1), destinations=[Degrees(etp=1)] * 2).sides.values()
    )


@pytest.mark.parametrize(
    ("mode", "source", "destinations", "words"),
    [
        (
            "non-collocated", SOURCE, [PAIR[0], replace(PAIR[1], offset=5)],
            "parallel.destinations[1] stands on ranks 5-8 and parallel.destinations[0] on 4-5: a"
            " rank is of one destination at most, and of the source too only where they are"
            " collocated; use parallel.destinations[1].offset=6",
        ),
        (
            "non-collocated", SOURCE, [PAIR[0], replace(PAIR[1], offset=2)],
            "parallel.destinations[1] stands on ranks 2-5 and parallel.source on 0-3",
        ),
        (
            "collocated", SOURCE, [PAIR[0], replace(PAIR[1], offset=0)],
            "use parallel.destinations[1].offset=4",  # behind the source: it shares with none
        ),
        (
            "collocated", SOURCE, [replace(PAIR[0], offset=8), PAIR[1]],
            "none shares any with the source (0-3); use parallel.destinations[0].offset=0",
        ),
        (
            "non-collocated", SOURCE, [replace(PAIR[0], offset=1)],
            "use parallel.destinations[0].offset=4",  # a list of one is named as the list it is
        ),
        (
            "collocated", SOURCE,
            [replace(PAIR[0], offset=0), replace(PAIR[1], offset=0, node_aligned=True)],
            "use parallel.destinations[1].offset=8",  # the next node's first rank
        ),
    ],
)  # fmt: skip
def test_where_they_cannot_stand(
    mode: str, source: Degrees, destinations: list[Degrees], words: str
) -> None:
    with pytest.raises(UserError) as refusal:
        placed(source, mode=mode, destinations=destinations)
    assert words in str(refusal.value)
    # the way out is one
    way_out = re.search(r"use parallel\.destinations\[(\d)\]\.offset=(\d+)", str(refusal.value))
    assert way_out is not None
    number, offset = map(int, way_out.groups())
    moved = list(destinations)
    moved[number] = replace(moved[number], offset=offset)
    placed(source, mode=mode, destinations=moved)


# ---- what is no list of sides


def listed(destinations: Any, **parallel: Any) -> Job:
    values = {f"parallel__{key}": value for key, value in parallel.items()}
    return make_job(parallel__destination=None, parallel__destinations=destinations, **values)


def test_a_list_is_read_and_written() -> None:
    what = listed([{"tp": 4, "gpus": 8}, {"ep": 8}])
    assert what.parallel.destinations == [Degrees(tp=4, gpus=8), Degrees(ep=8)]
    assert Job.from_dict(what.to_dict()) == what


@pytest.mark.parametrize(
    ("destinations", "words"),
    [
        ([], "'parallel.destinations' is [], which is not a list of one or more mappings"),
        ({"tp": 2}, "'parallel.destinations' is {'tp': 2}, which is not a list"),
        ("tp2", "'parallel.destinations' is 'tp2', which is not a list"),
        (2, "'parallel.destinations' is 2, which is not a list"),
        ([{"tp": 2}, {"tpp": 2}], "unknown field 'parallel.destinations[1].tpp'; did you mean tp?"),
        ([{"tp": "2"}], "'parallel.destinations[0].tp' is '2', which is not int"),
        ([{"tp": True}], "'parallel.destinations[0].tp' is True, which is not int"),
        ([{"tp": 2}, {"gpus": 2.5}], "'parallel.destinations[1].gpus' is 2.5, which is not int or"),
        ([{"tp": 2}, None], "'parallel.destinations[1]' is None, which is not a mapping of fields"),
        ([{"tp": 2}, [2]], "'parallel.destinations[1]' is [2], which is not a mapping of fields"),
        (None, "'parallel.destination' is null, and parallel.destinations is no list"),
    ],
)
def test_what_is_no_list_of_sides(destinations: Any, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        listed(destinations)
    assert words in str(refusal.value)


@pytest.mark.parametrize("destination", [{"tp": 2}, {"node_aligned": False}, {"gpus": 1}])
def test_one_or_several_not_both(destination: dict[str, Any]) -> None:
    values = listed([{"tp": 2}]).to_dict()
    assert Job.from_dict(values).parallel.destinations == [Degrees(tp=2)]  # the default beside it
    values["parallel"]["destination"] = destination
    with pytest.raises(UserError, match="are both given, and a pair has one or the other; set"):
        Job.from_dict(values)


@pytest.mark.parametrize(
    ("destinations", "words"),
    [
        (
            [Degrees(etp=1), Degrees(tp=3, etp=1)],
            "heads=4 does not divide by parallel.destinations[1].tp=3",
        ),
        (
            [Degrees(etp=1), Degrees(ep=3, etp=1)],
            "experts=4 does not divide by parallel.destinations[1].ep=3",
        ),
        (
            [Degrees(etp=1), Degrees(pp=3, etp=1)],
            "parallel.destinations[1]: 2 layers do not divide among 3",
        ),
        ([Degrees(tp=0), Degrees()], "parallel.destinations[0]: tp=0: a parallel degree must be"),
        (
            [Degrees(etp=1), Degrees(kind="fsdp", tp=2)],
            "parallel.destinations[1]: tp=2 is Megatron's",
        ),
        (
            [Degrees(etp=1), Degrees(tp=8, etp=1)],
            "needs 11 GPUs (source 2 + destination 1+8), cluster",
        ),
    ],
)
def test_rules_name_the_destination(destinations: list[Degrees], words: str) -> None:
    reason = impossible(job(destinations=destinations, ranks_per_node=8)) or ""
    assert words in reason


def test_a_vocabulary_that_one_cannot_cut_is_named() -> None:
    pools = [Degrees(etp=1), Degrees(tp=4, etp=1)]
    model = replace(TINY, make_vocab_size_divisible_by=1, vocab_size=502)
    reason = impossible(job(destinations=pools, model=model, ranks_per_node=8)) or ""
    assert "does not divide by parallel.destinations[1].tp=4" in reason


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ([Degrees(etp=1), Degrees(etp=1, dtype="float16")], "sides of different dtypes round"),
        ([Degrees(etp=1), Degrees(kind="fsdp", gpus=1)], "parallel.destinations[1].kind=fsdp"),
    ],
)
def test_logits_of_every_pool_must_be_comparable(pools: list[Degrees], words: str) -> None:
    what = job(destinations=pools, verify="logits", build="megatron", ranks_per_node=8)
    assert words in (impossible(what) or "")
