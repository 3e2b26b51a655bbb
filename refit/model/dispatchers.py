"""Which token dispatcher suits an expert-parallel degree. No weights depend on it."""

from __future__ import annotations

ALLGATHER_MAX_EP = 4  # the reference documents: allgather up to EP 4, all-to-all above


def suited(ep: int) -> str:
    """`allgather` or `alltoall`; empty where no tokens travel, at EP 1."""
    if ep == 1:
        return ""
    return "allgather" if ep <= ALLGATHER_MAX_EP else "alltoall"
