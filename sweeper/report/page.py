"""Records as one HTML file that needs no network: jinja2 for the page, plotly for its pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from refit import program
from refit.errors import UserError
from refit.record.record import Record
from sweeper.report import attempt, words
from sweeper.report.data import Data, data, folder_of
from sweeper.report.table import NUMBERS, columns

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "draw.js", "many.js", "one.js")

PICTURES = (
    ("medians", "Seconds of a refit: each timed one, the median, the floor and the estimate"),
    ("fractions", "Fraction of the limit"),
    ("phases", "Phases of the rank that took longest: cold beside warm"),
    ("knees", "Where one number is all that differs"),
    ("predicted", "Predicted against measured"),
    ("gpus", "Seconds over GPUs, by model"),
    ("published", "Published refits beside ours"),
)
"""Of many points: what each is called on the page, and its heading."""

OF_ONE = (
    ("traffic", "Traffic: bytes from source rank to destination rank"),
    ("layouts", "Layouts: which rank holds which part of which kind of tensor"),
    ("iterations", "Seconds of each rank, refit by refit"),
    ("spread", "Spread of each rank's seconds"),
    ("slowest", "Which rank was the slowest how often"),
)
"""Of the point that is chosen."""

FILTERS = ("model", "mode", "method", "status")


def page(records: Sequence[Record], root: Path) -> str:
    """The file's text.

    Args:
        root: the folder that the records were read from.

    Raises:
        UserError: plotly or jinja2 is not installed.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(
            f"the HTML report needs {error.name}: pip install 'refit-sweep[report]';"
            " --markdown needs nothing"
        ) from None
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    made = data(records, root)
    return environment.get_template("page.html").render(
        folder=str(root),
        program=program.VERSION,
        made=datetime.now(UTC).isoformat(" ", "minutes"),
        run=what_was_run(records),
        columns=columns(records),
        zip=zip,
        numbers=NUMBERS,
        options={name: _options(made, name) for name in FILTERS},
        pictures=PICTURES,
        of_one=OF_ONE,
        failures=failures(records, root),
        data={name: _embedded(value) for name, value in vars(made).items()},
        style=(HERE / "page.css").read_text(),
        script="\n".join((HERE / name).read_text() for name in SCRIPTS),
        plotly=get_plotlyjs(),
    )


def what_was_run(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Models, layouts, methods, machines, versions and how the points ended."""
    statuses = Counter(record.status for record in records)
    told = {
        "points": [", ".join(f"{n} {status}" for status, n in statuses.most_common())],
        "models": [_model(record) for record in records],
        "layouts": [words.mapping(record) for record in records],
        "methods": [record.method or record.config["refit"]["name"] for record in records],
        "machine": [words.machine(record) for record in records],
        "versions": [words.versions(record) for record in records],
        "begun": [f"{min(times)} to {max(times)}"]
        if (times := [r.started_at for r in records if r.started_at])
        else [],
    }
    return [(name, list(dict.fromkeys(texts))) for name, texts in told.items() if texts]


def _model(record: Record) -> str:
    name = str(record.config["model"]["name"])
    if record.parameters is None:
        return name
    return f"{name}: {record.parameters}"


def failures(records: Sequence[Record], root: Path) -> list[dict[str, Any]]:
    """Every record that is not ok: its index, status, reason, the ends of its logs, its command."""
    found = []
    for n, record in enumerate(records):
        if record.status == "ok":
            continue
        folder = folder_of(record, root)
        tried = attempt.find(record, folder) if folder else None
        found.append(
            {
                "n": n,
                "name": record.name,
                "status": record.status,
                "reason": record.reason,
                "logs": attempt.tails(tried, record.reason),
                "command": words.command(record, str(root)),
            }
        )
    return found


def _options(made: Data, name: str) -> list[str]:
    return sorted({str(point[name]) for point in made.points})


def _embedded(value: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
