"""One test per thing of submitit's that it does not promise; each says what broke."""

from __future__ import annotations

import inspect
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
from submitit.core import utils
from submitit.slurm.slurm import SlurmJobEnvironment

from refit.errors import UserError
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


def fake_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    for name, text in (("sbatch", script), ("srun", "")):  # submitit looks for srun too
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize("packs", [1, 3])
def test_what_was_submitted_is_found_by_the_id_of_its_job(
    packs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sbatch(tmp_path, monkeypatch, "echo Submitted batch job 12")
    calls = [Pack(((f"/results/{n}", "0"), (f"/results/more{n}", "2"))) for n in range(packs)]
    folder = tmp_path / "folder"
    ids = submitit_side.submit_array(submitit_side.executor(folder, {}), calls)
    assert ids == (["12"] if packs == 1 else ["12_0", "12_1", "12_2"])
    for slurm_id, call in zip(ids, calls, strict=True):
        assert submitit_side.submitted_points(folder, slurm_id) == list(call.points)
    for unknown in ("13", "12_7", "1", "12_x"):
        assert submitit_side.submitted_points(folder, unknown) == []


class Planted:
    """What writes a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self._path, "executed")


def test_no_pickle_of_the_results_is_loaded(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    planted = pickle.dumps(Planted(executed))
    for name in ("12_submitted.pkl", "12_0_submitted.pkl", "12_points.json", "12_points.pkl"):
        (tmp_path / name).write_bytes(planted)
    (tmp_path / "14_submitted.pkl").write_bytes(b"")
    for text in ("", "[]", '{"packs": 3}', '{"packs": [[["a"]]]}', '{"packs": [[[3, "0"]]]}'):
        (tmp_path / "13_points.json").write_text(text)
        for slurm_id in ("12", "12_0", "13", "14"):
            assert submitit_side.submitted_points(tmp_path, slurm_id) == []
    assert not executed.exists()
    pickle.loads(planted)
    assert executed.exists()  # it would have been


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
    fake_sbatch(
        tmp_path,
        monkeypatch,
        "echo 'sbatch: error: no such partition' >&2\n"
        "echo 'sbatch: error: try another' >&2\nexit 1",
    )
    made = submitit_side.executor(tmp_path / "folder", {})
    words = "^Slurm refuses the job: no such partition; try another$"
    with pytest.raises(UserError, match=words):
        submitit_side.submit_array(made, [PACK])
