"""A point's refits as Chrome trace events, for ui.perfetto.dev: `python -m sweeper.trace POINT`.

A process for each node, a thread for each rank; the cold refit, and of the timed ones the first,
the slowest and the last, with one event for each phase, on one time axis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from refit import program
from refit.errors import UserError
from refit.record.files import read_json, write_output
from refit.record.point import Attempt
from refit.record.record import NotARecord, Record
from refit.record.report import RankReport, Span
from refit.show.display import Display
from sweeper import where
from sweeper.collect import by_file

UNATTRIBUTED = "unattributed"

AXIS = (
    "Microseconds from where a node's first rank began the cold refit: nodes have clocks of their"
    " own, which are put together there. Spans of refits are as the ranks noted them; of a phase"
    " they note how long it was, not when: phases lie end to end in the order in which a refit has"
    " them first, and pieces of one phase, of each bucket say, are one event. What no phase holds"
    " comes last, as unattributed. Where phases work at once, and are longer than their refit, all"
    " are drawn shorter, by the factor `drawn`; `seconds` are as they were noted."
)


def events(record: Record, reports: Sequence[RankReport]) -> list[dict[str, Any]]:
    """All events of a trace: names of nodes and ranks, refits, and in each its phases.

    Args:
        reports: of the ranks that hold weights.
    """
    assert record.seconds is not None
    began = {r.node: r.cold.start for r in reports}
    for report in reports:
        began[report.node] = min(began[report.node], report.cold.start)
    found = [_named("process_name", node, 0, f"node {node}") for node in sorted(began)]
    for report in sorted(reports, key=lambda report: report.rank):
        found.append(_named("thread_name", report.node, report.rank, f"rank {report.rank}"))
        zero = began[report.node]
        found += _refit(report, "cold", report.cold, report.cold_phases, zero)
        for number, words in shown(record.seconds.warm).items():
            name = f"iteration {number + 1} of {len(report.warm)} ({words})"
            found += _refit(report, name, report.warm[number], _phases(report, number), zero)
    return found


def shown(warm: Sequence[float]) -> dict[int, str]:
    """The timed refits that a trace has, by number, and what they are: few of however many."""
    which = {"first": 0, "slowest": max(range(len(warm)), key=warm.__getitem__)}
    which["last"] = len(warm) - 1
    found: dict[int, str] = {}
    for word, number in which.items():
        found[number] = f"{found[number]}, {word}" if number in found else word
    return dict(sorted(found.items()))


def _phases(report: RankReport, number: int) -> Mapping[str, float]:
    """Seconds of each phase in one timed refit; of older reports the medians."""
    if not report.warm_phases:
        return {f"{name}, median": seconds for name, seconds in report.phases.items()}
    return {name: each[number] for name, each in report.warm_phases.items()}


def _refit(
    report: RankReport, name: str, span: Span, phases: Mapping[str, float], zero: float
) -> Iterator[dict[str, Any]]:
    whole, at = span.end - span.start, span.start - zero
    yield _event(report, name, at, whole, {"seconds": whole})
    spent = sum(phases.values())
    drawn = min(1.0, whole / spent) if spent else 1.0
    for phase, seconds in phases.items():
        said = {"seconds": seconds, **({"drawn": drawn} if drawn < 1 else {})}
        yield _event(report, phase, at, drawn * seconds, said)
        at += drawn * seconds
    if spent < whole:
        yield _event(report, UNATTRIBUTED, at, whole - spent, {"seconds": whole - spent})


def _event(
    report: RankReport, name: str, at_s: float, long_s: float, said: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",  # a complete event: its begin and its length
        "pid": report.node,
        "tid": report.rank,
        "ts": 1e6 * at_s,
        "dur": 1e6 * long_s,
        "args": dict(said),
    }


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def reports_of(folder: Path, record: Record) -> list[RankReport]:
    """What the ranks that hold weights noted in the attempt that the record is of.

    Raises:
        UserError: the attempt's folder, or a rank's report in it, is not there.
    """
    attempt = next((a for a in _attempts(folder) if _is_of(a, record)), None)
    if attempt is None:
        raise UserError(f"{folder} has no attempt of its record in attempts/; copy that folder too")
    assert record.layout is not None
    used = set(range(record.layout.world)) - set(record.layout.idle)
    reports = []
    for rank in sorted(used):
        values = read_json(attempt.rank_report(rank))
        try:
            reports.append(RankReport.of(values or {}))
        except TypeError as error:
            path = attempt.rank_report(rank)
            raise UserError(f"{path} is no report of a rank: {error}") from None
    return [report for report in reports if report.active]


def _attempts(folder: Path) -> list[Attempt]:
    return [Attempt(path) for path in sorted((folder / "attempts").glob("*"), reverse=True)]


def _is_of(attempt: Attempt, record: Record) -> bool:
    values = read_json(attempt.timing) or {}
    return values.get("started_at") == record.started_at


def main(arguments: Sequence[str]) -> int:
    """Write a point's trace.

    Raises:
        UserError: there is no such point, or several, or it has no times, or ranks' reports are
            missing; or the file cannot be written.
    """
    parser = program.parser("sweeper.trace", __doc__)
    parser.add_argument(
        "point", metavar="POINT", type=Path, help="its folder; or a folder of points, with --where"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="to write to (default: POINT/trace.json)"
    )
    where.add_option(parser)
    options = parser.parse_args(arguments)
    folder, record = _one(options.point, where.parsed(options.where))
    if record.seconds is None:
        reason = f": {record.reason}" if record.reason else ""
        raise UserError(f"{record.name} has no times: {record.kind}, {record.status}{reason}")
    path = options.output or folder / "trace.json"
    found = events(record, reports_of(folder, record))
    about = {"point": record.name, "method": record.method, "time axis": AXIS}
    trace = {"traceEvents": found, "displayTimeUnit": "ms", "otherData": about}
    try:
        write_output(path, json.dumps(trace) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    Display().line(f"written: {path}, {len(found)} events; open it in ui.perfetto.dev")
    return 0


def _one(path: Path, wanted: where.Wanted) -> tuple[Path, Record]:
    """The folder and the record of the point that is meant."""
    folder = path.parent if path.name == "timing.json" else path
    if not wanted and (folder / "timing.json").exists():
        try:
            return folder, Record.load(folder / "timing.json")
        except NotARecord as error:
            raise UserError(f"{folder / 'timing.json'}: {error}") from None
    found, _ = by_file(folder)
    if not found:
        raise UserError(f"no point in {folder}: it has no timing.json, and no folder in it has one")
    meant = where.chosen(list(found.values()), wanted) if wanted else list(found.values())
    if len(meant) > 1:
        names = ", ".join(record.name for record in meant[:3])
        raise UserError(f"{len(meant)} points in {folder}: {names}, ...; say one, or use --where")
    return next((file.parent, record) for file, record in found.items() if record is meant[0])


if __name__ == "__main__":
    program.exit_with(main)
