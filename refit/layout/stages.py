"""How many layers each pipeline stage has, in all the ways that Megatron lets one say it.

Stages are numbered as the model runs through them. With virtual stages there are more than pipeline
ranks, and stage i is on pipeline rank i % pp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from refit.errors import UserError

LAYOUT = "pipeline_model_parallel_layout"
VIRTUAL = "virtual_pipeline_model_parallel_size"
LONGEST = 100_000  # letters of a part of Megatron's string, as often as it is repeated
_EXAMPLES = f"{LAYOUT}=[3,1], or Megatron's string, quoted: '{LAYOUT}=\"Et*3|tL\"'"


def listed(value: object) -> tuple[int, ...]:
    """Layers per stage of a `pipeline_model_parallel_layout`.

    Args:
        value: a list of numbers; or Megatron's string, in which E is the embedding, t a layer, L
            the loss, | ends a stage, and *n repeats what is before it, a letter or in parentheses.

    Raises:
        UserError: it is neither, or embedding or loss are not at the ends.
    """
    if isinstance(value, str):
        return _of_string(value)
    numbers = isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
    if not numbers or not value:
        raise UserError(
            f"{LAYOUT}={value!r} is not a list of layers per stage, 0 or more each; write"
            f" {_EXAMPLES}"
        )
    assert isinstance(value, list)
    return tuple(value)


def _repeated(text: str, part: str, times: str) -> str:
    """A part of the string as often as it says."""
    if len(times) > 5 or len(part) * int(times) > LONGEST:
        raise UserError(f"{LAYOUT}={text}: {part}*{times} is longer than {LONGEST} letters")
    return part * int(times)


def _of_string(text: str) -> tuple[int, ...]:
    """As Megatron's `PipelineParallelLayerLayout.parse_str_to_list` reads it."""
    unrolled = text.replace(",", "")
    for pattern in (r"\(([^)]+)\)\*(\d+)", r"(.)\*(\d+)"):
        unrolled = re.sub(pattern, lambda found: _repeated(text, found[1], found[2]), unrolled)
    if "m" in unrolled:
        raise UserError(
            f"{LAYOUT}={text}: m, multi-token prediction, is not modelled; its weights would be"
            " missing. Leave it out only for a model that does not have it"
        )
    stages = unrolled.split("|")
    if other := sorted(set(unrolled) - set("EtL|")):
        raise UserError(
            f"{LAYOUT}={text}: {' '.join(other)} means nothing there; allowed are E (embedding), t"
            f" (a layer), L (loss), | (end of a stage) and (...)*n; write {_EXAMPLES}"
        )
    ends = stages[0].startswith("E"), stages[-1].endswith("L")
    if not all(ends) or (unrolled.count("E"), unrolled.count("L")) != (1, 1):
        raise UserError(
            f"{LAYOUT}={text}: the first stage begins with E, the last ends with L, and each is"
            f" there once; write {_EXAMPLES}"
        )
    return tuple(stage.count("t") for stage in stages)


def check(pp: int, virtual: int, layers: tuple[int, ...] | None, said: Mapping[str, object]) -> int:
    """How many virtual stages a pipeline rank has, and that what is said of stages goes together.

    Args:
        virtual: as it is said; 0: it is not.
        layers: of each stage, where they are listed.
        said: Megatron's other fields that split layers, by name; those that are set.

    Returns:
        1 without virtual stages.

    Raises:
        UserError: Megatron refuses it.
    """
    if layers is not None:
        if said:
            raise UserError(
                f"{LAYOUT} says the layers of every stage; leave out {' and '.join(said)}"
            )
        if len(layers) % pp:
            raise UserError(
                f"{LAYOUT} has {len(layers)} stages, and pp={pp} wants as many, or a multiple of"
                " it for virtual stages"
            )
        if virtual and virtual * pp != len(layers):
            raise UserError(
                f"{LAYOUT} has {len(layers)} stages, {len(layers) // pp} on each of pp={pp} ranks,"
                f" and {VIRTUAL}={virtual}; leave the latter out"
            )
        virtual = len(layers) // pp
    ends = [name for name in said if name.startswith("num_layers")]
    if ends and len(ends) < len(said):
        raise UserError(
            f"{' and '.join(said)} exclude each other, as in Megatron; use"
            f" {LAYOUT}, which can say every split"
        )
    if virtual > 1 and pp == 1:
        what = VIRTUAL if layers is None else LAYOUT
        raise UserError(
            f"{what} asks for {virtual} stages per rank, and virtual stages need pp of 2 or more"
        )
    if virtual > 1 and pp == 2 and len(ends) == 2:
        raise UserError(
            f"{' and '.join(ends)} leave pp=2 no rank between them, and with {VIRTUAL}={virtual}"
            f" Megatron then divides by zero; use {LAYOUT}"
        )
    return max(1, virtual)


def layers_per_stage(
    num_layers: int,
    pp: int,
    virtual: int = 1,
    first: int | None = None,
    last: int | None = None,
    embedding: bool = False,
    loss: bool = False,
) -> list[int]:
    """Where no list says it: evenly, but for what is said of the first and the last rank.

    Args:
        virtual: stages of each rank.
        first, last: layers of the first and the last rank.
        embedding, loss: counted as a layer of the first and of the last stage.

    Raises:
        UserError: what remains does not divide among the other ranks, or over a rank's stages.
    """
    counts: list[int | None] = [None] * pp
    if first is not None:
        counts[0] = first
    if last is not None:
        counts[-1] = last
    fixed = sum(c for c in counts if c is not None)
    open_ranks = counts.count(None)
    remaining = num_layers + embedding + loss - fixed
    even = remaining // open_ranks if open_ranks else 0
    if remaining != even * open_ranks or (open_ranks and even < 1):
        how = f" after {fixed} in the fixed first/last stages" if fixed else ""
        if embedding or loss:
            how = ", of which the embedding or the loss is one each,"
        raise UserError(
            f"{remaining} layers{how} do not divide among {open_ranks} pipeline stages"
            f" (pp={pp}, num_layers={num_layers}); choose pp that divides, or set"
            " num_layers_in_first_pipeline_stage / num_layers_in_last_pipeline_stage, or list the"
            f" layers of every stage in {LAYOUT}"
        )
    ranks = [even if count is None else count for count in counts]
    if uneven := [count for count in ranks if count % virtual]:
        raise UserError(
            f"{uneven[0]} layers of a pipeline rank do not divide among its {virtual} virtual"
            f" stages (pp={pp}, num_layers={num_layers}); choose a {VIRTUAL} that divides, or list"
            f" the layers of every stage in {LAYOUT}"
        )
    stages = [count // virtual for count in ranks] * virtual
    stages[0] -= embedding
    stages[-1] -= loss
    return stages
