"""Is it slower than before? Two results, point by point: `python -m sweeper.compare before after`.

With one folder and --by, the points of one method (or any field) against those of each other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from refit import program
from refit.errors import UserError
from refit.record.files import read_json, write_output
from refit.show.display import Display
from sweeper import compare_text, matched, where
from sweeper.collect import read
from sweeper.comparison import Result, compared, conditions

EXIT_SLOWER = 1


def _versions(folder: Path) -> set[str]:
    """Of the schema, as the files say it: what is read is of the newest."""
    found = (read_json(path) or {} for path in folder.glob("*/timing.json"))
    return {str(values.get("schema_version")) for values in found}


def of_folders(folders: Sequence[Path], by: str | None, wanted: where.Wanted) -> Result:
    """Compare what two folders hold, or by a field what one holds.

    Raises:
        UserError: a folder has no record, or none that is wanted; or `by` has no meaning there.
    """
    sides = []
    for folder in folders:
        records, refused = read(folder)
        for path, why in refused.items():
            print(f"left out: {path}: {why}", file=sys.stderr)
        if not records:
            raise UserError(f"no records in {folder}: it has no */timing.json that can be read")
        sides.append(where.chosen(records, wanted) if wanted else records)
    found = [matched.groups(side) for side in sides]
    counted = [
        f"{folder}, {len(side)} records" for folder, side in zip(folders, sides, strict=True)
    ]
    if len(found) == 1:
        assert by is not None
        matches, said = matched.one(found[0], by), f"{counted[0]}, by {by}"
    else:
        matches = matched.two(found[0], found[1], by)
        said = f"before: {counted[0]}; after: {counted[1]}"
    groups = [[p.before for p in matches.pairs], [p.after for p in matches.pairs]]
    lines = conditions(*([r for group in side for r in group.records] for side in groups))
    versions = [", ".join(sorted(_versions(folder))) for folder in folders]
    if versions[0] != versions[-1]:
        lines.insert(0, f"schema version: {versions[0]} -> {versions[-1]}")
    return Result(said, lines, [compared(pair) for pair in matches.pairs], matches)


def main(arguments: Sequence[str]) -> int:
    """Print how two results compare; 1 if a gate was asked for and does not open.

    Raises:
        UserError: a folder has no records, --by has no meaning there, or a file cannot be written.
    """
    options = _parser().parse_args(arguments)
    if options.after is None and options.by is None:
        raise UserError("compare takes two folders, or one and --by method (or any field)")
    if options.fail_above is not None and not options.fail_above > 0:
        raise UserError(f"--fail-above {options.fail_above:g}: must be above 0, such as 1.10")
    folders = [folder for folder in (options.before, options.after) if folder is not None]
    result = of_folders(folders, options.by, where.parsed(options.where))
    _write(compare_text.FORMS[options.form](result), options.output)
    if options.fail_above is None:
        return 0
    failures = result.failures(options.fail_above)
    for line in failures:
        print(f"--fail-above: {line}", file=sys.stderr)
    return EXIT_SLOWER if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = program.parser("sweeper.compare", __doc__)
    parser.add_argument("before", metavar="BEFORE", type=Path, help="holds <point>/timing.json")
    parser.add_argument("after", metavar="AFTER", type=Path, nargs="?")
    parser.add_argument(
        "--by",
        metavar="NAME",
        help="what pairs may differ in: method, model, parallel, cluster or a field such as"
        " refit.bucket_mb; of one folder NAME=VALUE says which is before",
    )
    form = parser.add_mutually_exclusive_group()
    for word, text in (
        ("markdown", "a table for a pull request"),
        ("html", "a page, which needs no network"),
    ):
        form.add_argument(
            f"--{word}", dest="form", action="store_const", const=word, default="plain", help=text
        )
    parser.add_argument("--output", metavar="FILE", type=Path, help="to write to; else stdout")
    parser.add_argument(
        "--fail-above",
        metavar="RATIO",
        type=float,
        help="exit with 1 where a point is slower by more, such as 1.10, or no more ok",
    )
    where.add_option(parser)
    return parser


def _write(text: str, path: Path | None) -> None:
    if path is None:
        Display().line(text.rstrip("\n"))
        return
    try:
        write_output(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    Display().line(f"written: {path}")


if __name__ == "__main__":
    program.exit_with(main)
