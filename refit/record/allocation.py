"""Which nodes: what of `cluster.slurm` can change a result, and what a job really ran on. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from refit.job import Job

FREE = frozenset(
    (
        # who pays, who is told, what it is called
        *("account", "comment", "job_name", "mail_type", "mail_user", "wckey"),
        # when it runs, for how long, how many at once
        *("time", "time_min", "array_parallelism", "begin", "deadline", "dependency", "hold"),
        *("nice", "priority", "requeue", "no_requeue", "signal_delay_s", "signal", "teardown"),
        # what is written down
        *("stderr_to_stdout", "open_mode", "quiet", "verbose", "parsable"),
    )
)
"""What sbatch may be asked for without another result: no part of a point's identity.

All else is: the nodes that a job may get, its share of them, and what it does before it measures.
"""

NAMED = (
    *("partition", "constraint", "nodelist", "exclude", "reservation", "qos"),
    *("gres", "gpus", "gpus_per_node"),
)
"""What chooses nodes, and is therefore in the name of a point that asks for it."""

RANGE = 100_000  # of names in brackets: more nodes than any cluster has

_GPUS = ("gres", "gpus", "gpus_per_node", "gpus_per_task", "num_gpus")


def asked(job: Job) -> dict[str, Any]:
    """What a measurement on Slurm asks for that can change its result, in `cluster.slurm`'s names.

    Empty for all other jobs. A GPU for each rank of a node, as the shipped file asks, goes without
    saying; `gpus_per_node` is 0 where no GPU is asked for.
    """
    if job.mode != "measure" or job.cluster.launcher != "slurm":
        return {}
    said = job.cluster.slurm if isinstance(job.cluster.slurm, Mapping) else {}
    more = said.get("additional_parameters")
    values = {**said, **(more if isinstance(more, Mapping) else {})}
    found = {
        name: [str(item) for item in value] if isinstance(value, list) else str(value)
        for key, value in values.items()
        if (name := str(key).replace("-", "_")) not in FREE | {"additional_parameters"}
        if value is not None and value is not False and value != []
    }
    if not any(name in found for name in _GPUS):
        found["gpus_per_node"] = "0"
    elif found.get("gpus_per_node") == str(job.cluster.ranks_per_node):
        del found["gpus_per_node"]
    return found


def suffix(job: Job) -> str:
    """`-partition_low-constraint_h100`: what a point's name says of the nodes it asks for."""
    said = asked(job)
    return "".join(
        f"-{name}_{'-'.join(re.findall('[A-Za-z0-9]+', str(said[name])))[:30]}"
        for name in NAMED
        if said.get(name, "0") != "0"
    )


def elsewhere(job: Job, environment: Mapping[str, Any]) -> str | None:
    """How what something ran on is not what a job asks for, or None, also where nobody can say.

    A job may have been moved, or run in an allocation that was made for something else.

    Args:
        environment: of a record; see `refit.record.environment.describe`.
    """
    said, (nodes, partition) = asked(job), ran_on(environment)
    if partition and partition not in str(said.get("partition", partition)).split(","):
        return f"it ran in partition {partition}, and {_said('partition', said)} is asked for"
    if not partition or not nodes:
        return None
    lacking = [name for name in _wanted("nodelist", said) if name not in nodes]
    if lacking or not set(nodes).isdisjoint(_wanted("exclude", said)):
        which = "nodelist" if lacking else "exclude"
        return f"it ran on {','.join(nodes)}, and {_said(which, said)} is asked for"
    return None


def _wanted(name: str, said: Mapping[str, Any]) -> list[str]:
    text = str(said.get(name, ""))
    return [] if "/" in text else node_names(text)  # a file of names is Slurm's to read


def _said(name: str, said: Mapping[str, Any]) -> str:
    return f"cluster.slurm.{name}={said[name]}"


def ran_on(environment: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """The nodes, and the partition or None, that a record's environment says it ran on."""
    slurm = environment.get("slurm") or {}
    nodes = environment.get("nodes")
    if nodes is None:  # a record from before there was such a field
        host = environment.get("host")
        listed = node_names(slurm.get("SLURM_JOB_NODELIST", ""))
        nodes = listed or ([host] if host else [])
    return list(nodes), environment.get("partition") or slurm.get("SLURM_JOB_PARTITION")


def node_names(text: str) -> list[str]:
    """`a[1-2,07],b` -> a1, a2, a07, b: a list of nodes as Slurm writes it."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)
    return [name for part in parts for name in _expanded(part)]


def _expanded(part: str) -> Iterator[str]:
    found = re.fullmatch(r"([^\[]*)\[([\d,-]+)\](.*)", part)
    if not found:
        yield part
        return
    head, numbers, tail = found.groups()
    for number in _numbers(numbers):
        yield from (f"{head}{number}{end}" for end in _expanded(tail))


def _numbers(text: str) -> Iterator[str]:
    for low, high in re.findall(r"(\d{1,9})(?:-(\d{1,9}))?", text):
        last = min(int(high or low), int(low) + RANGE)
        yield from (str(n).zfill(len(low)) for n in range(int(low), last + 1))
