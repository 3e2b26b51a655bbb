"""Every flag of Megatron's has one fate here, and leads to the field that it sets."""

from __future__ import annotations

from dataclasses import fields

import pytest

from refit.errors import UserError
from refit.importers import flags, write_model
from refit.model_config import Model
from refit.other_names import meant


def test_a_flag_is_of_one_kind() -> None:
    meant = set(flags.MEANT)
    refused = {name for name in flags.every() if flags.refusal(name)}
    without = {name for name in flags.every() if flags.kind(name)}
    assert not meant & refused and not meant & without and not refused & without
    assert len(meant) > 90 and len(refused) > 30 and len(without) > 700
    assert all(flags.known(name) for name in flags.every())
    with pytest.raises(UserError, match="did you mean --moe-grouped-gemm"):
        flags.checked("moe-groupd-gemm")


def test_every_field_of_a_model_has_a_flag_or_is_known_to_have_none() -> None:
    said = {one.field for one in flags.MODEL.values()}
    in_parts = {"activation_func", "gated_linear_unit", "num_query_groups"}
    without = {"name", "lora", "published_parameters", "pairs_of", *write_model.OURS}
    assert said | in_parts | without == {one.name for one in fields(Model)}


@pytest.mark.parametrize(
    ("table", "prefix", "of_side"),
    [
        (flags.MODEL, "model.", False),
        (flags.SOURCE, "parallel.source.", True),
        (flags.DESTINATION, "parallel.destination.", True),
    ],
    ids=["model", "source", "destination"],
)
def test_a_flag_typed_as_a_field_is_answered_with_the_field(
    table: dict[str, flags.Field], prefix: str, of_side: bool
) -> None:
    """The hints of an unknown field say of a flag what its translation says."""
    renamed = {n.replace("-", "_"): f.field for n, f in table.items()}
    renamed = {name: field for name, field in renamed.items() if name != field}
    assert renamed
    for name, field in renamed.items():
        assert f"{prefix}{field}" in (meant(name, prefix, of_side) or ""), name
