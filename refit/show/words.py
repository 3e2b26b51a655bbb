"""A record in words: how it ended in one line, and a prediction term by term. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from refit.record.parts import Forecast, PlanNumbers
from refit.record.record import Record
from refit.record.remarks import remarks
from refit.record.row import Row


def outcome(record: Record) -> str:
    """`ok: 1.61 GB in 0.21 s ...`, or the status and its reason."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    assert record.plan is not None
    what = f"{size(record.plan.bytes)} by {record.method}"
    if record.plan.left_out_tensors and record.plan.left_out_bytes:
        left_out = size(record.plan.left_out_bytes)
        what += f" ({record.plan.left_out_tensors} tensors, {left_out}, left out)"
    if record.kind == "predicted":
        return f"predicted: {what}; nothing was run{_remarked(record)}"
    seconds, throughput, checked = record.seconds, record.throughput, record.verification
    assert seconds is not None and throughput is not None and checked is not None
    limit = throughput.limit
    if throughput.limit_source == "measured":
        peers = any(each.kind == "peers" and each.what == limit for each in throughput.limits)
        limit = "plain copies between the ranks" if peers else "this machine's memory copy"
    return (
        f"ok: {what} in {seconds.median:.3f} s"
        f" (slowest rank, median of {len(seconds.warm)}; cold {seconds.cold:.3f} s),"
        f" {throughput.gbps:.2f} GB/s,"
        f" {throughput.fraction:.0%} of {limit};"
        f" {checked.elements} elements verified bit for bit{_remarked(record)}"
    )


def _remarked(record: Record) -> str:
    """Every remark on a record, as the end of a line; empty where there is none."""
    return "".join(f"; remark: {text}" for text in remarks(record))


def in_sweep(record: Record) -> str:
    """How a point of a sweep ended, in a few words; of a reason its first line."""
    if record.status != "ok":
        return record.reason.partition("\n")[0]
    row = Row.of(record)
    moved = "" if row.bytes is None else size(row.bytes)
    if row.median_s is not None and row.cold_s is not None:
        moved += f" in {row.median_s:.3g} s (cold {row.cold_s:.3g} s)"
    said = [
        moved,
        "" if row.floor_s is None else f"floor {row.floor_s:.3g} s",
        "" if row.estimate_s is None else f"estimate {row.estimate_s:.3g} s",
        "" if row.fraction is None else f"{row.fraction:.0%} of limit",
    ]
    if record.prediction and record.prediction.missing:
        said.append(f"no estimate: {record.prediction.missing} not set")
    return ", ".join(filter(None, said))


def prediction(record: Record) -> Iterator[str]:
    """What is printed of a predicted record, below the header."""
    assert record.plan is not None and record.prediction is not None
    yield from _moved(record.plan)
    yield _memory(record.prediction)
    yield from _times(record.prediction)


def _moved(plan: PlanNumbers) -> Iterator[str]:
    bounds = plan.lower_bounds
    yield f"Bytes: {_gb(plan.bytes)} in {plan.copies} blocks, {_gb(plan.local_bytes)} of them local"
    yield _against("Busiest sender", plan.max_send_bytes, bounds.send)
    if plan.max_forward_bytes:
        yield f"Busiest forwarder, within its node: {_gb(plan.max_forward_bytes)}"
    yield _against("Busiest receiver", plan.max_recv_bytes, bounds.recv)
    yield _against("Across nodes", plan.cross_node_bytes, bounds.cross_node)


def _memory(forecast: Forecast) -> str:
    device_bytes = forecast.memory.device_bytes
    of_device = ", the device's is not stated"
    if device_bytes:
        of_device = f" of {device_bytes / 1e9:g} GB"
    largest = ", ".join(
        f"{name} {max(forecast.per_rank[f'{name}_bytes']) / 1e9:.2f}"
        for name in ("source", "destination", "staging")
        if f"{name}_bytes" in forecast.per_rank
    )
    fullest = f"{forecast.memory.max_bytes / 1e9:.2f} GB on the fullest rank"
    return f"Memory: {fullest}{of_device} (largest: {largest})"


def _times(forecast: Forecast) -> Iterator[str]:
    if forecast.missing:
        yield (
            f"Floor, estimate: unknown, as {forecast.missing} is not set; use cluster=h100 or"
            " another cluster that states its rates"
        )
    for name, word, terms in (
        ("Floor", "largest of", forecast.floor),
        ("Estimate", "sum of", forecast.estimate),
    ):
        if terms:
            parts = (f"{k.removesuffix('_s')} {v:.4f}" for k, v in terms.items() if k != "seconds")
            yield f"{name}: {terms['seconds']:.4f} s ({word} {', '.join(parts)})"
    if forecast.floor and not forecast.estimate:
        yield "Estimate: none, as the method carries out a plan of its own in its own way"


def _against(name: str, nbytes: int | None, bound: int) -> str:
    assert nbytes is not None, "all numbers of a prediction are known"
    above = f"{nbytes / bound - 1:+.1%}" if bound else "nothing to move"
    return f"{name}: {_gb(nbytes)}, lower bound {_gb(bound)} ({above})"


def _gb(nbytes: int | None) -> str:
    assert nbytes is not None, "all numbers of a prediction are known"
    return f"{nbytes / 1e9:.3f} GB"


def size(nbytes: int) -> str:
    """Bytes with a decimal unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes} B"
