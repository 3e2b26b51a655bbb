"""What a user mistypes is one message on stderr, and exit code 2; no rank starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from refit import run
from tests.support.forks import fork_of

ROOT = Path(__file__).parents[2]
BAD = {
    "an unknown option": (["parallel=nope"], "Could not find 'parallel/nope'"),
    "a typo": (["bench.iteratons=3"], "unknown field 'bench.iteratons'; did you mean iterations?"),
    "a wrong type": (["bench.iterations=abc"], "could not be converted to Integer"),
    "a zero degree": (["parallel.source.tp=0"], "tp=0: a parallel degree must be 1 or more"),
    "a negative degree": (["parallel.destination.ep=-2"], "parallel.destination: ep=-2"),
    "too many GPUs": (
        ["parallel=pitfall_12gpus_tp8_to_tp4"],
        "needs 12 GPUs (source 8 + destination 4), cluster 'local' has 8",
    ),
    "no such method": (["refit.method=pigeon"], "there are auto, ipc, gloo"),
    "a file for a folder": ([f"hydra.run.dir={ROOT}/LICENSE/x"], "LICENSE/x"),
    "a folder with characters of Hydra's": (
        ["mode=plan", "hydra.run.dir=results/a='b"],
        """quoted, for Hydra and the shell: 'hydra.run.dir="results/a='"'"'b"'""",
    ),
    "a pattern without a point": (
        ["-m", "parallel=glob(coll*)", "sweep.exclude=[*nccl*]"],
        "sweep.exclude: no point matches *nccl*; there are moe_16e-collocated_1_tp4ep2",
    ),
    "a pattern that is no list": (["-m", "sweep.exclude=x"], "sweep.exclude=x is not a list"),
    "no runs at all": (["-m", "sweep.repeat=0"], "sweep.repeat=0: must be 1 or more"),
    "no such experiment": (["-m", "experiment=nope"], "Could not find 'experiment/nope'"),
    "a typo in what sbatch is asked": (
        ["-m", "cluster=slurm", "cluster.slurm.partion=gpu"],
        "did you mean partition?",
    ),
    "what sbatch takes and the file has not": (
        ["-m", "cluster=slurm", "cluster.slurm.dependency=afterok:1"],
        "is given with +: +cluster.slurm.dependency=...",
    ),
    "a flag's name": (
        ["model.num_experts=16"],
        "unknown field 'model.num_experts'; num_experts is model.num_moe_experts here. All",
    ),
    "a flag's name, appended": (
        ["+model.disable_bias_linear=true"],
        "disable_bias_linear=true is model.add_bias_linear=false and ",
    ),
    "one of several sides": (
        ["parallel.destinations.0.tp=2"],
        "'parallel.destinations.0' cannot be set alone; write 'parallel.destinations=[{tp: 2,",
    ),
    "a dispatcher of the documents": (
        ["model.moe_token_dispatcher_type=fused"],
        "=fused is not one of allgather, alltoall, flex; fused is flex here",
    ),
    "an allocation, but one point on this machine": (
        ["sweep.here=true", "bench.iterations=1"],
        "type python -m refit.run -m cluster=slurm sweep.here=true bench.iterations=1",
    ),
    "an allocation, but one point": (
        ["cluster=h100", "sweep.here=true"],
        "type python -m refit.run -m cluster=h100 sweep.here=true",
    ),
    "an allocation, but this machine": (
        ["-m", "sweep.here=true", "cluster=cpu"],
        "type python -m refit.run cluster=slurm --multirun sweep.here=true",
    ),
    "a job on Slurm without -m": (
        ["cluster=slurm", "cluster.slurm.partition=gpu"],
        "type python -m refit.run -m cluster=slurm cluster.slurm.partition=gpu",
    ),
    "options that exclude each other": (["-m", "--cfg", "job"], "Only one of --run, --multirun"),
    "a sweep without values": (["-m", "seed=interval(0,1)"], "write range(...) or choice(...)"),
    "a setting of Hydra's without effect": (
        ["-m", "hydra.sweeper.max_batch_size=0"],
        "hydra.sweeper.max_batch_size=0 has no effect in a sweep: all points are one batch",
    ),
    "what Hydra asserts": (
        ["-m", "hydra/sweeper=basic", "hydra.sweeper.max_batch_size=0"],
        "error: Hydra holds: assert max_batch_size is None or max_batch_size > 0",
    ),
    "a variable that is not there": (["hydra.job.env_copy=[NOSUCH]"], "env_copy: 'NOSUCH' is not"),
    "an empty glob": (["-m", "parallel=glob(zzz*)"], "nothing matches parallel=glob(zzz*)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_message(case: str, tmp_path: Path) -> None:
    arguments, words = BAD[case]
    folder = [] if any("dir=" in a for a in arguments) else [f"hydra.run.dir={tmp_path}"]
    done = fork_of(run.main, *arguments, *folder, f"hydra.sweep.dir={tmp_path}")
    assert done.code == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")
    assert not list(tmp_path.glob("*/timing.json"))


@pytest.mark.parametrize(
    ("group", "text", "words"),
    [
        (
            "model",
            "defaults: [moe_8e]\nnum_experts: 16\n",
            "unknown field 'model.num_experts'; num_experts is model.num_moe_experts here",
        ),
        (
            "parallel",
            "name: mine\nsource: {tensor_model_parallel_size: 2}\ndestination: {tp: 1}\n",
            "unknown field 'parallel.source.tensor_model_parallel_size';"
            " tensor_model_parallel_size is parallel.source.tp here",
        ),
    ],
)
def test_a_flags_name_in_a_file_of_the_users(
    group: str, text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    done = fork_of(
        run.main, f"{group}=mine", f"--config-dir={tmp_path}/conf", f"hydra.run.dir={tmp_path}"
    )
    assert done.code == 2 and words in done.stderr
    assert "Traceback" not in done.stderr and "append" not in done.stderr
