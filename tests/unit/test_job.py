"""What a config may hold: unknown fields by name, and those whose weights are not modelled."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from refit.job import NOT_MODELLED, Degrees, Job, Model, UserError
from refit.layout.place import place
from tests.support.jobs import TINY, job


def with_field(path: str, value: Any) -> dict[str, Any]:
    """A whole config with one more field."""
    values = inner = job().to_dict()
    *groups, key = path.split(".")
    for group in groups:
        inner = inner[group]
    inner[key] = value
    return values


@pytest.mark.parametrize("name", NOT_MODELLED)
def test_what_is_not_modelled_is_refused_as_that(name: str) -> None:
    with pytest.raises(UserError, match="is not modelled") as refusal:
        Job.from_dict(with_field(f"model.{name}", 1))
    text = str(refusal.value)
    assert f"'model.{name}'" in text and NOT_MODELLED[name] in text
    assert "did you mean" not in text and "num_layers?" not in text and "vocab_size" not in text
    assert name not in {field.name for field in fields(Model)}


def test_a_misspelt_one_too() -> None:
    with pytest.raises(UserError, match="is not modelled: the weights of multi-token prediction"):
        Job.from_dict(with_field("model.mtp_num_layer", 1))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("model.num_layer", "did you mean num_layers?"),
        ("model.hidden_dropout", "unknown field 'model.hidden_dropout'; All fields"),
        ("refit.bucketmb", "did you mean bucket_mb?"),
        ("parallel.source.mtp_num_layers", "unknown field"),  # of a model alone
        ("zzz", "unknown field 'zzz'; All fields"),
    ],
)
def test_an_unknown_field_gets_the_nearest_and_no_list(path: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        Job.from_dict(with_field(path, 1))
    assert words in str(refusal.value) and "kv_channels" not in str(refusal.value)


def test_an_etp_that_nobody_said_is_named_with_the_way_out() -> None:
    # TP 8 is ETP 8 by default, and 8 * 16 ranks hold one copy of the experts
    wide = Degrees(tp=8, ep=16, gpus=64)
    with pytest.raises(UserError, match="must be a positive multiple of") as refusal:
        place(job(wide, Degrees(tp=2), model=TINY))
    assert "etp is tp, 8, by default" in str(refusal.value)
    assert "parallel.source.etp=1" in str(refusal.value)
    # a destination's is the source's
    with pytest.raises(UserError, match="etp is the source's, 4, by default") as refusal:
        place(job(Degrees(tp=4, etp=4), Degrees(tp=1, ep=4, gpus=4), model=TINY))
    assert "parallel.destination.etp=1" in str(refusal.value)
    # where it does not help, or was said, it is not named
    for degrees in (Degrees(tp=8, ep=16, gpus=60), Degrees(tp=8, ep=16, etp=8, gpus=64)):
        with pytest.raises(UserError) as refusal:
            place(job(degrees, Degrees(tp=2), model=TINY))
        assert "by default" not in str(refusal.value)
