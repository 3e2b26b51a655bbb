"""Hydra's callbacks and env_set where the point runs: in the job, and not in the controller."""

from __future__ import annotations

from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import ROW_4, Sweep
from tests.support.callbacks import asked, told

METHODS = ",".join(f"tests.support.faults:{name}" for name in ("SaysEnvironment", "Raises"))


def test_callbacks_and_env_set_are_in_the_job(cluster: Cluster, tmp_path: Path) -> None:
    path, own = tmp_path / "told", "${oc.env:SLURM_PROCID,controller}"
    asks = (*asked(path, "s${seed}"), f"+hydra.callbacks.t.who='{own}'")
    sweep = Sweep(cluster, tmp_path / "results", (ROW_4, f"refit.method={METHODS}", "seed=5"))
    code, said = sweep.run("sweep.pack=2", *asks)
    assert code == 1, said
    first, *jobs, last = told(path)
    assert (first["event"], last["event"]) == ("on_multirun_start", "on_multirun_end")
    assert (first["who"], last["who"]) == ("controller", "controller")
    assert [job["event"] for job in jobs] == ["on_job_start", "on_job_end"] * 2
    assert {job["who"] for job in jobs} == {"0"}  # made anew, where Slurm started it
    assert [job["variable"] for job in jobs] == ["s5", None] * 2
    assert [job["status"] for job in jobs[1::2]] == ["COMPLETED", "FAILED"]
    assert "the transport's own words" in jobs[3]["what"]
    records = sweep.records()
    assert {Path(job["folder"]).name for job in jobs[::2]} == records.keys()
    began = [record["transport"] or {} for record in records.values()]
    assert "s5" in [variables.get("REFIT_SHARE") for variables in began]
