"""`python -m refit.run`: Hydra's entry, and nothing else worth reading."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from refit import cli, schema

schema.register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def run(config: DictConfig) -> None:
    """One point; a sweep (-m) goes through hydra_plugins/refit_sweeper and does not come here."""
    cli.run_one(config)


if __name__ == "__main__":
    cli.guarded(run)
