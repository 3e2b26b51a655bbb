"""A point run by an agent, and its record as any reader of the file finds it."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonschema

from refit.job import Degrees, Job
from refit.layout.place import place
from refit.model.convention import has_transformer_engine
from refit.model_config import Model
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.record.record import SCHEMA
from refit.record.report import WHOLE_CHECKS
from tests.support import oracle

CHECKER = jsonschema.Draft202012Validator(
    json.loads(SCHEMA.read_text()), format_checker=jsonschema.FormatChecker()
)


def ran(agent: Agent, folder: Path, what: Job) -> dict[str, Any]:
    """Run a job; its timing.json, which obeys the schema and is what the agent returned."""
    point = Point.of(what, folder)
    returned = agent.measure_point(point)
    record: dict[str, Any] = json.loads(point.timing.read_text())
    CHECKER.validate(record)
    assert asdict(returned) == record
    return record


def verified(agent: Agent, folder: Path, what: Job) -> dict[str, Any]:
    """Run a job that must end with right weights; its record."""
    record = ran(agent, folder, what)
    check_verified(record)
    return record


def check_verified(record: dict[str, Any]) -> None:
    """The record is ok, and every element of each destination was looked at as often as is said."""
    assert (record["status"], record["reason"]) == ("ok", "")
    checked = record["verification"]
    elements = [WHOLE_CHECKS * count for count in _elements(record)]
    assert (checked["elements"], checked["mismatches"]) == (sum(elements), 0)
    if checked["per_destination"] is not None:
        assert [each["elements"] for each in checked["per_destination"]] == elements


def _elements(record: dict[str, Any]) -> list[int]:
    """Elements that the ranks of each destination must hold."""
    what = Job.from_dict(record["config"])
    placement = place(what)
    local_spec = what.build == "megatron" and not has_transformer_engine()
    # of the vocabulary, what all sides have
    source, *destinations = what.parallel.sides.values()
    rows = min(_rows(what, side) for side in (source, *destinations))
    model = replace(what.model, vocab_size=rows)
    found = []
    for side, held in zip(destinations, placement.destinations, strict=True):
        if side.share_embeddings_and_output_weights is False:
            untied = replace(model, share_embeddings_and_output_weights=False)
            tensors = oracle.specs(untied, padded=False, local_spec=local_spec)
        else:
            tensors = oracle.specs(model, padded=False, local_spec=local_spec)
        if side.kind != "fsdp":
            alike = sum(oracle.elements(model, tensors, held, rank) for rank in held.ranks)
            found.append(alike + (_copied(model, side) if side.kind == "engine" else 0))
            continue
        # each replica has each parameter once, each rank every buffer
        replicas = held.gpus // (side.shard or held.gpus)
        found.append(
            sum(
                math.prod(spec.shape) * (held.gpus if name.endswith("expert_bias") else replicas)
                for name, spec in tensors.items()
            )
        )
    return found


def _copied(model: Model, side: Degrees) -> int:
    """Elements of keys and values that an engine's ranks have more than a cut gives them."""
    groups = model.num_query_groups or model.num_attention_heads
    size = model.kv_channels or model.hidden_size // model.num_attention_heads
    replicas = (side.gpus or side.tp * side.ep) // side.tp
    return replicas * max(0, side.tp - groups) * 2 * size * model.hidden_size * model.num_layers


def _rows(what: Job, side: Degrees) -> int:
    """Of the vocabulary on one side; a destination that says nothing has its source's."""
    model, source = what.model, what.parallel.source
    own = side.make_vocab_size_divisible_by
    if own is None and side.kind == "engine":
        return next(n for n in itertools.count(model.vocab_size) if not n % 64 and not n % side.tp)
    if own is None and side is not source:
        return _rows(what, source)
    if own is None:
        own = 1 if side.kind == "fsdp" else model.make_vocab_size_divisible_by
    rows = model.vocab_size
    while rows % (own * side.tp):
        rows += 1
    return rows
