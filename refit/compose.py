"""Jobs of command-line overrides, for programs beside `refit.run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from refit import schema
from refit.cli import job_of
from refit.errors import UserError
from refit.job import Job
from refit.mistakes import in_words


@contextmanager
def configs() -> Iterator[None]:
    """Within it `job` may be called; Hydra reads the folder once."""
    schema.register()
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        yield


def job(overrides: Sequence[str]) -> Job:
    """The job that `refit.run` would make of these overrides.

    Raises:
        UserError: an option or field does not exist, or has a wrong type.
    """
    try:
        return job_of(compose("config", list(overrides)))
    except HydraException as error:
        raise UserError(in_words(error)) from None
    except OmegaConfBaseException as error:
        raise UserError(str(error)) from None
