"""Records as runs of MLflow: config as parameters, times as metrics, timing.json as artefact."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from refit.errors import UserError
from refit.record.record import Record
from sweeper.export.flat import metrics, parameters, tags

LONGEST = 6000
"""Characters of a parameter's value that MLflow takes."""


def export(records: Sequence[tuple[Path, Record]], uri: str, experiment: str) -> int:
    """Log each record that the experiment does not have yet; how many those are.

    Args:
        records: with their files.
        uri: of the tracking server or store: http://..., sqlite:///...

    Raises:
        UserError: mlflow is not installed, or it refuses the store.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise UserError("--mlflow needs mlflow: pip install 'refit-sweep[mlflow]'") from None
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        owner = found.experiment_id if found else client.create_experiment(experiment)
        return sum(_log(client, owner, path, record) for path, record in records)
    except MlflowException as error:
        raise UserError(f"--mlflow {uri}: {str(error).splitlines()[0]}") from None


def _log(client: Any, experiment: str, path: Path, record: Record) -> bool:
    """Log a record, unless it is there; by its tag, so that a second export adds what is new."""
    said = tags(record)
    if client.search_runs([experiment], f"tags.record = '{said['record']}'", max_results=1):
        return False
    run = client.create_run(
        experiment, start_time=_ms(record.started_at), tags=said, run_name=record.name
    )
    for name, value in parameters(record).items():
        client.log_param(run.info.run_id, name, value[:LONGEST])
    for name, number in metrics(record).items():
        client.log_metric(run.info.run_id, name, number)
    for step, seconds in enumerate(record.seconds.warm if record.seconds else ()):
        client.log_metric(run.info.run_id, "refit_s", seconds, step=step)
    client.log_artifact(run.info.run_id, str(path))
    client.set_terminated(
        run.info.run_id,
        "FINISHED" if record.status in ("ok", "imported") else "FAILED",
        end_time=_ms(record.finished_at),
    )
    return True


def _ms(text: str) -> int | None:
    return int(1e3 * datetime.fromisoformat(text).timestamp()) if text else None
