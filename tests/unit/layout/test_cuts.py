"""What a shard has of a tensor that fully_shard or Megatron's TP cuts, index by index, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from refit.errors import UserError
from refit.job import Degrees
from refit.layout import fsdp, megatron
from refit.layout.cut import Cut
from refit.layout.place import resolve


def held(cut: Cut) -> list[list[int]]:
    return [cut.indices(shard).tolist() for shard in range(cut.shards)]


@pytest.mark.parametrize(
    ("rows", "fused", "shards", "expected"),
    [
        (7, (), 3, [[0, 1, 2], [3, 4, 5], [6, -1, -1]]),
        (3, (), 5, [[0], [1], [2], [-1], [-1]]),
        # three groups of two queries, a key and a value: q 0 1 4 5 8 9, k 2 6 10, v 3 7 11
        (12, (2, 1, 1), 2, [[0, 1, 4, 2, 6, 3, 7], [5, 8, 9, 10, -1, 11, -1]]),
    ],
)
def test_chunks_of_fully_shard(
    rows: int, fused: tuple[int, ...], shards: int, expected: list[list[int]]
) -> None:
    cut = fsdp.cut(rows, fused, shards)
    assert (cut.axis, cut.length, held(cut)) == (0, rows, expected)
    assert cut.has_padding is any(-1 in shard for shard in expected)


def test_groups_that_do_not_fill_a_tensor() -> None:
    with pytest.raises(UserError, match=r"10 rows are not groups of 2\+1\+1"):
        fsdp.cut(10, (2, 1, 1), 2)


@pytest.mark.parametrize(
    ("axis", "parts", "padded", "expected"),
    [
        (None, (6,), 6, [[0, 1, 2, 3, 4, 5]]),
        (1, (4, 2), 6, [[0, 1, 4], [2, 3, 5]]),
        (1, (7,), 10, [[0, 1, 2, 3, 4], [5, 6, -1, -1, -1]]),
        (0, (2,), 8, [[0, 1, -1, -1], [-1, -1, -1, -1]]),
    ],
)
def test_shards_of_tp_2(
    axis: int | None, parts: tuple[int, ...], padded: int, expected: list[list[int]]
) -> None:
    cut = megatron.cut(axis, parts, 2, padded)
    assert (cut.axis, cut.length, held(cut)) == (axis or 0, sum(parts), expected)
    assert cut.is_whole is (axis is None)
    assert cut.has_padding is (padded > sum(parts))


FSDP: dict[str, Any] = {
    "shard": 2,
    "gpus": 4,
    "offset": 3,
    "node_aligned": True,
    "dtype": "float32",
    "make_vocab_size_divisible_by": 8,
    "share_embeddings_and_output_weights": False,
    "padding": "unchecked",
}


def test_what_a_side_of_fully_shard_may_say() -> None:
    layout = resolve(Degrees(kind="fsdp", **FSDP), 1, offset=3)
    assert (layout.kind, layout.shard, layout.gpus, layout.offset) == ("fsdp", 2, 4, 3)
    assert (layout.dtype, layout.padding_is_checked) == ("float32", False)
    assert resolve(Degrees(kind="fsdp", gpus=4), 1).shard == 4
    assert resolve(Degrees(kind="fsdp"), 1).shard == 1
