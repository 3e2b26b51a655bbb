"""JSON as the annotations of a dataclass say, and what is refused."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from refit.record.typed import typed


@dataclass(frozen=True)
class Inner:
    size: int = 0


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float
    maybe: int | None
    words: Literal["a", "b"] = "a"
    either: int | str = 0
    inner: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    by_rank: dict[int, float] = field(default_factory=dict)
    free: Any = None
    maybe_word: Literal["c"] | None = None  # to Python another kind of union


WHOLE = Outer("x", 1.5, 3, "b", "text", Inner(7), [Inner(1), Inner(2)], {0: 1.0, 3: 2.5}, [None])
LEAST = {"name": "x", "rate": 2, "maybe": None}


def test_what_asdict_made_is_what_it_was() -> None:
    values = asdict(WHOLE)
    assert typed(Outer, values) == WHOLE
    # JSON has text for every key
    assert typed(Outer, {**values, "by_rank": {"0": 1, "3": 2.5}}) == WHOLE


@pytest.mark.parametrize(
    ("number", "fits"),
    [(2**64 - 1, True), (2**64, False), (-(2**63), True), (-(2**63) - 1, False)],
)
def test_a_whole_number_is_of_64_bits(number: int, fits: bool) -> None:
    values = {**LEAST, "maybe": number}
    if fits:
        assert typed(Outer, values).maybe == number
    else:
        with pytest.raises(TypeError, match="which is no int of 64 bits"):
            typed(Outer, values)


def test_what_is_not_there_has_its_default() -> None:
    found = typed(Outer, LEAST)
    assert found == Outer("x", 2.0, None)
    assert type(found.rate) is float
    assert typed(Outer, {**LEAST, "either": 4}).either == 4
    assert typed(Outer, {**LEAST, "inner": {}}).inner == Inner(0)
    assert typed(Outer, {**LEAST, "maybe_word": "c"}).maybe_word == "c"
    assert typed(Outer, {**LEAST, "maybe_word": None}).maybe_word is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 1}, "name is '1', which is no str"),
        ({"rate": "1"}, "rate is '1', which is no float"),
        ({"rate": True}, "rate is 'True', which is no float"),
        ({"rate": None}, "rate is 'None', which is no float"),
        ({"maybe": 1.0}, "maybe is '1.0', which is no int"),
        ({"words": "c"}, "words is 'c', which is no "),
        ({"maybe_word": "d"}, "maybe_word is 'd', which is no "),
        ({"either": 1.0}, "either is '1.0', which is no int"),
        ({"inner": 3}, "inner is '3', which is no Inner"),
        ({"inner": {"size": "x"}}, "inner.size is 'x', which is no int"),
        ({"inner": {"sizes": 1, "a": 2}}, "inner has no a, sizes"),
        ({"many": {}}, "many is '{}', which is no list"),
        ({"many": [{}, {"size": None}]}, "many[1].size is 'None', which is no int"),
        ({"by_rank": [1]}, "by_rank is '[1]', which is no dict"),
        ({"by_rank": {"0": "x"}}, "by_rank.0 is 'x', which is no float"),
        ({"other": 1}, "Outer has no other"),
        ({"rate": "y" * 50}, f"rate is '{'y' * 40}', which is no float"),  # cut short
    ],
)
def test_what_is_of_another_type_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        typed(Outer, {**LEAST, **change})


@pytest.mark.parametrize("name", LEAST)
def test_what_must_be_there_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is missing"):
        typed(Outer, {key: value for key, value in LEAST.items() if key != name})


def test_what_is_no_object_is_named() -> None:
    with pytest.raises(TypeError, match="it is '3', which is no Outer"):
        typed(Outer, 3)
    for hint in (int, type(None) | int, int | None):
        with pytest.raises(TypeError, match="it is 'x', which is no int"):
            typed(hint, "x")
        assert typed(hint, 3) == 3
