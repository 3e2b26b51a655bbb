"""A rank process around the measurement: log, rendezvous, watch its agent, report its end."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import traceback
from dataclasses import asdict
from datetime import datetime
from multiprocessing.connection import Connection

import torch

from refit.errors import UserError
from refit.ranks import bench, device
from refit.ranks.clock import Clock
from refit.ranks.join import LAZY_RANKS, join
from refit.ranks.meeting import SPIN_S, Meeting
from refit.ranks.planned import Planned
from refit.ranks.task import Task
from refit.record.point import write_atomic
from refit.record.report import RankReport
from refit.rules import devices
from refit.transport import Unsupported


def main(task: Task, agent: Connection, listener: socket.socket | None) -> None:
    """Run one rank to its end.

    It sends ("end", status, reason, report). Once the status is "ok" it waits to be killed: a rank
    that exits closes its connections, over which others may still be receiving.
    """
    _log_to(task.attempt.rank_log(task.rank))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    if devices.device(task.setup.job) == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nor may megatron-core find a GPU to build on
    else:
        device.before_cuda(task.setup.job, task.setup.placement)
    gc.freeze()  # what the fork server imported is never garbage; scanning it would copy its pages
    try:
        threading.Thread(target=_die_with, args=(agent,), daemon=True).start()
        torch.set_num_threads(task.threads)
        report = _join_and_measure(task, agent, listener)
        sys.stdout.flush()
        sys.stderr.flush()
        agent.send(("end", "ok", "", report))
        threading.Event().wait()
    except Exception as error:
        traceback.print_exc()
        agent.send(("end", _status_of(error), _one_line(error), None))
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to save, and a peer that died may keep a process group's destructor waiting.
    os._exit(1)


def _join_and_measure(task: Task, agent: Connection, listener: socket.socket | None) -> RankReport:
    """What this rank measured, also written to its file; raises what `bench.measure` does."""

    def progress(doing: str) -> None:
        clock = f"{datetime.now():%H:%M:%S.%f}"[:-4]  # to the hundredth
        print(f"[{clock}] {doing}", flush=True)
        agent.send(("progress", doing))

    progress("joining")
    join(task, listener)
    number = task.neighbours.index(task.rank)
    spin_s = SPIN_S if len(task.of_agent) < LAZY_RANKS else 0.0
    clock = Clock(Meeting(task.meeting, len(task.neighbours), number, spin_s))
    planned = Planned(task.plan, task.of_agent, task.rank)
    report = bench.measure(task.setup, task.rank, task.slab, clock, planned, progress)
    write_atomic(task.attempt.rank_report(task.rank), json.dumps(asdict(report), indent=2))
    return report


def _log_to(path: os.PathLike[str]) -> None:
    """Send this process's output, also that of C libraries, to its own file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _die_with(agent: Connection) -> None:
    """Exit when the agent is gone, however it went: its end of the pipe closes with it."""
    try:
        agent.recv()
    except (EOFError, OSError):
        os._exit(1)


def _status_of(error: Exception) -> str:
    if isinstance(error, Unsupported):
        return "unsupported"
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    # torch's CPU allocator raises a plain RuntimeError, and only its text tells
    if out_of_memory or "DefaultCPUAllocator" in str(error):
        return "oom"
    return "failed"


def _one_line(error: Exception) -> str:
    """The error for the record: as it is where it is written for a user, else its first line."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, (UserError, Unsupported)):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0]}"
