"""A Hugging Face config.json as a model of ours: `python -m refit.import_model config.json`.

  python -m refit.import_model Qwen3-8B/config.json                       the YAML, on stdout
  python -m refit.import_model config.json --name mine --output my_conf   my_conf/model/mine.yaml
  python -m refit.import_model config.json --published 8190735360         held to that count

Every key of the file is read, known to carry no weights, or refused by name; so is a model_type
that is not known, or whose weights are not modelled. What the class has where the file says nothing
is written into the YAML's header, with the source, its sha256, the count and what of the model is
left out (layers of multi-token prediction, but for --with-mtp; other towers). The count stays in
the YAML as model.published_parameters: a field that is changed later and changes it is refused.
Nothing is downloaded and nothing but the file is read; neither torch nor transformers is needed.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from refit import program
from refit.errors import UserError
from refit.job import Job
from refit.model.hf.read import Imported, imported
from refit.model.parameters import Parameters, count
from refit.model_config import Model
from refit.record.files import write_output
from refit.rules.model import MODEL
from refit.rules.values import VALUES


def model_of(found: Imported, name: str) -> Model:
    """The model that a config says.

    Raises:
        UserError: it is one that cannot be.
    """
    model = Model(name=name, **found.fields)
    job = Job(model=model, mode="plan", build="shards")
    for rule in VALUES + MODEL:
        if reason := rule(job):
            raise UserError(reason)
    return model


def read(path: Path, ignore: Sequence[str], more_tokens: bool) -> tuple[Imported, str]:
    """A file's config, and the sha256 of its bytes.

    Raises:
        UserError: it cannot be read, is no JSON object, or cannot be imported.
    """
    try:
        content = path.read_bytes()
        values = json.loads(content)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no JSON object, as a config.json is")
    try:
        found = imported(values, frozenset(ignore), more_tokens)
        return found, hashlib.sha256(content).hexdigest()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def text_of(model: Model, found: Imported, source: str, sha256: str) -> str:
    """The YAML file: what it is, where it is from, and what differs from Megatron's defaults."""
    parameters = count(model)
    head = [
        *_wrapped(f"{model.name} ({found.model_type}): {parameters}. Run it with"),
        f"#   python -m refit.run model={model.name}",
        f"# Imported from {source}",
        f"# sha256 {sha256}",
    ]
    if found.implied:
        said = ", ".join(f"{key}={json.dumps(value)}" for key, value in found.implied.items())
        head += _wrapped(f"The file does not say, and its class has: {said}")
    head += [line for what in found.left_out for line in _wrapped(f"Left out: {what}")]
    return "\n".join([*head, *_values(model, parameters)]) + "\n"


def _wrapped(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 98, break_on_hyphens=False)]


def _values(model: Model, parameters: Parameters) -> Iterator[str]:
    """A line for each field that is not Megatron's default, and for those that have none."""
    yield f"name: {model.name}"
    yield f"published_parameters: {parameters.total}  # as counted when it was imported"
    for one in fields(Model):
        value = getattr(model, one.name)
        if one.name not in ("name", "published_parameters") and value != one.default:
            yield f"{one.name}: {_in_yaml(value)}"


def _in_yaml(value: Any) -> str:
    """As YAML 1.1 reads it back: an exponent has a dot before it."""
    if isinstance(value, float) and "e" in (text := repr(value)) and "." not in text:
        return text.replace("e", ".0e")
    return json.dumps(value)


def name_for(path: Path) -> str:
    """Of the folder where the file is called config.json, else of the file: `qwen3_8b`."""
    stem = path.resolve().parent.name if path.name == "config.json" else path.stem
    return re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_") or "imported"


def main(arguments: Sequence[str]) -> None:
    """Print the YAML or write it.

    Raises:
        UserError: the file cannot be imported, or has another count.
    """
    parser = program.parser("refit.import_model", __doc__)
    parser.add_argument("file", metavar="config.json", type=Path)
    parser.add_argument("--name", help="of the model; by default of the file's folder")
    parser.add_argument("--output", metavar="DIR", type=Path, help="writes DIR/model/NAME.yaml")
    parser.add_argument("--published", metavar="N", help="the parameters that it must have")
    parser.add_argument("--ignore", metavar="KEY", action="append", default=[],
                        help="that you know to carry no weights; may be repeated")  # fmt: skip
    parser.add_argument(
        "--with-mtp", action="store_true", help="with the layers of multi-token prediction"
    )
    asked = parser.parse_args(arguments)
    name = asked.name or name_for(asked.file)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise UserError(f"--name {name}: letters, digits, _ . and - alone")
    found, sha256 = read(asked.file, asked.ignore, asked.with_mtp)
    model = model_of(found, name)
    total = count(model).total
    if asked.published is not None and re.sub("[_,]", "", asked.published) != str(total):
        raise UserError(
            f"{asked.file} has {total:,} parameters, and --published says {asked.published}; with"
            " --output and without it, python -m refit.model prints all tensors"
        )
    text = text_of(model, found, str(asked.file), sha256)
    if asked.output is None:
        print(text, end="")
        return
    path = asked.output / "model" / f"{name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    for what in found.left_out:
        print(f"left out: {what}")
    print(f"{path}: {count(model)}")
    print(f"python -m refit.run --config-dir {asked.output} mode=plan model={name}")


if __name__ == "__main__":
    program.exit_with(main)
