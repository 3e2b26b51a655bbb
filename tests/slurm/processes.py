"""The daemons of the tests' Slurm cluster as child processes, and the commands that ask them."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # daemons are in sbin, not on a user's PATH
MARK = "REFIT_TEST_CLUSTER"  # in the environment of every daemon, and so of every slurmstepd
# what Slurm's commands read, and what an allocation that the tests themselves run in has set
OUTER = ("SLURM_", "SBATCH_", "SRUN_", "SACCT_", "SQUEUE_", "SINFO_")


class Processes:
    """Daemons whose logs are `root`/log/NAME.log, and clients, all with `env`."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self.root = root
        self.env = env
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}  # in order of start

    def run(self, *command: str, limit_s: float = 30) -> str:
        """What a client prints; CalledProcessError, with its stderr in a note, if it fails."""
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=limit_s
        )
        try:
            done.check_returncode()
        except subprocess.CalledProcessError as error:
            error.add_note(done.stderr)
            raise
        return done.stdout.strip()

    def wait(self, ready: Callable[[], T], limit_s: float = 30, what: str = "condition") -> T:
        """Poll `ready` until it returns something true, and return that; TimeoutError if never."""
        end = time.monotonic() + limit_s
        while not (value := ready()):
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not so after {limit_s} s\n{self.logs()}")
            time.sleep(0.1)
        return value

    def logs(self) -> str:
        """The ends of all log files."""
        texts = []
        for path in sorted((self.root / "log").glob("*.log")):
            texts += [f"== {path.name}", *path.read_text(errors="replace").splitlines()[-8:]]
        return "\n".join(texts)

    def is_up(self, name: str) -> bool:
        """Whether the daemon has been started, and not ended by us."""
        return name in self._daemons

    def pid(self, name: str) -> int:
        """Of a daemon that is up."""
        return self._daemons[name].pid

    def start(self, name: str, *command: str, asked_by: tuple[str, ...] = ()) -> None:
        """Start a daemon, and wait until the client `asked_by` succeeds.

        It runs in the foreground, as our child: there is no pid file that could go stale. It gets a
        SIGTERM when we die, however that happens, and no SIGINT from our terminal.
        """
        with (self.root / "log" / f"{name}.log").open("ab") as log:
            daemon = self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env={**self._environment(), MARK: str(self.root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def answers() -> bool:
            if (code := daemon.poll()) is not None:
                raise RuntimeError(f"{name} ended with {code}\n{self.logs()}")
            with contextlib.suppress(subprocess.CalledProcessError):
                self.run(*asked_by)
                return True
            return False

        if asked_by:
            self.wait(answers, 60, f"{name} answers")

    def end(self, name: str) -> None:
        """SIGTERM, and SIGKILL to a daemon that does not heed it."""
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def end_all(self) -> None:
        """End the daemons, last first, and kill any process of theirs that is still there."""
        for name in reversed(list(self._daemons)):
            self.end(name)
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def alive(self) -> list[int]:
        """Daemons and step daemons by our mark, jobs' processes by our `env` and a job id."""
        mark = f"{MARK}={self.root}"
        ours = {f"{key}={value}" for key, value in self.env.items()}
        found = []
        for pid, variables in _environments():
            of_a_job = any(variable.startswith("SLURM_JOB_ID=") for variable in variables)
            if mark in variables or (of_a_job and ours <= variables):
                found.append(pid)
        return found

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OUTER)}
        return {**kept, **self.env, "PATH": PATH}


def with_variable(variable: str) -> list[int]:
    """The ids of all processes with `NAME=value` in their environment; no daemon counts."""
    started = ((pid, v) for pid, v in _environments() if variable in v)
    return [pid for pid, v in started if not any(each.startswith(f"{MARK}=") for each in v)]


def commands(pids: list[int]) -> str:
    """Of each of them its number, its parent's, how it stands and its command, as ps has them."""
    wanted = ["-o", "pid,ppid,stat,etime,wchan:20,args", "-p", ",".join(map(str, pids))]
    return subprocess.run(["ps", "-ww", *wanted], capture_output=True, text=True).stdout


def _environments() -> Iterator[tuple[int, set[str]]]:
    """Each process but this one, with what it was started with; none of another user's."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        if int(path.parent.name) != os.getpid():
            with contextlib.suppress(OSError):  # another user's, or gone
                yield int(path.parent.name), set(path.read_text(errors="replace").split("\0"))
