"""Megatron-LM's own commands as a pair: the flags of training, and those with --rl-inference-."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from refit.errors import UserError
from refit.importers import flags, options, read, script
from refit.importers.pair import SEQUENCE_PARALLEL, Pair


def has_flags(words: Sequence[str]) -> bool:
    """Whether the words of a command have one of Megatron's flags."""
    return any(word.startswith("--") and flags.known(word[2:].partition("=")[0]) for word in words)


def world_of(command: script.Command) -> int | None:
    """GPUs that torchrun starts the command on, where it is said in numbers."""
    per_node = command.launched("--nproc-per-node")
    if per_node is None or not per_node.isdecimal():
        return None
    nodes = command.launched("--nnodes") or "1"
    return int(per_node) * int(nodes) if nodes.isdecimal() else None


def pair_of(text: str, variables: Mapping[str, str], ignored: Collection[str]) -> Pair:
    """The pair of a script.

    Raises:
        UserError: see `read.read`; or a flag is to be ignored, which Megatron's are not.
    """
    if ignored:
        raise UserError(f"--ignore {min(ignored)}: all of Megatron's flags are known; leave it out")
    command = script.read(text, variables, has_flags)
    reading = read.read(command.arguments, world_of(command))
    # not of the method, which is no pair's, nor how the other program is told of GPUs
    notes = [note.partition("; --gpus")[0] for note in reading.notes]
    left_out = [note for note in notes if "--refit-method" not in note]
    if "--sequence-parallel" in [flag for each in reading.left_out.values() for flag in each]:
        left_out.append(SEQUENCE_PARALLEL)
    if not any(name.startswith("--rl-inference-") for name in command.arguments):
        left_out.append(
            "no --rl-inference- flag: the destination is as the source, as Megatron has it; set"
            " parallel.destination.tp and the others"
        )
    model, of_model = options.model_of(reading)
    exact = reading.whole and len(of_model) == 1
    if not exact:
        left_out.append("the model's flags: python -m refit.megatron_args --file says its fields")
    return Pair(
        framework="Megatron-LM",
        source=reading.source,
        destinations=[reading.destination],
        mode=reading.mode,
        model=model if exact else None,
        left_out=left_out,
    )
