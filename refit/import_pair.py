"""A launch script as a pair of layouts: `python -m refit.import_pair run-qwen3-235B-A22B.sh`.

  python -m refit.import_pair run-moonlight-16B-A3B.sh              the YAML, on stdout
  python -m refit.import_pair run.sh ACTOR_TP=8 2=0                 with variables, and its $2
  python -m refit.import_pair grpo.yaml cluster.num_nodes=4         with values of a YAML file
  python -m refit.import_pair 'sglang:d4t8+megatron:d2p2t4e4'       AReaL's allocation string
  python -m refit.import_pair run.sh --name mine --output my_conf   my_conf/parallel/mine.yaml

Read are shell scripts of slime, miles, verl and Megatron-LM, and YAML files of NeMo-RL (with those
that they start from), AReaL and ROLL. Nothing is run, nothing is downloaded, and neither torch nor
the framework is needed. ${NAME:-default} is put in; what else only a shell can say is refused by
name where it says where weights lie, and so is a key of that kind that is not known.

What of the script is not in the pair is written into the YAML's header, with the source and its
sha256: sequence parallelism, which changes no weights; LoRA, FP8 and the like, which do. The model
is the shipped one of the script's name; of any other, python -m refit.import_model makes one.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refit import program
from refit.errors import UserError
from refit.importers import areal, megatron_lm, nemo_rl, options, roll, slime, verl, yaml_values
from refit.importers.pair import Pair, option_name, shipped
from refit.job import Cluster, Job, Refit
from refit.layout.layout import Placement
from refit.layout.place import place
from refit.model_config import Model
from refit.record.point import write_atomic
from refit.rules.impossible import impossible

SHELL = (slime, verl)
"""Dialects of shell scripts; what is none of them is Megatron-LM's."""
YAML = (nemo_rl, roll, areal)
"""Dialects of YAML files."""


@dataclass(frozen=True)
class Asked:
    """The command line.

    Attributes:
        source: a file, or an allocation string.
        variables: NAME=VALUE.
    """

    source: str
    variables: Mapping[str, str]
    ignored: tuple[str, ...]
    name: str
    model: str | None
    output: Path | None


def asked_for(arguments: Sequence[str]) -> Asked:
    """The command line's parts.

    Raises:
        UserError: a word is no NAME=VALUE, or the name cannot be one.
    """
    parser = program.parser("refit.import_pair", __doc__)
    parser.add_argument("file", metavar="FILE", help="a script, or AReaL's allocation string")
    parser.add_argument("values", metavar="NAME=VALUE", nargs="*", help="that the script lacks")
    parser.add_argument("--name", help="of the pair; by default of the file")
    parser.add_argument("--model", metavar="NAME", help="option of the model whose pair it is")
    parser.add_argument("--output", metavar="DIR", type=Path, help="writes DIR/parallel/NAME.yaml")
    parser.add_argument("--ignore", metavar="KEY", action="append", default=[],
                        help="that says nothing of where weights lie; may be repeated")  # fmt: skip
    asked = parser.parse_intermixed_args(arguments)
    for word in asked.values:
        if not re.match(r"[\w.]+=", word):
            raise UserError(f"{word} is no NAME=VALUE: a variable of the script, or a key of it")
    stem = "allocation" if areal.is_string(asked.file) else Path(asked.file).stem
    name = asked.name or option_name(stem)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise UserError(f"--name {name}: letters, digits, _ . and - alone")
    variables = dict(word.split("=", 1) for word in asked.values)
    return Asked(asked.file, variables, tuple(asked.ignore), name, asked.model, asked.output)


def read(asked: Asked) -> tuple[Pair, str]:
    """The pair that was asked for, and the sha256 of what it was read from.

    Raises:
        UserError: it cannot be read, or is not of a kind that is known.
    """
    if areal.is_string(asked.source):
        return areal.of_string(asked.source, asked.model), hashlib.sha256(
            asked.source.encode()
        ).hexdigest()
    path = Path(asked.source)
    try:
        content = path.read_bytes()
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {said}") from None
    try:
        found = (
            _of_yaml(path, asked) if path.suffix in (".yaml", ".yml") else _of_shell(text, asked)
        )
    except UserError as error:
        shown = str(error)
        raise UserError(shown if shown.startswith(str(path)) else f"{path}: {shown}") from None
    return found, hashlib.sha256(content).hexdigest()


def _of_shell(text: str, asked: Asked) -> Pair:
    for dialect in SHELL:
        if dialect.is_one(text):
            return dialect.read(text, asked.variables, asked.ignored)
    if not megatron_lm.has_flags(text.split()):
        raise UserError(
            "it is no script of slime or miles (--rollout-num-gpus-per-engine), verl"
            " (actor_rollout_ref.*) or Megatron-LM (--tensor-model-parallel-size)"
        )
    return megatron_lm.pair_of(text, asked.variables, asked.ignored)


def _of_yaml(path: Path, asked: Asked) -> Pair:
    keys = yaml_values.loaded(path).keys()
    for dialect in YAML:
        if dialect.is_one(keys):
            return dialect.read(path, asked.variables, asked.ignored)
    raise UserError(
        "it is no config of NeMo-RL (policy), ROLL (actor_train) or AReaL (actor and rollout)"
    )


# -- what it comes to


def job_of(pair: Pair, name: str, option: str | None) -> Job:
    """A job of a pair, to plan it.

    Args:
        option: of a shipped model; None: a model that any layout can cut.

    Raises:
        UserError: a field of a side has a value that it cannot have.
    """
    any_model = Model(name="any", num_layers=1, hidden_size=1, num_attention_heads=1, vocab_size=1,
                      num_moe_experts=1)  # fmt: skip
    model = any_model if option is None else options.models()[option]
    cluster = Cluster(name="any", ranks_per_node=pair.per_node)
    job = Job(cluster=cluster, mode="plan", build="shards", refit=Refit(name="gloo", method="gloo"))
    values = {**job.to_dict(), "model": asdict(model)}
    return Job.from_dict({**values, "parallel": parallel(pair, name, None)})


def parallel(pair: Pair, name: str, model: str | None) -> dict[str, Any]:
    """The fields of `Parallel`."""
    values: dict[str, Any] = {"name": name}
    if model is not None:
        values["model"] = model
    values |= {"use_case": f"{pair.framework}: {name}", "mode": pair.mode, "source": pair.source}
    if len(pair.destinations) == 1:
        return {**values, "destination": pair.destinations[0]}
    return {**values, "destination": None, "destinations": pair.destinations}


def text_of(pair: Pair, asked: Asked, sha256: str, placement: Placement) -> str:
    """The YAML file: what it is, where it is from, and what of it is left out."""
    option, model = _models(pair, asked)
    head = [
        *_wrapped(
            f"{pair.framework}'s {Path(asked.source).name}: {_in_words(placement)}. Run with"
        ),
        f"#   {command(pair, asked)}",
        *_wrapped(f"Imported from {asked.source}{_given(asked)}"),
        f"# sha256 {sha256}",
    ]
    if pair.model and model != asked.model:
        head += _wrapped(f"Its model is {pair.model}")
    head += [line for what in pair.left_out for line in _wrapped(f"Left out: {what}")]
    if option is not None:
        head += ["defaults:", f"  - override /model@_global_.model: {option}"]
    for key, value in parallel(pair, asked.name, model).items():
        if key == "destinations":
            head += ["destinations:", *(f"  - {_in_yaml(side)}" for side in value)]
        else:
            head.append(
                f"{key}: {_in_yaml(value) if key not in ('name', 'mode', 'model') else value}"
            )
    return "\n".join(head) + "\n"


def _models(pair: Pair, asked: Asked) -> tuple[str | None, str | None]:
    """The shipped option, which the pair then brings; and the name of the pair's model."""
    wanted = asked.model or (pair.model and (shipped(pair.model) or option_name(pair.model)))
    return (wanted if wanted in options.models() else None), wanted or None


def command(pair: Pair, asked: Asked) -> str:
    """What to type next."""
    option, model = _models(pair, asked)
    words = ["python -m refit.run", f"--config-dir {asked.output or 'DIR'}"]
    words += [f"parallel={asked.name}", "mode=plan", "build=shards", "cluster=h100"]
    if option is None:
        words.append(f"model={model or 'NAME'}")
    if pair.per_node != 8:
        words.append(f"cluster.ranks_per_node={pair.per_node}")
    return " ".join(words)


def _in_words(placement: Placement) -> str:
    return "; ".join(placement.header())


def _given(asked: Asked) -> str:
    return "".join(f" {name}={value}" for name, value in asked.variables.items())


def _wrapped(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, 98, break_on_hyphens=False):
        yield f"# {line}"


def _in_yaml(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{key}: {_in_yaml(one)}" for key, one in value.items())
        return f"{{{inside}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_in_yaml, value))}]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w-]*", value)
    return value if plain else json.dumps(value)


def main(arguments: Sequence[str]) -> None:
    """Print the YAML or write it.

    Raises:
        UserError: the script cannot be imported.
    """
    asked = asked_for(arguments)
    pair, sha256 = read(asked)
    option, model = _models(pair, asked)
    try:
        job = job_of(pair, asked.name, option)
        placement = place(job)
    except UserError as error:
        way_out = (
            f"; put {pair.etp}=1 behind the file" if pair.etp and "etp=1" in str(error) else ""
        )
        raise UserError(f"{asked.source}: {error}{way_out}") from None
    if option is not None and (reason := impossible(job)):
        pair.left_out.append(f"refit.run will refuse it as it is: {reason}")
    text = text_of(pair, asked, sha256, placement)
    if asked.output is None:
        print(text, end="")
        return
    path = asked.output / "parallel" / f"{asked.name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    for what in pair.left_out:
        print(f"left out: {what}")
    print(f"{path}: {_in_words(placement)}")
    if option is None and not (asked.output / "model" / f"{model}.yaml").exists():
        print(
            f"python -m refit.import_model config.json --output {asked.output} --name"
            f" {model or 'NAME'}" + (f"  # of {pair.model}" if pair.model else "")
        )
    print(command(pair, asked))


if __name__ == "__main__":
    program.exit_with(main)
