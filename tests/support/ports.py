"""Transports that say where their ranks listen: `refit.method=tests.support.ports:gloo`."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from refit.rules.methods import locate

LISTEN = "0A"


def listening(pid: str = "self") -> list[str]:
    """Addresses at which a process listens: TCP's, of both versions."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(file))
        except OSError:  # closed meanwhile
            continue
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        table = Path(f"/proc/{pid}/net/{name}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and f"socket:[{inode}]" in sockets:
                words = bytes.fromhex(local.partition(":")[0])
                address = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                found.append(socket.inet_ntop(family, address))
    return found


class _Listening:
    def execute(self) -> dict[str, float]:
        phases: dict[str, float] = super().execute()  # type: ignore[misc]
        of_ranks: list[list[str]] = [[]] * dist.get_world_size()
        dist.all_gather_object(of_ranks, listening())
        self._listening = [address for of_rank in of_ranks for address in of_rank]
        return phases

    @property
    def details(self) -> Mapping[str, int | str]:
        return {"listening": " ".join(sorted(set(self._listening)))}


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    module, transport = locate(name)
    return type(name, (_Listening, getattr(importlib.import_module(module), transport)), {})
