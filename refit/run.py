"""`python -m refit.run`, or `refit-sweep run`: Hydra's entry, and nothing else worth reading."""

from __future__ import annotations

from typing import NoReturn

import hydra
from omegaconf import DictConfig

from refit import cli, schema

schema.register()


@hydra.main(version_base="1.3", config_path=str(schema.CONF), config_name="config")
def run(config: DictConfig) -> float | None:
    """One point, and its objective; our own launcher does not come here."""
    return cli.run_point(config)


def main() -> NoReturn:
    """Run it, and exit."""
    cli.guarded(run)


if __name__ == "__main__":
    main()
