"""A model's tensors with their shapes, cuts and parameters: `python -m refit.model model=NAME`.

  python -m refit.model model=kimi_k2
  python -m refit.model model=llama31_8b model.num_layers=2 model.published_parameters=null

One line for all tensors that differ only in layer and expert: how many there are, the whole shape
of each, its dtype, how TP cuts it (experts: ETP; EP deals them out whole), the parameters of all,
and their share of the bytes. Then the count of the model; one that is not the published count is
refused (exit 2) below its table. A vocabulary has its own rows; a layout may pad them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refit import compose, program
from refit.errors import UserError
from refit.layout.tensors import ITEMSIZE, Family
from refit.model.architecture import catalogue
from refit.model.parameters import count, mismatch
from refit.model_config import Model
from refit.rules.bounds import BOUNDS

HEAD = ("tensor", "tensors", "shape", "dtype", "cut", "parameters", "bytes")


def lines(model: Model) -> list[str]:
    """The table and the count.

    Raises:
        UserError: the model is impossible.
    """
    tensors = catalogue(model, vocab_rows=model.vocab_size)
    rows = [HEAD, *(_row(family, tensors.nbytes) for family in tensors.families)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [*_aligned(rows, widths), "", f"{model.name}: {count(model)}, {tensors.nbytes:,} bytes"]


def _row(family: Family, nbytes: int) -> tuple[str, ...]:
    elements = family.count * family.elements
    return (
        family.name,
        f"{family.count:,}",
        f"[{', '.join(map(str, family.shape))}]",
        family.dtype,
        cut(family),
        f"{elements:,}" + (" (buffer)" if family.is_buffer else ""),
        f"{elements * ITEMSIZE[family.dtype] / nbytes:.2%}",
    )


def _aligned(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    """Words to the left, numbers to the right."""
    right = {HEAD.index(name) for name in ("tensors", "parameters", "bytes")}
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def cut(family: Family) -> str:
    """`rows by TP`, `columns by ETP`, with the parts that are each cut on their own, or `whole`."""
    if family.axis is None:
        return "whole"
    degree = "ETP" if family.grid == "expert" else "TP"
    parts = f" in {'+'.join(map(str, family.parts))}" if family.parts else ""
    return f"{'columns' if family.axis else 'rows'} by {degree}{parts}"


def main(arguments: Sequence[str]) -> None:
    """Print the table of the model that `refit.run` would take with these overrides.

    Raises:
        UserError: the overrides are wrong, or the model is not the published one.
    """
    parser = program.parser("refit.model", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as of refit.run")
    with compose.configs():
        job = compose.job(parser.parse_args(arguments).overrides)
    if outside := next((said for rule in BOUNDS if (said := rule(job))), None):
        raise UserError(outside)
    model = job.model
    print("\n".join(lines(model)))
    if reason := mismatch(model):
        raise UserError(reason)


if __name__ == "__main__":
    program.exit_with(main)
