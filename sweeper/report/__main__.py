"""Results as one HTML file with pictures: `python -m sweeper.report DIR`.

It opens without a network. --markdown prints the table for a pull request instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from refit import program
from refit.errors import UserError
from refit.record.point import write_atomic
from sweeper import where
from sweeper.collect import EXIT_INCOMPLETE, read
from sweeper.report.markdown import markdown
from sweeper.report.page import page


def main(arguments: Sequence[str]) -> int:
    """Write the report; 1 if a file had to be left out.

    Raises:
        UserError: the folder holds no record, or none of those asked for; plotly or jinja2 is not
            installed; or the file cannot be written.
    """
    parser = program.parser("sweeper.report", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="holds <point>/timing.json")
    parser.add_argument("--markdown", action="store_true", help="the table; to stdout by default")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="default of the HTML: DIR/report.html"
    )
    where.add_option(parser)
    options = parser.parse_args(arguments)
    wanted = where.parsed(options.where)
    records, refused = read(options.folder)
    for path, why in refused.items():
        print(f"left out: {path}: {why}", file=sys.stderr)
    if not records:
        left_out = f" that can be read; {len(refused)} left out" if refused else ""
        raise UserError(f"no records in {options.folder}: it has no */timing.json{left_out}")
    records = where.chosen(records, wanted)
    if not options.markdown:
        text = page(records, options.folder)
        _write(text, options.output or options.folder / "report.html")
    elif options.output:
        _write(markdown(records, str(options.folder)), options.output)
    else:
        print(markdown(records, str(options.folder)), end="")
    return EXIT_INCOMPLETE if refused else 0


def _write(text: str, path: Path) -> None:
    try:
        write_atomic(path, text.encode(errors="replace").decode())  # JSON may have half a surrogate
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; --output FILE writes elsewhere"
        ) from None
    print(f"written: {path}")


if __name__ == "__main__":
    program.exit_with(main)
