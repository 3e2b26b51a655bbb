"""A rank process around the measurement: log, rendezvous, watch its agent, report its end."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import asdict
from datetime import timedelta
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from refit.job import UserError
from refit.ranks import bench
from refit.ranks.task import Task
from refit.record.point import write_atomic
from refit.record.report import RankReport
from refit.rules import devices
from refit.transport import Unsupported


def main(task: Task, agent: Connection, listener: socket.socket | None) -> None:
    """Run one rank to its end.

    It sends ("end", status, reason, report); once that is "ok" it waits to be ended, as a rank that
    goes takes its connections with it, and others may not have heard its last word yet.
    """
    _log_to(task.attempt.rank_log(task.rank))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    threading.Thread(target=_die_with, args=(agent,), daemon=True).start()
    if devices.device(task.setup.job) == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nor may megatron-core find a GPU to build on
    torch.set_num_threads(task.threads)
    gc.freeze()  # what the fork server imported is never garbage; scanning it would copy its pages
    try:
        report = _run(task, agent, listener)
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


def _run(task: Task, agent: Connection, listener: socket.socket | None) -> RankReport:
    def progress(what: str) -> None:
        print(
            f"[{time.strftime('%H:%M:%S') + f'.{time.time_ns() // 10**7 % 100:02d}'}] {what}",
            flush=True,
        )
        agent.send(("progress", what))

    progress("joining")
    world = task.setup.placement.world
    timeout = timedelta(
        seconds=task.setup.job.bench.deadline_s
    )  # the agent ends it first, and knows more
    store = dist.TCPStore(  # type: ignore[attr-defined]  # torch exports it without saying so
        task.host,
        task.port,
        world,
        is_master=listener is not None,
        timeout=timeout,
        master_listen_fd=listener.detach() if listener else None,
    )
    dist.init_process_group("gloo", store=store, rank=task.rank, world_size=world, timeout=timeout)
    report = bench.measure(task.setup, task.rank, task.slab, progress)
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
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(
        error
    ):
        return "oom"
    return "failed"


def _one_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return (
        text
        if isinstance(error, (UserError, Unsupported))
        else f"{type(error).__name__}: {text.splitlines()[0]}"
    )
