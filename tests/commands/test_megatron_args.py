"""The program: flags as arguments, from a file or stdin; both ways; what it says; exit codes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from refit import megatron_args, program, run
from refit.errors import UserError
from refit.megatron_args import asked_for, main
from sweeper import __main__ as sweeper
from tests.support.commands import FOLDER, command
from tests.support.composed import composed
from tests.support.forks import Ended, fork_of

SMALL = (
    "--num-layers 1 --hidden-size 32 --num-attention-heads 2 --ffn-hidden-size 16 --vocab-size 64"
    " --seq-length 8 --max-position-embeddings 8 --bf16 --disable-bias-linear"
    " --num-benchmark-iterations 1 --num-benchmark-warmup 1 --refit-mode collocated"
)


def called(*words: str) -> Ended:
    return fork_of(lambda: program.exit_with(megatron_args.main), *words)


def line_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return shlex.split(capsys.readouterr().out.splitlines()[0])


def test_from_arguments_from_a_file_and_from_stdin_are_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--file", str(FOLDER / "config_1.sh")])
    of_file = capsys.readouterr().out
    found = command("config_1")
    main(["--", found.program, *found.arguments])
    assert capsys.readouterr().out == of_file
    main(found.arguments)  # the -- may be left out
    assert capsys.readouterr().out == of_file
    done = subprocess.run(
        [sys.executable, "-m", "refit.megatron_args", "-"],
        input=(FOLDER / "config_1.sh").read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == of_file
    first, *others = of_file.splitlines()
    assert first.startswith("python -m refit.run ") and all(o.startswith("# ") for o in others)
    assert "# no bearing, training: --micro-batch-size 1" in others


def test_the_line_composes_and_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    words = SMALL.replace("--num-layers 1", "--num-layers 2")
    main(shlex.split(f"{words} --num-experts 2 --moe-layer-freq '([0]*1+[1]*1)'"))
    job = composed(*line_of(capsys)[3:])
    assert job.model.moe_layer_freq == "([0]*1+[1]*1)"


def test_mixtral_s_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--file", str(FOLDER / "mixtral_8x7b.sh"), "NNODES=2", "--swiglu"])
    said = capsys.readouterr().out
    assert "# not carried, environment: CUDA_DEVICE_MAX_CONNECTIONS=1" in said
    assert "not hold: if [ -n ${WANDB_API_KEY} ] --wandb-project --wandb-exp-name" in said
    assert "# refit.run will refuse it" in said and "needs 16 GPUs" in said


def test_there_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = "model=kimi_k2 parallel=kimi_k2_128_tp8pp8ep16_to_tp8ep32 refit=nccl bench.warmup=1"
    main(["--from", overrides])
    flags = line_of(capsys)
    main(flags)
    assert {*shlex.split(overrides)} <= {*line_of(capsys)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-- --num-exprts 4", "did you mean --num-experts?"),
        ("--num-exprts 4", "did you mean --num-experts?"),
        ("-- --is-hybrid-model", "Mamba's layers are not modelled"),
        ("", "no flags: give them behind --"),
        ("--file /none.sh", "/none.sh cannot be read"),
        ("--file pyproject.toml", "no command with Megatron's flags"),
        ("--from refit=ipc", "refit=ipc"),
        ("--from refit=nothing", "Could not find 'refit/nothing'"),
        ("--from refit=gloo -- --swiglu", "--from takes overrides and nothing else"),
        ("--gpus none -- --swiglu", "--gpus none is not a number"),
        ("bench.iterations=3", "bench.iterations=3 is no flag"),
    ],
)
def test_a_mistake_is_one_message(words: str, message: str) -> None:
    done = called(*words.split())
    assert done.code == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_own_options_stand_before_the_flags() -> None:
    asked = asked_for(["--run", "--gpus=4", "A=1", "torchrun", "x.py", "--run", "B=2"])
    assert asked.run and asked.gpus == 4 and asked.variables == {"A": "1"}
    assert asked.words == ["torchrun", "x.py", "--run", "B=2"]
    with pytest.raises(UserError, match="no flags"):
        asked_for(["--run"])


def test_run_keeps_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a refit that is refused, here for want of GPUs; the line is printed first."""
    monkeypatch.chdir(tmp_path)
    done = called("--run", *SMALL.split(), "--tensor-model-parallel-size", "16")
    assert done.code == 2
    assert done.stdout.startswith("python -m refit.run ")
    assert "error: " in done.stderr and "16" in done.stderr
    assert not list(tmp_path.rglob("timing.json"))


@pytest.mark.parametrize(
    "words",
    [
        ["--tensor-model-parallel-size", "2"],
        ["model.seq_length=1", "--num-experts", "16"],
        ["--num-layers=4"],
        ["--mtp-num-layers", "1"],
    ],
)
def test_refit_run_says_which_program_translates(words: list[str]) -> None:
    done = fork_of(run.main, *words)
    assert done.code == 2 and len(done.stderr.splitlines()) == 1
    assert "is a flag of Megatron-LM" in done.stderr and "refit.megatron_args" in done.stderr
    flag = next(word for word in words if word.startswith("--")).partition("=")[0]
    assert flag in done.stderr


def test_an_option_of_hydra_s_is_not_taken_for_a_flag() -> None:
    assert fork_of(run.main, "--cfg", "job").code == 0


def test_it_is_a_subcommand() -> None:
    done = fork_of(sweeper.main, "megatron-args", "--", "--num-exprts", "4")
    assert done.code == 2 and "did you mean --num-experts?" in done.stderr
    assert (
        "usage: refit-sweep megatron-args"
        in fork_of(sweeper.main, "megatron-args", "--help").stdout
    )


def test_it_imports_neither_torch_nor_megatron() -> None:
    code = (
        "import sys; from refit.megatron_args import main; main(['--', '--bf16']);"
        "print(sorted({'torch', 'megatron'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
