"""Records as runs of Weights & Biases; offline ones are files until `wandb sync` sends them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from refit.errors import UserError
from refit.record.record import Record
from sweeper.export.flat import metrics, parameters, tags

Mode = Literal["offline", "online"]


def export(records: Sequence[tuple[Path, Record]], mode: Mode, project: str, folder: Path) -> int:
    """Log each record as a run; how many those are.

    Args:
        records: with their files.
        mode: offline, which needs no network, or online.
        folder: for wandb's files.

    Raises:
        UserError: wandb is not installed, or it refuses.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("--wandb needs wandb: pip install 'refit-sweep[wandb]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    for path, record in records:
        said = tags(record)
        try:
            run = wandb.init(
                project=project,
                name=record.name,
                # so that a second export of a record is the same run
                id="".join(c for c in said["record"] if c.isalnum()),
                mode=mode,
                dir=str(folder),
                config={**parameters(record), **said},
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            raise UserError(f"--wandb {mode}: {error}") from None
        for seconds in record.seconds.warm if record.seconds else ():
            run.log({"refit_s": seconds})
        run.summary.update(metrics(record))
        timing = wandb.Artifact(f"timing-{record.id}", type="timing")
        timing.add_file(str(path))
        run.log_artifact(timing)
        run.finish(exit_code=0 if record.status in ("ok", "imported") else 1)
    return len(records)
