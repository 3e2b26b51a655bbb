"""Where a point ran; with which code is of `test_code`."""

from __future__ import annotations

from contextlib import suppress

import pytest

from refit import __version__
from refit.record import environment
from refit.record.environment import SLURM, describe


def test_added_variables_are_there_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFIT_A", "before")
    monkeypatch.delenv("REFIT_B", raising=False)
    names = ("REFIT_A", "REFIT_B")
    with environment.added({"REFIT_A": 1, "REFIT_B": 0.5}):
        assert environment.variables(names) == {"REFIT_A": "1", "REFIT_B": "0.5"}
    assert environment.variables(names) == {"REFIT_A": "before"}
    with suppress(ZeroDivisionError), environment.added({"REFIT_A": 1}):
        raise ZeroDivisionError
    assert environment.variables(names) == {"REFIT_A": "before"}


def test_the_values_of_a_points_variables_are_digests() -> None:
    # the first ten digits of SHA-256, of "abc" from FIPS 180-4's example
    assert environment.with_variables({"B": "abc", "A": "1"}) == {
        "env_set": {"A": "6b86b273ff", "B": "ba7816bf8f"}
    }
    assert environment.with_variables({}) == {}


def test_what_slurm_says_of_the_job_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    found = describe()
    assert found["slurm"] == {} and found["refit_sweep"] == __version__
    assert (found["nodes"], found["partition"]) == ([found["host"]], None)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_JWT", "secret")
    assert describe()["slurm"] == {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]"}
    monkeypatch.setenv("SLURM_JOB_PARTITION", "low")
    assert (describe()["nodes"], describe()["partition"]) == (["n1", "n2"], "low")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n2")
    assert describe()["nodes"] == ["n2"]
    # of what runs elsewhere the controller's job says nothing
    there = environment.of_controller()
    assert (there["nodes"], there["partition"], there["slurm"]) == ([], None, {})
    assert there.keys() == describe().keys()
