"""Columns as lines: what they cost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from refit.show.columns import Column, lines


class Counted(tuple[str, ...]):
    """Cells that know how often somebody went through them."""

    looks = 0

    def __iter__(self) -> Iterator[str]:
        Counted.looks += 1
        return super().__iter__()


@pytest.mark.parametrize("width", [None, 60, 12])
def test_cells_are_gone_through_as_often_however_many_there_are(width: int | None) -> None:
    def looks(count: int) -> int:
        Counted.looks = 0
        cells = Counted(f"row_{number:04}" for number in range(count))
        made = lines([Column("pair", cells, is_text=True)], [Column("GB", cells)], width)
        assert len(made) >= count
        return Counted.looks

    assert looks(10) == looks(1000) > 0
