"""One test per thing of submitit's that it does not promise; each says what broke."""

from __future__ import annotations

import inspect
import signal
from pathlib import Path

import pytest
from submitit.core import utils
from submitit.slurm.slurm import SlurmJobEnvironment

from refit.job import UserError
from sweeper import submitit_side
from sweeper.pack import Pack
from sweeper.submitit_side import SIGNALS

PACK = Pack((("/results/point", "0"),))


def test_an_executor_is_made_where_there_is_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    made = submitit_side.executor(tmp_path, {"time": 5})
    assert "#SBATCH --time=5" in submitit_side.sbatch_text(made).splitlines(), (
        "submitit's executor asks for Slurm in another way than by `affinity`"
    )


def test_the_sbatch_file_is_what_sbatch_is_given(tmp_path: Path) -> None:
    made = submitit_side.executor(tmp_path, {"nodes": 2, "ntasks_per_node": 1})
    text = submitit_side.sbatch_text(made)
    assert text.startswith("#!/bin/bash\n"), "_make_submission_file_text returns no sbatch file"
    assert "#SBATCH --nodes=2\n" in text
    # as `_submit_command` writes it, which `batch` comes to
    source = inspect.getsource(type(made)._submit_command)
    assert "self._make_submission_file_text(command, tmp_uuid)" in source, (
        "submitit makes the file that it submits in another way"
    )


def test_an_unknown_parameter_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cluster\.slurm: Unavailable parameter\(s\): \['foo'\]"):
        submitit_side.executor(tmp_path, {"foo": 1})


@pytest.mark.parametrize("slurm_id", ["12", "12_3"])
def test_what_was_submitted_is_found_by_the_id_of_its_job(tmp_path: Path, slurm_id: str) -> None:
    assert submitit_side.submitted_call(tmp_path, slurm_id) is None
    paths = utils.JobPaths(tmp_path, slurm_id)
    utils.DelayedSubmission(PACK).dump(paths.submitted_pickle)
    assert [p.name for p in tmp_path.iterdir()] == [f"{slurm_id}_submitted.pkl"], (
        "queued jobs of earlier releases are looked for under this name"
    )
    assert submitit_side.submitted_call(tmp_path, slurm_id) == PACK


def test_a_jobs_log_is_its_first_tasks_output(tmp_path: Path) -> None:
    assert submitit_side.log(tmp_path, "12_3") == tmp_path / "12_3_0_log.out"
    # where sbatch is told to write it, %A_%a being an array's id, and srun's %t the task
    made = submitit_side.executor(tmp_path, {"stderr_to_stdout": True})
    assert f"srun --unbuffered --output {tmp_path}/%j_%t_log.out" in submitit_side.sbatch_text(made)


def test_submitit_would_requeue_at_a_signal_that_a_pack_ignores() -> None:
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGCONT)}
    environment = object.__new__(SlurmJobEnvironment)  # made in a job only
    try:
        environment._handle_signals(utils.JobPaths("/none", "1"), utils.DelayedSubmission(PACK))
        handlers = [getattr(signal.getsignal(number), "__name__", "") for number in SIGNALS]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert handlers == ["checkpoint_and_try_requeue", "bypass"]


def test_a_refusal_is_slurms_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(
        "#!/bin/sh\necho 'sbatch: error: no such partition' >&2\n"
        "echo 'sbatch: error: try another' >&2\nexit 1\n"
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = submitit_side.executor(tmp_path / "folder", {})
    words = "^Slurm refuses the job: no such partition; try another$"
    with pytest.raises(UserError, match=words):
        submitit_side.submit_array(made, [PACK])
