"""What NIXL's ct-perftest measured of a plan -> a limit of that plan's record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refit.errors import UserError
from refit.record.parts import Limit, Throughput
from refit.record.record import NotARecord, Record, write

LATENCY = "Avg latency/iter (s)"
SIZE = "Total size (GB)"
ROUNDED = 1e-6
"""To which it prints sizes, in GB."""
OF_A_RANK = 1e-9
"""GB that a rank may write itself; see `sweeper.export.nixl.without_empty`."""


def into_record(lines: Sequence[str], file: str, point: Path) -> str:
    """Write the limit into a point's record, in place of one that came so before.

    Of a plan of several hops the log has a table for each, and the limit is their sum.

    Args:
        lines: of ct-perftest's log.
        point: its folder.

    Returns:
        What was done, in words.

    Raises:
        UserError: the log has no table, or is of other bytes than the record's plan; or the record
            is none, has no times, or cannot be written.
    """
    path = point / "timing.json"
    try:
        record = Record.load(path)
    except NotARecord as error:
        raise UserError(f"--limit-of {point}: {error}") from None
    if record.throughput is None:
        raise UserError(f"--limit-of {point}: it has no times to hold against: {record.status}")
    limit = limit_of(lines, file, record)
    done = replace(record, throughput=with_limit(record.throughput, limit))
    try:
        write(path, done)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    assert done.throughput is not None
    return (
        f"written: {path}: {limit.what}, {limit.gbps:.2f} GB/s; the refit is at"
        f" {done.throughput.fraction:.0%} of its tightest limit"
    )


def limit_of(lines: Sequence[str], file: str, record: Record) -> Limit:
    """The rate of a whole refit whose remote bytes take as long as ct-perftest says.

    Raises:
        UserError: see `into_record`.
    """
    tables = [_table(lines[n], lines[n + 1 :]) for n, line in enumerate(lines) if LATENCY in line]
    found = [table for table in tables if table]
    if not found:
        raise UserError(
            f"{file} has no table of ct-perftest, whose columns are '{LATENCY}' and '{SIZE}'"
        )
    plan = record.plan
    assert plan is not None and plan.local_bytes is not None
    remote = plan.bytes - plan.local_bytes
    measured = sum(size for _, size in found)
    assert record.layout is not None
    slack = (ROUNDED + record.layout.world * OF_A_RANK) * len(found)
    if abs(measured - remote / 1e9) > slack:
        raise UserError(
            f"{file} is of {measured:.6f} GB, and the plan of {record.name} moves"
            f" {remote / 1e9:.6f} GB between ranks; export its matrix with --nixl"
        )
    seconds = sum(latency for latency, _ in found)
    what = f"nixl ct-perftest of this plan's bytes, from {file}"
    return Limit(what, plan.bytes / seconds / 1e9, "imported", "nixl")


def with_limit(throughput: Throughput, limit: Limit) -> Throughput:
    """With it, in place of an earlier one of its kind; the tightest may be another then."""
    limits = [*(each for each in throughput.limits if each.kind != limit.kind), limit]
    tightest = min(limits, key=lambda each: each.gbps)
    return replace(
        throughput,
        limits=limits,
        limit=tightest.what,
        limit_gbps=tightest.gbps,
        limit_source=tightest.source,
        fraction=throughput.gbps / tightest.gbps,
    )


def _table(head: str, below: Sequence[str]) -> tuple[float, float] | None:
    """Seconds and GB of the first row of numbers below the headings; None where there is none."""
    names = [name.strip() for name in head.split("  ") if name.strip()]
    names = [name for name in names if name in ("Iters", "Total time (s)", LATENCY, SIZE)]
    for line in below[:3]:
        values = line.split()[-len(names) :]
        try:
            row = dict(zip(names, map(float, values), strict=True))
            return (row[LATENCY], row[SIZE]) if row[LATENCY] > 0 else None
        except (ValueError, KeyError):
            continue
    return None
