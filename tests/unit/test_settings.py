"""Hydra's settings: all are in the table, the docs print it, and some are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.conf import HydraConf, JobConf, RunDir, SweepDir
from omegaconf import OmegaConf

from refit import settings
from refit.settings import SETTINGS, Refused

DOCS = Path(__file__).parents[2] / "docs"


def hydra(*words: str, **values: Any) -> Any:
    """The node of a config as the command line and the shipped files make it."""
    node = OmegaConf.structured(HydraConf())
    shipped: dict[str, Any] = {
        "sweep": {"dir": "results", "subdir": "."},
        "run": {"dir": "results"},
        "output_subdir": None,
        "job": {"chdir": False},
        "callbacks": {"refit": {"_target_": "refit.cli.Ending"}},
        "sweeper": {
            "_target_": "hydra_plugins.refit_sweeper.RefitSweeper",
            "max_batch_size": None,
            "params": None,
        },
        "launcher": {"_target_": "hydra_plugins.refit_sweeper.RefitLauncher"},
        "runtime": {"choices": {"hydra/job_logging": "stdout"}},
        "overrides": {"hydra": list(words)},
    }
    merged = OmegaConf.merge(node, shipped)
    for name, value in values.items():
        OmegaConf.update(merged, name.replace("__", "."), value)
    return merged


def test_the_docs_print_the_table() -> None:
    assert settings.table() in (DOCS / "hydra.md").read_text()


def test_every_setting_of_hydras_is_in_the_table() -> None:
    def names(cls: Any, path: str = "") -> set[str]:
        return {f"{path}{field.name}" for field in fields(cls)}

    nested = {"run": RunDir, "sweep": SweepDir, "job": JobConf}
    asked = names(HydraConf) - nested.keys() - {"defaults"}  # which groups there are, no setting
    asked |= {name for key, cls in nested.items() for name in names(cls, f"{key}.")}
    assert all(is_dataclass(cls) for cls in nested.values())
    assert asked - {setting.name for setting in SETTINGS} == set()


@pytest.mark.parametrize(
    ("words", "values", "is_sweep", "reason"),
    [
        ("hydra.run.dir=x", {}, True, "hydra.run.dir=x has no effect in a sweep: a sweep's points"),
        ("hydra.sweep.dir=x", {}, False, "hydra.sweep.dir=x has no effect in a single run"),
        ("hydra.run.dir=x hydra.sweep.dir=x", {}, True, None),
        ("hydra.run.dir=x hydra.sweep.dir=x", {}, False, None),
        ("hydra.run.dir=x", {}, False, None),
        ("", {"sweep__subdir": "${hydra.job.num}"}, True, "hydra.sweep.subdir="),
        ("hydra.sweep.subdir=x", {"sweep__subdir": "x"}, False, "hydra.sweep.subdir=x has no"),
        ("", {"job__chdir": True}, True, "hydra.job.chdir=True has no effect in a sweep"),
        ("hydra.job.chdir=true", {"job__chdir": True}, False, "hydra.job.chdir=true has no effect"),
        ("hydra.job.chdir=null", {"job__chdir": None}, False, None),
        ("hydra.job.num=3", {}, True, "${hydra:job.num} is the number"),
        ("hydra.job.num=3", {}, False, None),
        ("+hydra.job.id=3", {}, True, "hydra.job.id=3 has no effect in a sweep"),
        ("hydra.runtime.cwd=/x", {}, False, "Hydra fills it in itself"),
        ("++hydra.overrides.task=[]", {}, True, "Hydra fills it in itself"),
        ("hydra.job.name=x hydra.verbose=true", {}, True, None),
        ("hydra/launcher=basic", {}, False, "add -m"),
        ("", {"sweeper__params": {"seed": "1,2"}}, False, "a single run has no sweep; add -m"),
        ("", {"sweeper__params": {"seed": "1,2"}}, True, None),
        ("", {"sweeper__max_batch_size": 0}, True, "sweep.pack=..."),
        ("", {"sweeper__max_batch_size": 4}, True, "hydra.sweeper.max_batch_size=4 has no effect"),
        ("", {"job__env_set": {"OMP_NUM_THREADS": "1"}}, True, "a rank sets that itself"),
        ("", {"job__env_set": {"A": "1"}}, False, None),
        ("", {"launcher": {"_target_": "x.JoblibLauncher"}}, True, "use hydra/launcher=refit"),
        ("", {}, True, None),
        ("", {}, False, None),
    ],
)
def test_what_has_no_effect_is_refused(
    words: str, values: Mapping[str, Any], is_sweep: bool, reason: str | None
) -> None:
    said = settings.refused(hydra(*words.split(), **values), is_sweep)
    assert (said is None) if reason is None else (said is not None and reason in said), said


def test_another_sweeper_may_have_batches() -> None:
    node = hydra(sweeper__max_batch_size=2, sweeper___target_="x.Basic")
    assert settings.refused(node, is_sweep=True) is None


def test_what_is_refused_says_what_to_do() -> None:
    for setting in SETTINGS:
        for fate in (setting.run, setting.sweep, setting.slurm):
            assert not isinstance(fate, Refused) or len(fate.way_out.split()) > 4, setting


@pytest.mark.parametrize(
    ("words", "values", "is_plain"),
    [
        ("", {}, True),
        ("", {"job__env_set": {"A": "1"}}, False),
        ("", {"callbacks__mine": {"_target_": "x"}}, False),
        ("", {"output_subdir": ".hydra"}, False),
        ("", {"verbose": True}, False),
        ("", {"runtime__choices": {"hydra/job_logging": "default"}}, False),
        ("hydra.job_logging.root.level=DEBUG", {}, False),
        ("hydra.hydra_logging.root.level=DEBUG", {}, True),
    ],
)
def test_which_points_are_jobs_of_hydras(
    words: str, values: Mapping[str, Any], is_plain: bool
) -> None:
    assert settings.is_plain(hydra(*words.split(), **values)) is is_plain
