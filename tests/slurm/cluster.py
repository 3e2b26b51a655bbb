"""A throw-away, real Slurm cluster on this one machine, for the tests.

munged, MariaDB, slurmdbd, slurmctld and one slurmd per pretended node, without systemd, cgroups,
or anything below /etc, /run or /var: all files are below one root, all sockets on loopback.
Seen to work with Slurm 22.05 (Debian 12), as root and otherwise.

The packages are `slurm-wlm munge slurmdbd mariadb-server`; `bash tests/debian.sh` installs
them without starting a service. `missing_packages()` names those that are not here.
"""

import contextlib
import getpass
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from tests.slurm.config import Config
from tests.slurm.processes import PATH, Processes

T = TypeVar("T")

PROGRAMS = {
    "slurm-wlm": ("slurmctld", "slurmd", "sbatch", "srun"),
    "munge": ("munged", "munge"),
    "slurmdbd": ("slurmdbd",),
    "mariadb-server": ("mariadbd", "mariadb-install-db", "mariadb"),
}
SACCT_FIELDS = (
    "JobID,JobName,Partition,Account,State,ExitCode,DerivedExitCode,NNodes,NTasks,NodeList,"
    "AllocTRES,Submit,Start,End,Elapsed,Timelimit,Reason,Comment"
)
SQL = """CREATE DATABASE slurm; CREATE USER slurm@127.0.0.1 IDENTIFIED BY 'slurm';
GRANT ALL ON slurm.* TO slurm@127.0.0.1"""


def missing_packages() -> list[str]:
    """The Debian packages one of whose programs is not on this machine."""
    return [
        package
        for package, programs in PROGRAMS.items()
        if not all(shutil.which(program, path=PATH) for program in programs)
    ]


class Cluster:
    """One cluster below `root`, a short path (for unix sockets) that others may enter (for munge).

    Several at once work.

    Merge `env` into a process's environment to make it a client; Slurm's commands do not work
    without it. Jobs see `gpus` GPUs per node, which are links to /dev/null. Partition `main` is the
    default; `low` is preempted by it, its jobs requeued. Where `own_names` is true (root may make
    namespaces), each node has its own host name, which resolves on the nodes and nowhere else.

    `accounts`: those that jobs may name, any other being refused (none given: all are accepted).
    `requeue_wait_s`: how long a requeued job waits before it may run again (at least 5: below that,
    Slurm silently takes 120). `kill_wait_s`: from SIGTERM to SIGKILL; `grace_s`: on preemption.
    """

    def __init__(
        self,
        root: Path,
        nodes: int = 2,
        gpus: int = 8,
        max_array_size: int = 1001,
        accounting: bool = True,
        *,
        cpus: int = 128,
        memory_mb: int = 1_000_000,
        accounts: Sequence[str] = (),
        kill_wait_s: int = 3,
        grace_s: int = 5,
        requeue_wait_s: int = 5,
    ) -> None:
        assert requeue_wait_s >= 5 and (accounting or not accounts)
        self.root = root.resolve()
        self.nodes = [f"node{i}" for i in range(1, nodes + 1)]
        self.accounts = accounts
        self.own_names = False
        self.env = {"SLURM_CONF": str(self.root / "slurm.conf")}
        self._processes = Processes(self.root, self.env)
        names = ["slurmctld", "slurmdbd", "mariadbd", *self.nodes]
        self._config = Config(
            root=self.root,
            user=getpass.getuser(),
            nodes=self.nodes,
            gpus=gpus,
            cpus=cpus,
            memory_mb=memory_mb,
            ports=dict(zip(names, _free_ports(len(names)), strict=True)),
            first_job_id=int(time.time()) % 60_000_000,
            max_array_size=max_array_size,
            accounting=accounting,
            enforce_accounts=bool(accounts),
            kill_wait_s=kill_wait_s,
            grace_s=grace_s,
            requeue_wait_s=requeue_wait_s,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- what a test does with it

    def run(self, *command: str, limit_s: float = 30) -> str:
        """What a client command prints; CalledProcessError, with its stderr in a note, if it fails.

        The SLURM_* and SBATCH_* of an allocation that the tests themselves run in are kept from it.
        """
        return self._processes.run(*command, limit_s=limit_s)

    def wait(self, ready: Callable[[], T], limit_s: float = 30, what: str = "condition") -> T:
        """Poll `ready` until it returns something true, and return that.

        TimeoutError, with the ends of the daemons' logs, if it never does.
        """
        return self._processes.wait(ready, limit_s, what)

    def sacct(self, job_id: int | str, *options: str) -> list[dict[str, str]]:
        """Slurm's accounting of a job: a dict per line, its steps included (`-X`: without).

        `--duplicates` adds the earlier lives of a requeued job. Slurm fills records in late: a job
        is known after up to a second, the elements of an array and all of `NodeList` after five.
        """
        command = ["sacct", "--parsable2", f"--jobs={job_id}", f"--format={SACCT_FIELDS}"]
        head, *lines = self.run(*command, *options).splitlines()
        return [dict(zip(head.split("|"), line.split("|"), strict=True)) for line in lines]

    def job(self, job_id: int | str) -> dict[str, str]:
        """What slurmctld says of one job: `JobState`, `Restarts`, `Reason`, `NodeList`, ..."""
        words = self.run("scontrol", "--oneliner", "show", "job", str(job_id)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def expire(self, job_id: int | str) -> None:
        """Let a running job's time limit (in minutes, to Slurm) be reached now.

        Slurm looks at limits every 30 s: the job gets its --signal, or ends, in 30 s at most.
        """
        soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 2))
        self.run("scontrol", "update", f"jobid={job_id}", f"endtime={soon}")

    def idle_nodes(self) -> list[str]:
        """The nodes that run nothing and could."""
        found = self.run("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N").split()
        return sorted(set(found), key=self.nodes.index)

    def set_node(self, name: str, state: str, reason: str = "test") -> None:
        """`down` ends and requeues what runs there; `resume` brings the node back."""
        self.run("scontrol", "update", f"nodename={name}", f"state={state}", f"reason={reason}")

    def stop_controller(self) -> None:
        """End slurmctld: jobs go on, clients get no answer."""
        self._processes.end("slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld, from its saved state if there is one, and wait until it answers."""
        self._processes.start("slurmctld", "slurmctld", "-D", asked_by=("scontrol", "ping"))

    def restart_controller(self) -> None:
        """Stop and start slurmctld; it keeps its state."""
        self.stop_controller()
        self.start_controller()

    def end_jobs(self) -> None:
        """Cancel all jobs, by force, and wait until none is left."""
        user = f"--user={self._config.user}"
        # Pending ones first, so that none of them starts on what the others free; then KILL, as a
        # job's handler of a gentler signal may requeue it.
        self.run("scancel", "--state=PENDING", user)
        self.run("scancel", "--signal=KILL", "--full", user)
        self.run("scancel", user)
        self.wait(lambda: not self.run("squeue", "-h"), 20, "no jobs")

    def processes(self) -> list[int]:
        """The ids of all processes of this cluster: daemons, step daemons, jobs."""
        return self._processes.alive()

    def shared_memory(self) -> list[str]:
        """What is in the nodes' /dev/shm, where `own_names` gives each its own."""
        if not self.own_names:
            return []
        folders = (Path(f"/proc/{self._processes.pid(node)}/root/dev/shm") for node in self.nodes)
        return [path.name for folder in folders for path in folder.iterdir()]

    # ---- up and down

    def start(self) -> None:
        """Return once every node is idle; take down what has started if anything fails."""
        if missing := missing_packages():
            raise RuntimeError(f"not installed: {', '.join(missing)}; see tests/debian.sh")
        try:
            self._write_files()
            self._start_munge()
            if self._config.accounting:
                self._start_accounting()
            self.start_controller()
            for node in self.nodes:
                prefix = self._as_host(node) if self.own_names else []
                self._processes.start(node, *prefix, "slurmd", "-D", "-N", node)
            self.wait(lambda: self.idle_nodes() == self.nodes, 60, "all nodes idle")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all jobs, then all daemons, then any process of theirs that is still there.

        `Cluster(root).stop()` ends those that a SIGKILL of the tests has left below `root`.
        """
        if self._processes.is_up("slurmctld"):
            # it may hang or be gone: the jobs' processes are then among the left-over ones
            with contextlib.suppress(subprocess.SubprocessError, TimeoutError):
                self.end_jobs()
        self._processes.end_all()

    def _write_files(self) -> None:
        self.root.mkdir(exist_ok=True)
        self.root.chmod(0o755)
        for name in ("log", "state", "spool"):
            (self.root / name).mkdir()
        for i in range(self._config.gpus):
            # Slurm sets CUDA_VISIBLE_DEVICES for character devices only
            (self.root / f"gpu{i}").symlink_to("/dev/null")
        (self.root / "hosts").touch()
        probe = subprocess.run([*self._as_host(self.nodes[0]), "true"], capture_output=True)
        self.own_names = probe.returncode == 0
        for name, text in self._config.files(self.own_names).items():
            path = self.root / name
            path.write_text(text)
            path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)  # slurmdbd insists

    def _as_host(self, name: str) -> list[str]:
        """Prefix of a command that gives it a host name, /etc/hosts with all nodes, and /dev/shm.

        All in namespaces of its own: the machine's name and files stay as they are.
        """
        script = (
            f"mount --bind {self.root}/hosts /etc/hosts && mount -t tmpfs tmpfs /dev/shm"
            f' && hostname {name} && exec "$@"'
        )
        return ["unshare", "--uts", "--mount", "sh", "-c", script, "sh"]

    def _start_munge(self) -> None:
        key = self.root / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        at = f"--socket={self.root}/munge.sock"
        options = [f"--{kind}-file={self.root}/munged.{kind}" for kind in ("pid", "log", "seed")]
        options += [f"--key-file={key}", "--foreground", at]
        self._processes.start("munged", "munged", *options, asked_by=("munge", at, "--no-input"))

    def _start_accounting(self) -> None:
        # Small, and without syncing to disk: the data lives as long as the tests.
        base = ["--no-defaults", f"--user={self._config.user}", f"--datadir={self.root}/mysql"]
        base += ["--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0"]
        base += ["--skip-name-resolve"]
        install = ["--skip-test-db", "--auth-root-authentication-method=normal"]
        self.run("mariadb-install-db", *base, *install, limit_s=120)
        at = f"--socket={self.root}/mysql.sock"
        server = [at, "--bind-address=127.0.0.1", f"--port={self._config.ports['mariadbd']}"]
        server += [f"--pid-file={self.root}/mariadbd.pid", "--performance-schema=OFF"]
        server += ["--innodb-lock-wait-timeout=900"]  # slurmdbd warns below that
        client = ("mariadb", "--no-defaults", at, "--user=root")
        self._processes.start(
            "mariadbd", "mariadbd", *base, *server, asked_by=(*client, "--execute=SELECT 1")
        )
        self.run(*client, f"--execute={SQL}")
        self._processes.start(
            "slurmdbd", "slurmdbd", "-D", asked_by=("sacctmgr", "--noheader", "show", "cluster")
        )
        add = ["sacctmgr", "--immediate", "add"]
        self.run(*add, "cluster", "test")
        if accounts := ",".join(self.accounts):
            self.run(*add, "account", accounts)
            self.run(*add, "user", self._config.user, f"account={accounts}")


def _free_ports(num: int) -> list[int]:
    """Ports below those that the kernel gives to clients, so that a restarted daemon gets its own.

    Drawn at random, so that two clusters that start together do not draw the same ones.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), num + 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found[:num]
