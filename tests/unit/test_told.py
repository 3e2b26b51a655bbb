"""What the environment tells a config is used, and nowhere written down."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from refit.cli import job_of
from refit.errors import UserError
from refit.job import Job
from refit.record.point import Point, identity
from refit.record.record import Record, begin, write
from refit.told import options_as_written
from tests.support.jobs import job

SECRET = "hf_not_to_be_seen"


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job that the environment tells a token and an account, as it is composed."""
    monkeypatch.setenv("TOKEN", SECRET)
    config = OmegaConf.create(job().to_dict())
    config.cluster.env = {"HF_TOKEN": "${oc.env:TOKEN}", "PLAIN": "x"}
    config.cluster.slurm = {
        "account": "a-${oc.env:TOKEN}",
        "comment": "${oc.env:NO_SUCH_VARIABLE,none}",
        "setup": ["echo ${oc.env:TOKEN}"],
    }
    return job_of(config)


def test_a_job_has_the_value_and_its_files_what_was_asked(asking: Job, tmp_path: Path) -> None:
    assert asking.cluster.env == {"HF_TOKEN": SECRET, "PLAIN": "x"}
    assert asking.cluster.slurm["account"] == f"a-{SECRET}"
    assert asking.cluster.slurm["setup"] == ["echo ${oc.env:TOKEN}"]  # the shell's own
    for copied in (copy.deepcopy(asking), pickle.loads(pickle.dumps(asking)), replace(asking)):
        point = Point.of(copied, tmp_path)
        point.freeze()
        write(point.timing, begin(point, {}))
        for file in (point.frozen, point.timing):
            text = file.read_text()
            assert SECRET not in text
            config = json.loads(text)["config"]
            assert config["cluster"]["env"] == {"HF_TOKEN": "${oc.env:TOKEN}", "PLAIN": "x"}
            assert config["cluster"]["slurm"]["comment"] == "${oc.env:NO_SUCH_VARIABLE,none}"
        assert Record.find(point.timing)


def test_a_point_that_is_loaded_asks_again(
    asking: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = Point.of(asking, tmp_path)
    point.freeze()
    loaded = Point.load(point.directory)
    assert loaded.job == asking and loaded.id == point.id == identity(asking)
    loaded.freeze()
    assert SECRET not in point.frozen.read_text()
    assert point.frozen.stat().st_mode & 0o077 == 0  # it has variables: whose, is nobody's business
    monkeypatch.delenv("TOKEN")
    with pytest.raises(UserError, match="asks for the environment variable 'TOKEN', which is not"):
        Point.load(point.directory)


def test_what_sbatch_was_given_has_what_was_asked(asking: Job) -> None:
    lines = [f"--account=a-{SECRET}", "--comment=none", "--time=10", "--exclusive"]
    assert options_as_written(lines, asking.cluster.slurm) == [
        "--account=a-${oc.env:TOKEN}", "--comment=${oc.env:NO_SUCH_VARIABLE,none}", "--time=10",
        "--exclusive",
    ]  # fmt: skip
