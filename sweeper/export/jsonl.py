"""One flat line of JSON a point, with the columns of CSV: for Grafana, DuckDB, pandas and jq."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from refit.record.record import Record
from refit.record.row import Row


def text(records: Sequence[Record]) -> str:
    """The lines; null where a record reports nothing."""
    return "".join(f"{json.dumps(asdict(Row.of(record)))}\n" for record in records)
