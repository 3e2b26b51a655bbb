"""Jobs as the command line composes them, for tests about the shipped config files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir

from refit import schema
from refit.cli import job_of
from refit.job import Job

CONF = Path(__file__).parents[1] / "conf"

PUBLIC = (
    "kimi_k2",
    "deepseek_v3",
    "qwen3_30b_a3b",
    "qwen3_235b_a22b",
    "mixtral_8x7b",
    "mixtral_8x22b",
    "gpt_oss_20b",
    "gpt_oss_120b",
    "glm45_355b",
    "glm45_air_106b",
    "llama31_8b",
    "llama31_70b",
)
"""The models whose parameter counts are published."""


@cache
def composed(*overrides: str) -> Job:
    """The job of some command-line overrides."""
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return job_of(compose("config", list(overrides)))


def family_layouts(model: str) -> list[str]:
    """The options of `parallel` that are this model's own: `<model>_<gpus>_...`."""
    return sorted(p.stem for p in (CONF / "parallel").glob(f"{model}_[0-9]*.yaml"))
