"""The count of a model, and that another than the published one is refused with the difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refit import model_table
from refit.errors import UserError
from refit.importers import options
from refit.model.parameters import Parameters, count, mismatch
from refit.rules.impossible import impossible
from tests.support.composed import PUBLISHED, SMALL_DENSE
from tests.support.jobs import job

SHIPPED = options.models()  # read without Hydra, which takes a second for each
LLAMA = SHIPPED["llama31_8b"]


@pytest.mark.parametrize("name", SMALL_DENSE)
def test_small_dense_models_are_the_published(name: str) -> None:
    layers, h, ffn, heads, groups, size, vocab, tied, total = SMALL_DENSE[name]
    model = SHIPPED[name]
    attention = 2 * heads * size * h + 2 * groups * size * h
    attention += (heads + 2 * groups) * size if name.startswith("qwen25") else 0
    attention += 2 * size if name.startswith("qwen3") else 0
    by_hand = layers * (attention + 3 * h * ffn + 2 * h) + (1 if tied else 2) * vocab * h + h
    assert count(model) == Parameters(total, total, 0) and by_hand == total
    assert model.published_parameters == total


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_count_is_in_every_public_model(name: str) -> None:
    found = count(SHIPPED[name])
    assert (SHIPPED[name].published_parameters, found.active) == PUBLISHED[name][:2]
    assert mismatch(SHIPPED[name]) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        # the embedding is as large as the output layer that is shared with it
        (
            {"share_embeddings_and_output_weights": True},
            "525,336,576 too few, as many as embedding",
        ),
        ({"num_layers": 31}, "218,112,000 too few"),
        ({"add_qkv_bias": True}, "196,608 too many, as many as self_attention.linear_qkv.bias has"),
        ({"ffn_hidden_size": None}, "Most are mlp.linear_fc1.weight 4,294,967,296, "),
        ({"num_query_groups": None}, "805,306,368 too many"),
    ],
)
def test_another_count_is_refused_with_the_difference(
    changes: dict[str, object], says: str
) -> None:
    reason = mismatch(replace(LLAMA, **changes))  # type: ignore[arg-type]
    assert reason is not None and says in reason
    assert reason.startswith("model 'llama31_8b' has ") and "8,030,261,248: " in reason
    other = replace(LLAMA, **changes, published_parameters=None)  # type: ignore[arg-type]
    assert mismatch(other) is None


def test_adapters_alone_have_no_published_count() -> None:
    assert mismatch(replace(LLAMA, lora={"rank": 8, "targets": ["linear_qkv"]})) is None


def test_a_point_of_another_count_is_impossible_and_named_so() -> None:
    other = replace(LLAMA, num_layers=31)
    assert "218,112,000 too few" in (impossible(replace(job(model=other), mode="plan")) or "")
    said = replace(other, published_parameters=None)
    assert impossible(replace(job(model=said), mode="plan")) is None


def test_words_of_a_count() -> None:
    assert str(Parameters(5_000, 5_000, 0)) == "5,000 parameters, all active"
    assert str(Parameters(5_000, 4_000, 12)) == (
        "5,000 parameters, 4,000 active, 12 in fp32 buffers"
    )


def test_the_table_has_every_tensor_and_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = model_table.lines(SHIPPED["kimi_k2"])
    assert head.split() == ["tensor", "tensors", "shape", "dtype", "cut", "parameters", "bytes"]
    of = {row.split()[0]: row.split("  ") for row in rows if row}
    fc1 = [
        cell.strip() for cell in of["decoder.layers.{layer}.mlp.experts.linear_fc1.weight{expert}"]
    ]
    assert [cell for cell in fc1[1:] if cell] == [
        "23,040", "[4096, 7168]", "bfloat16", "rows by ETP in 2048+2048",
        f"{23040 * 4096 * 7168:,}", "65.91%",
    ]  # fmt: skip
    assert rows[-1].startswith(
        "kimi_k2: 1,026,408,209,408 parameters, 32,861,477,888 active, 23,040 in fp32 buffers, "
    )
    listed = [row for row in rows if "  " in row]
    counted = sum(int(row.split()[-2].replace(",", "")) for row in listed if "(buffer)" not in row)
    assert counted == 1_026_408_209_408
    with pytest.raises(UserError, match="too few"):
        model_table.main(["model=kimi_k2", "model.hidden_size=7104"])
    assert "kimi_k2: " in capsys.readouterr().out  # the table comes first, to be looked at
