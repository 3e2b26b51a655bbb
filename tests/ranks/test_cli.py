"""The program as a user runs it: exit codes, prints, and one bad point does not cost another."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from refit import run
from refit.ranks.agent import Agent
from tests.support import shm
from tests.support.forks import Ended, fork_in

ROOT = Path(__file__).parents[2]
SHIPPED = ["model=moe_8e", "build=shards", "bench.iterations=1"]
SMALL = [
    *SHIPPED, "model.num_layers=1", "model.vocab_size=1000", "model.published_parameters=null",
    "cluster.ranks_per_node=4",
]  # fmt: skip
ROW_4 = "noncollocated_4_tp2ep1_to_tp1ep1"


@pytest.fixture(autouse=True)
def _server(agent: Agent) -> None:
    """What `refit` runs has its ranks from the agent's server."""


def refit(*arguments: str, folder: Path) -> Ended:
    """Run `python -m refit.run` in a fork, with its results in `folder`."""
    where = [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
    return fork_in(ROOT, run.main, *arguments, *where)


def python_refit(*arguments: str, folder: Path, **environment: str) -> Ended:
    """The same as a process of its own, from the start of Python."""
    done = subprocess.run(
        [sys.executable, "-m", "refit.run", *arguments, f"hydra.sweep.dir={folder}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Every timing.json below a results folder, by point name."""
    return {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/timing.json")}


def fill(disk: Path) -> None:
    """Leave no space on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def alive(marker: str) -> list[str]:
    """Command lines of this user's processes whose environment names `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def wait_until(true: Any, limit_s: float = 20.0) -> bool:
    """Poll a condition."""
    until = time.monotonic() + limit_s
    while not (now := true()) and time.monotonic() < until:
        time.sleep(0.1)
    return bool(now)


def test_one_run_is_the_minimal_row(tmp_path: Path) -> None:
    done = refit(*SHIPPED, "build=megatron", "verify=logits", folder=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    for line in (
        "  Model: moe_8e, 50,517,504 parameters, 34,002,432 active\n",
        "World size: 8 (using 3 GPUs)",
        "Source ranks: 0-1 (TP=2, PP=1, EP=1)",
        "Destination ranks: 2 (TP=1, PP=1, EP=1)",
        "Idle ranks: 3-7 (not participating)",
    ):
        assert line in done.stdout
    (record,) = records(tmp_path).values()
    assert record["status"] == "ok"
    assert record["model_build"]["build"] == "megatron"
    assert record["verification"]["logits"]["ok"]
    assert record["config"]["parallel"]["name"] == ROW_4
    assert record["overrides"][:2] == SHIPPED[:2]


def test_overrides_reach_the_point(tmp_path: Path) -> None:
    done = refit(
        "parallel=collocated_4_tp2ep2_to_tp2ep1",
        "model=moe_8e",
        "model.num_layers=1",
        "model.moe_z_loss_coeff=1e-3",
        "bench.iterations=5",
        "refit=gloo",
        "refit.mode=non-collocated",
        "build=shards",
        folder=tmp_path,
    )
    assert done.code == 0, done.stderr
    (record,) = records(tmp_path).values()
    assert (record["placement"], record["method"]) == ("non-collocated", "gloo")
    assert record["config"]["model"]["num_layers"] == 1
    assert record["config"]["model"]["moe_z_loss_coeff"] == 1e-3
    assert len(record["seconds"]["warm"]) == 5
    assert record["layout"]["destination"]["ranks"] == [4, 5]


def test_a_sweep_survives_its_worst_points(tmp_path: Path) -> None:
    shared = shm.left()
    names = ("KillsServer", "Killed", "Hangs", "ipc_SwapsExperts")
    faults = [f"tests.support.faults:{name}" for name in names]
    methods = ",".join(["ipc", *faults, "gloo"])
    sweep = [
        "-m",
        f"parallel={ROW_4},pitfall_12gpus_tp8_to_tp4",
        f"refit.method={methods}",
        *SMALL,
        "bench.deadline_s=25",
    ]
    done = python_refit(*sweep, folder=tmp_path, REFIT_TEST_MARK=str(tmp_path))
    assert done.code == 1
    assert "Traceback" not in done.stderr
    found = records(tmp_path).values()
    status = {
        (r["config"]["parallel"]["name"], r["config"]["refit"]["method"]): r["status"]
        for r in found
    }
    row = {method: s for (name, method), s in status.items() if name == ROW_4}
    assert row == {
        "ipc": "ok",
        "tests.support.faults:KillsServer": "crashed",
        "tests.support.faults:Killed": "crashed",
        "tests.support.faults:Hangs": "timeout",
        "tests.support.faults:ipc_SwapsExperts": "invalid",
        "gloo": "ok",
    }
    skipped = [r for r in found if r["config"]["parallel"]["name"] != ROW_4]
    assert [r["status"] for r in skipped] == ["skipped"] * 6
    assert all("needs 12 GPUs (source 8 + destination 4)" in r["reason"] for r in skipped)
    assert "12 points: 2 ok, 2 crashed, 1 timeout, 1 invalid, 6 skipped" in done.stdout
    assert "rank 2: ended by SIGKILL" in done.stdout and "log: " in done.stdout
    assert "the process that ranks are forked from ended by SIGKILL" in done.stdout
    assert wait_until(lambda: not alive(str(tmp_path)))
    assert not {*shm.left()} - {*shared}

    again = refit(*sweep, "sweep.mode=cached", folder=tmp_path)
    assert again.code == 1
    assert again.stdout.count("kept from") == 12
    assert {r["finished_at"] for r in records(tmp_path).values()} == {
        r["finished_at"] for r in found
    }


def test_retry_keeps_what_is_done(tmp_path: Path) -> None:
    sweep = ["-m", f"parallel={ROW_4},{ROW_4}", "refit=ipc", *SMALL]
    first = refit(*sweep, folder=tmp_path)
    assert first.code == 0, first.stderr
    assert "1 points: 1 ok" in first.stdout  # the same job twice is one point
    (before,) = records(tmp_path).values()
    assert "kept from" in refit(*sweep, folder=tmp_path).stdout
    assert list(records(tmp_path).values()) == [before]
    forced = refit(*sweep, "sweep.mode=force", folder=tmp_path)
    assert forced.code == 0
    (after,) = records(tmp_path).values()
    assert after["finished_at"] > before["finished_at"]
    missing = refit(*sweep, "sweep.mode=read-only", "seed=7", folder=tmp_path)
    assert missing.code == 2
    assert "1 of 1 points have no record" in missing.stderr


def watched() -> None:
    """The program, which may start no agent; how often it composes is printed at its end."""

    def refuse(*_: object) -> None:
        raise AssertionError("an agent was started")

    def counted(self: Any, master: Any, overrides: list[str]) -> Any:
        composed.append(tuple(overrides))
        return original(self, master, overrides)

    composed: list[tuple[str, ...]] = []
    original = ConfigLoaderImpl.load_sweep_config
    patch = pytest.MonkeyPatch()
    patch.setattr(Agent, "__enter__", refuse)
    patch.setattr(ConfigLoaderImpl, "load_sweep_config", counted)
    try:
        run.main()
    finally:
        print("composed", len(composed), len(set(composed)))


def pairs(pattern: str) -> int:
    """How many options `parallel=glob(<pattern>)` means."""
    return len(list((ROOT / "conf" / "parallel").glob(f"{pattern}.yaml")))


LEFT_OUT = pairs("*pitfall*") + pairs("*collocated_2*")
SWEEPS = {
    # arguments -> points, of which go to Slurm
    "range": (["-m", "seed=range(0,3)"], 3, 0),
    "lists together": (
        ["-m", "model=moe_16e,dense", f"parallel={ROW_4},collocated_3_tp4ep2_to_tp4ep1",
         "refit=ipc,gloo", "cluster=local,slurm"], 16, 6,  # a dense model has no experts to place
    ),
    "a file": (["-m", "experiment=eight_gpu"], 2 * pairs("*collocated_*"), 0),
    "a file is a sweep by itself": (["experiment=eight_gpu"], 2 * pairs("*collocated_*"), 0),
    "a file, less": (
        ["-m", "experiment=eight_gpu", "parallel=glob(collocated_*)", "seed=0,1"],
        4 * pairs("collocated_*"), 0,
    ),
    "repeats": (["-m", "refit=ipc,gloo", "sweep.repeat=3"], 6, 0),
    "all but": (
        ["-m", "parallel=glob(*)", "sweep.exclude=[*pitfall*,*collocated_2*]"],
        pairs("*") - LEFT_OUT, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SWEEPS)
def test_a_dry_run_composes_what_differs_once_and_runs_none(case: str, tmp_path: Path) -> None:
    arguments, points, on_slurm = SWEEPS[case]
    folder = tmp_path / "none"
    sweep = [*arguments, "sweep.dry_run=true", f"hydra.sweep.dir={folder}"]
    done = fork_in(ROOT, watched, *sweep)
    assert (done.code, done.stderr) == (0, "")
    # repetitions are of one config, and points that differ in plain values share one
    runs = {"repeats": 3, "range": 3, "a file, less": 2}.get(case, 1)
    left_out = LEFT_OUT if case == "all but" else 0
    composed = points // runs + left_out
    assert f"composed {composed} {composed}\n" in done.stdout
    plan = [line for line in done.stdout.splitlines() if line.endswith(" run") or "skip:" in line]
    assert len({line.split()[0] for line in plan}) == len(plan) == points
    assert sum(line.endswith("slurm  run") for line in plan) == on_slurm
    assert not left_out or f"leaves out {left_out} of {composed} points" in done.stdout
    assert not folder.exists()


def test_malformed_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "broken.yaml").write_text("name: broken\n  num_layers: [3\n")
    for mode in ([], ["-m"]):
        done = refit(*mode, f"--config-dir={tmp_path}", "model=broken", folder=tmp_path / "out")
        assert done.code == 2
        assert "malformed YAML" in done.stderr and "broken.yaml" in done.stderr
        assert "Traceback" not in done.stderr


def test_unknown_field_in_a_model_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "extra.yaml").write_text("name: extra\nnum_layerz: 3\n")
    done = refit(f"--config-dir={tmp_path}", "model=extra", folder=tmp_path / "out")
    assert done.code == 2
    assert "num_layerz" in done.stderr and "model/extra" in done.stderr
    assert "did you mean num_layers?" in done.stderr and "Traceback" not in done.stderr


def test_help_does_not_import_torch() -> None:
    shown = {
        ("--help",): "== Examples ==",
        ("--cfg", "job"): "num_moe_experts: 16",
        ("-m", "seed=0,1", "sweep.dry_run=true"): "local  run",
    }
    for option, words in shown.items():
        code = (
            "import runpy, sys\n"
            f"sys.argv = ['refit.run', {', '.join(map(repr, option))}]\n"
            "try: runpy.run_module('refit.run', run_name='__main__', alter_sys=True)\n"
            "except SystemExit as end: assert not end.code, end\n"
            "assert 'torch' not in sys.modules and 'megatron' not in sys.modules\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


AS_PID_1 = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]  # as in a container


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_its_controller(end: signal.Signals, tmp_path: Path) -> None:
    shared, temporary = shm.left(), Path(mkdtemp())  # tmp_path is too long for a socket's
    mark = f"{tmp_path}-{end.name}"
    as_pid_1 = end is signal.SIGTERM and not subprocess.run([*AS_PID_1, "true"]).returncode
    controller = subprocess.Popen(
        [
            *(AS_PID_1 if as_pid_1 else ()),
            sys.executable, "-m", "refit.run", *SMALL, "refit.method=tests.support.faults:Hangs",
            f"hydra.run.dir={tmp_path / 'results'}",
        ],
        cwd=ROOT,
        env={**os.environ, "REFIT_TEST_MARK": mark, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    log = "results/*/attempts/0/rank2.log"
    assert wait_until(lambda: any("timed" in p.read_text() for p in tmp_path.glob(log)), 60)
    if end is signal.SIGINT:
        for _ in range(30):
            os.killpg(controller.pid, end)  # as a terminal does: to every process of the group
    elif as_pid_1:
        children = Path(f"/proc/{controller.pid}/task/{controller.pid}/children").read_text()
        os.kill(int(children), end)
    else:
        controller.send_signal(end)
    _, stderr = controller.communicate(timeout=30)
    assert wait_until(lambda: not alive(mark)), alive(mark)
    assert not {*shm.left()} - {*shared}
    found = [*tmp_path.glob("results/*/timing.json"), *tmp_path.glob("results/*/*/0/timing.json")]
    if end is signal.SIGKILL:
        assert controller.returncode == -end and not found
        rmtree(temporary)
        return
    assert controller.returncode == 128 + end
    assert f"interrupted by {end.name}; no rank" in stderr and len(stderr.splitlines()) == 1
    temporary.rmdir()  # nothing is in it
    for path in found:
        record = json.loads(path.read_text())
        assert (record["status"], record["seconds"]) == ("interrupted", None)
        assert record["reason"] == f"interrupted by {end.name}"
    assert len(found) == 2  # the attempt's, and the point's


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(
            "a small file system to fill cannot be mounted here; run as root to test a full disk"
        )
    try:
        assert refit(*SMALL, folder=disk).code == 0
        (kept,) = records(disk).values()
        fill(disk)
        done = refit("-m", f"parallel={ROW_4}", "seed=0,1", "sweep.mode=force", *SMALL, folder=disk)
        assert done.code in (1, 2)
        assert "No space left on device" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert list(records(disk).values()) == [kept]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_dev_shm_does_not_matter(tmp_path: Path) -> None:
    # shared weights have no name in /dev/shm, so its size, 64 MB in many a container, is no limit
    script = (
        "mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero > /dev/shm/full"
        f" && exec {sys.executable} -m refit.run {' '.join(SMALL)} refit=ipc"
        # nor does it that there is no stderr, whose number another file then has
        f" hydra.run.dir={tmp_path} 2>&-"
    )
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("cannot make a mount namespace here; run as root to test a full /dev/shm")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = records(tmp_path).values()
    assert (record["status"], record["method"]) == ("ok", "ipc")
