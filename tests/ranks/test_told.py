"""What a record and the ranks' logs say of the ranks that there were."""

from __future__ import annotations

import platform
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from hydra.core.utils import env_override

from refit.job import Degrees, Job
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.told import Told
from tests.support.jobs import TINY, job
from tests.support.records import verified

# one rank, as ranks that find no server with their environment import all by themselves
ONE = job(Degrees(tp=1, etp=1), Degrees(tp=1, etp=1), "collocated", ranks_per_node=1)
FLEX = replace(TINY, moe_token_dispatcher_type="flex", add_bias_linear=False)


def with_env(what: Job, env: dict[str, Any] | None) -> Job:
    return replace(what, cluster=replace(what.cluster, env=env))


def test_the_dispatcher_and_what_was_left_out_are_of_the_model_that_was_built(
    agent: Agent, tmp_path: Path
) -> None:
    source = Degrees(tp=2, ep=2, etp=1, sequence_parallel=True)
    what = job(source, Degrees(tp=1, etp=1), build="megatron", model=FLEX, ranks_per_node=8)
    build = verified(agent, tmp_path, what)["model_build"]
    assert build["dispatcher"] == "allgather"  # flex wants DeepEP
    said = "the flex token dispatcher is built as allgather"
    assert [said in line for line in build["differs"]].count(True) == 1
    left_out = "the source's sequence parallelism is left out, which the torch norm refuses"
    assert [left_out in line for line in build["differs"]].count(True) == 1
    # as asked, nothing is said
    build = verified(agent, tmp_path, job(build="megatron"))["model_build"]
    assert build["dispatcher"] == "allgather"
    assert not [line for line in build["differs"] if "dispatcher" in line]
    assert verified(agent, tmp_path, job())["model_build"]["dispatcher"] is None  # no model


def test_an_idle_rank_says_that_it_waits(agent: Agent, tmp_path: Path) -> None:
    verified(agent, tmp_path, job())
    logs = {n: next(tmp_path.glob(f"*/attempts/0/rank{n}.log")).read_text() for n in (0, 2, 3)}
    assert "waiting, others in 'building models'" in logs[3]  # 3 is idle
    for line in logs[3].splitlines():
        assert line.endswith("] joining") or "] waiting, others in '" in line
    for number in (0, 2):
        assert "] building models" in logs[number] and "waiting" not in logs[number]


def test_the_ranks_of_a_point_have_its_environment_and_no_other_points(
    agent: Agent, tmp_path: Path
) -> None:
    says = replace(ONE, refit=replace(ONE.refit, method="tests.support.faults:SaysEnvironment"))
    env = {"CUDA_DEVICE_MAX_CONNECTIONS": 1, "TORCH_CPP_LOG_LEVEL": "ERROR", "REFIT_SHARE": 0.5}
    texts = {name: str(value) for name, value in env.items()}
    tuned = {"GLIBC_TUNABLES": "glibc.cpu.x86_non_temporal_threshold=0x8000"}
    always = tuned if platform.machine() == "x86_64" else {}
    secret = Told("hf_not_to_be_seen", "${oc.env:TOKEN}")
    record = verified(agent, tmp_path, with_env(says, {**env, "HF_TOKEN": secret}))
    assert record["environment"]["variables"] == {
        **texts, **always, "HF_TOKEN": secret.written, "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    # in no file: the record, what is frozen, ranks' reports and logs
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 5 and not [f for f in files if secret.encode() in f.read_bytes()]
    # there when torch was imported, and so in the environment that the process began with
    assert record["transport"] == texts | always
    after = verified(agent, tmp_path, says)
    assert after["environment"]["variables"] == {"CUDA_VISIBLE_DEVICES": "", **always}
    assert after["transport"] == always and after["id"] != record["id"]


def test_a_failure_of_ranks_with_an_environment_is_a_record(agent: Agent, tmp_path: Path) -> None:
    """hydra.job.env_set: in this process meanwhile, and in ranks that are started anew."""
    hydra = {"job": {"env_set": {"REFIT_SHARE": "hydra's"}}}
    method = "tests.support.faults:RaisesEnvironment"
    what = replace(ONE, refit=replace(ONE.refit, method=method))
    point = Point.of(what, tmp_path, hydra=hydra)
    forkserver.ensure_running()  # as other points have left it, without the variable
    with env_override(point.variables):
        record = agent.measure_point(point)
    assert record.status == "failed"
    assert """'REFIT_SHARE': "hydra's"}""" in record.reason
