"""How a rank meets all others: rank 0's store, and gloo's connections, of which few are made."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from refit.ranks.nodes import LOOPBACK
from refit.ranks.task import Task

# A rank waits so much longer for others: its agent, which knows more, is to end it first. It may
# still be starting other ranks when the deadline is past.
AGENT_FIRST_S = 60.0

# Of a world so large gloo connects two ranks when they first have something to say to each other,
# where torch can (TORCH_GLOO_LAZY_INIT); else every two at once: of 512 ranks 131 thousand pairs.
LAZY_RANKS = 64

SLACK_S = 1.0
"""How late a thread of gloo's may be woken that waits for nothing but the time.

Its loop asks for a wake-up every 10 ms, whatever there is to do. Of 512 ranks on two cores that was
a third of all processor time, and of some thousands it would be all of it. What arrives wakes it at
once, as before.
"""

_SET_TIMERSLACK = 29  # PR_SET_TIMERSLACK, of Linux's prctl

PORTS = (
    "GLOO_SOCKET_IFNAME",
    "UCX_NET_DEVICES",  # of nixl
    "NCCL_SOCKET_IFNAME",
    "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME",
)
"""Which interface a library listens on, by its variable; docs/security.md."""


def join(task: Task, listener: socket.socket | None) -> None:
    """Make this process's default group, gloo's; all ranks of the world call together.

    Args:
        listener: on rank 0, where its store is to be.
    """
    if task.host == LOOPBACK:
        stay_here()
    world = task.setup.placement.world
    if world >= LAZY_RANKS:
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    timeout = timedelta(seconds=task.setup.job.bench.deadline_s + AGENT_FIRST_S)
    store = dist.TCPStore(  # type: ignore[attr-defined]  # torch exports it without saying so
        task.host,
        task.port,
        world,
        is_master=listener is not None,
        timeout=timeout,
        master_listen_fd=listener.detach() if listener else None,
    )
    with seldom_woken():
        dist.init_process_group(
            "gloo", store=store, rank=task.rank, world_size=world, timeout=timeout
        )


@contextmanager
def seldom_woken() -> Iterator[None]:
    """Threads that are started within it wait up to `SLACK_S` longer than they ask for."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_TIMERSLACK, ctypes.c_ulong(int(SLACK_S * 1e9)), 0, 0, 0)  # where refused, as ever
    try:
        yield
    finally:
        prctl(_SET_TIMERSLACK, ctypes.c_ulong(0), 0, 0, 0)  # 0: what it was at the start


def stay_here() -> None:
    """Have the libraries that open ports do so on the loopback alone, as all ranks are here.

    None of them asks who connects. What the user has set for them stays.
    """
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    for variable in PORTS if names else ():
        os.environ.setdefault(variable, names[0])
