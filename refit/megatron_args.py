"""Megatron-LM's flags as the job of `refit.run` that is the same, and a job as Megatron's flags.

  python -m refit.megatron_args -- --tensor-model-parallel-size 2 ... --refit-method nvshmem
  python -m refit.megatron_args -- torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 32 ...
  python -m refit.megatron_args --file train.sh NNODES=2       a script, read and never run
  python -m refit.megatron_args - < train.sh                   the same, from stdin
  python -m refit.megatron_args --run --file train.sh          and run what it is
  python -m refit.megatron_args --from 'model=moe_8e refit=nccl'

The first line that is printed is the command; the others begin with # and say what was left out,
with its kind, and what was taken for granted. With --from it is a command for Megatron-LM's
examples/rl/benchmark_refit.py.

Flags are those of megatron-core 0.17 to 0.19. What none of them says is Megatron's own default, not
a shipped model's. Flags of data, tokenizer, optimizer, logging and the like have no bearing on a
refit and are named. A flag that changes which weights there are, and that is not modelled here, is
refused; so is one that is misspelt. Flags that give no whole model change refit.run's own.

The source has the flags of training, the destination those with --rl-inference-; what these leave
open is as the source has it. Without --refit-mode the sides are collocated. GPUs: collocated, both
sides lie on the world that torchrun is given, or --gpus, in as many replicas as fit; where nothing
says it, each has one replica of tp*cp*pp*ep. Non-collocated, each has one replica always, and what
is left of the world is idle: so the benchmark has it. The benchmark's warm-up counts the first,
cold refit, and bench.warmup does not.

Of a script, assignments, arrays, ${NAME:-default} and `if` on a variable are read; NAME=VALUE
before the flags sets a variable as in the environment. Flags behind a file are added to its
command.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refit import compose, program
from refit.errors import UserError
from refit.importers import options, read, script, write
from refit.importers.megatron_lm import has_flags, world_of
from refit.rules.impossible import impossible


@dataclass(frozen=True)
class Asked:
    """The command line: where the flags are, and what is to become of them."""

    file: str | None
    overrides: str | None
    run: bool
    gpus: int | None
    variables: dict[str, str]
    words: list[str]


def asked_for(arguments: Sequence[str]) -> Asked:
    """The command line's own options, and the flags behind them.

    Raises:
        UserError: a number of GPUs is none, or there is nothing to translate, or two things.
    """
    own, words = _own(list(arguments))
    parser = program.parser("refit.megatron_args", __doc__)
    parser.usage = "%(prog)s [options] [NAME=VALUE ...] [-- FLAGS ...]"
    parser.add_argument("--file", metavar="FILE", help="a script with the flags; - is stdin")
    parser.add_argument("--from", dest="overrides", metavar="OVERRIDES", help="of refit.run")
    parser.add_argument("--run", action="store_true", help="run the command; its exit code is kept")
    parser.add_argument("--gpus", metavar="N", help="that the command is started on")
    parser.add_argument("variables", metavar="NAME=VALUE", nargs="*", help="as in the environment")
    found = parser.parse_args(own)
    variables = [word for word in found.variables if word != "-"]
    file = "-" if "-" in found.variables else found.file
    if found.gpus is not None and (not found.gpus.isdecimal() or int(found.gpus) < 1):
        raise UserError(f"--gpus {found.gpus} is not a number of 1 or more")
    if found.overrides is not None and (file or words or variables or found.run):
        raise UserError("--from takes overrides and nothing else; leave out the flags, or --from")
    if found.overrides is None and not file and not words:
        raise UserError(
            "no flags: give them behind --, a script by --file FILE, or - for stdin; --help says"
            " more"
        )
    return Asked(
        file=file,
        overrides=found.overrides,
        run=found.run,
        gpus=int(found.gpus) if found.gpus else None,
        variables=dict(word.split("=", 1) for word in variables),
        words=words,
    )


def _own(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is ours, and what is a command: from `--`, or from the first word that is not ours."""
    at = 0
    while at < len(arguments):
        word = arguments[at]
        name = word.partition("=")[0]
        if word == "--":
            return arguments[:at], arguments[at + 1 :]
        if name in ("--file", "--from", "--gpus"):
            at += 1 if "=" in word else 2
        elif name in ("--run", "--help", "-h", "--version", "-") or re.match(
            r"[A-Za-z_]\w*=", word
        ):
            at += 1
        else:
            return arguments[:at], arguments[at:]
    return arguments, []


def command_of(asked: Asked) -> script.Command:
    """The command with the flags.

    Raises:
        UserError: a file cannot be read, or has no such command.
    """
    if asked.file is None:
        found = script.command_of(asked.words, asked.variables)
        if not found.arguments:
            raise UserError(f"{asked.words[0]} is no flag of Megatron's; --help says what is read")
        return found
    try:
        text = sys.stdin.read() if asked.file == "-" else Path(asked.file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{asked.file} cannot be read: {error}") from None
    try:
        found = script.read(text, asked.variables, has_flags)
    except UserError as error:
        raise UserError(f"{'stdin' if asked.file == '-' else asked.file}: {error}") from None
    found.arguments += asked.words
    return found


def translate(asked: Asked) -> tuple[list[str], list[str]]:
    """The overrides, and the remarks.

    Raises:
        UserError: see `read.read`.
    """
    command = command_of(asked)
    reading = read.read(command.arguments, asked.gpus or world_of(command))
    overrides = options.overrides(reading)
    remarks = [f"no bearing, {kind}: {'  '.join(f)}" for kind, f in reading.left_out.items()]
    for name, value in command.environment.items():
        remarks.append(f"not carried, environment: {name}={value}")
    remarks += [f"not read, its condition does not hold: {block}" for block in command.skipped]
    remarks += reading.notes
    with compose.configs():
        if reason := impossible(compose.job(overrides)):
            remarks.append(
                f"refit.run will refuse it, as Megatron does or for want of GPUs: {reason}"
            )
    return overrides, remarks


def main(arguments: Sequence[str]) -> None:
    """Print the command and the remarks, or run it.

    Raises:
        UserError: there are no flags, or they cannot be translated.
    """
    asked = asked_for(arguments)
    if asked.overrides is not None:
        with compose.configs():
            words = shlex.split(asked.overrides)
            method = [word for word in words if word.startswith("refit=")]
            written = write.write(job := compose.job(words), compose.job(method))
        _print(written.command(job.cluster.ranks_per_node), written.notes)
        return
    overrides, remarks = translate(asked)
    _print(["python", "-m", "refit.run", *overrides], remarks)
    if asked.run:
        from refit import run

        sys.stdout.flush()
        sys.argv[1:] = overrides
        run.main()


def _print(words: Sequence[str], remarks: Sequence[str]) -> None:
    print(shlex.join(words))
    for remark in remarks:
        print(f"# {remark}")


if __name__ == "__main__":
    program.exit_with(main)
