"""A point run by an agent, and its record as any reader of the file finds it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema

from refit.job import Job
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.record.record import SCHEMA

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
