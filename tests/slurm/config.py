"""The configuration files of the tests' Slurm cluster, as text."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SLURM = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={root}/munge.sock,cred_expire={requeue_wait_s}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
# nothing that needs cgroups, or the hardware that the nodes pretend to have
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
# quick reactions
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=1,bf_max_time=1
KillWait={kill_wait_s}
CompleteWait=0
# a node that is set down stays down
ReturnToService=1
# memory is not enforced, and jobs that do not ask for any still share a node
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# a job gets the signal of its own --signal on preemption as well
SlurmctldParameters=preempt_send_user_signal
MaxArraySize={max_array_size}
# ids differ from one cluster to the next: submitit takes an old <id>_0_result.pkl for an answer
FirstJobId={first_job_id}
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_s}
"""
# The connection to slurmdbd does not read AuthInfo: munge's socket is named once more.
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[slurmdbd]}
AccountingStoragePass={root}/munge.sock
AccountingStorageTRES=gres/gpu
"""
SLURMDBD = """\
AuthInfo=socket={root}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[slurmdbd]}
SlurmUser={user}
# else a user with a capital letter would have no account
Parameters=PreserveCaseUser
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[mariadbd]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""
# Slurm's daemons listen on what their host's name resolves to, or on all addresses.
LOOPBACK = "CommunicationParameters=NoInAddrAny"


@dataclass(frozen=True)
class Config:
    """All that the files depend on; `ports` by daemon, that of a slurmd by its node."""

    root: Path
    user: str
    nodes: Sequence[str]
    gpus: int
    cpus: int
    memory_mb: int
    ports: Mapping[str, int]
    first_job_id: int
    max_array_size: int
    accounting: bool
    enforce_accounts: bool
    kill_wait_s: int
    grace_s: int
    requeue_wait_s: int

    def files(self, own_names: bool) -> dict[str, str]:
        """Text by file name. `own_names`: each node has its own name as its host name."""
        host = socket.gethostname().split(".")[0]
        values = {**vars(self), "host": host}
        slurm, slurmdbd = SLURM.format(**values), SLURMDBD.format(**values)
        if _is_loopback(host):
            slurm += f"{LOOPBACK},NoCtldInAddrAny\n"
            slurmdbd += f"{LOOPBACK}\n"
        if self.accounting:
            slurm += ACCOUNTING.format(**values)
        if self.enforce_accounts:
            slurm += "AccountingStorageEnforce=limits\n"
        for node in self.nodes:
            slurm += (
                f"NodeName={node} NodeHostname={node if own_names else host} NodeAddr=127.0.0.1"
                f" Port={self.ports[node]} CPUs={self.cpus} RealMemory={self.memory_mb}"
                f" Gres=gpu:{self.gpus}\n"
            )
        # "localhost" stays the first name of 127.0.0.1, and our names come before the machine's.
        names = ["localhost", *self.nodes]
        hosts = "".join(f"127.0.0.1 {name}\n" for name in names)
        return {
            "slurm.conf": slurm,
            "slurmdbd.conf": slurmdbd,
            "gres.conf": f"AutoDetect=off\nName=gpu File={self.root}/gpu[0-{self.gpus - 1}]\n",
            "hosts": hosts + Path("/etc/hosts").read_text(),
        }


def _is_loopback(host: str) -> bool:
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False
