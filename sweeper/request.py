"""What a point asks of sbatch: `cluster.slurm`, read as Slurm would read it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from refit.errors import UserError
from refit.job import Job
from refit.layout.place import place
from refit.record.point import Point
from refit.rules.setup import Setup
from refit.weights import memory
from sweeper.marker import marked

# What a point's layouts and the agents decide, and cluster.slurm therefore may not.
OURS = frozenset(("nodes", "ntasks", "ntasks_per_node", "use_srun", "map_count", "array", "output"))

SHELL_LINES = ("setup", "teardown")
"""What may have several lines: the shell reads it."""

LISTS = ("setup", "teardown", "srun_args")

TEXT = frozenset(
    (
        *("partition", "account", "qos", "constraint", "nodelist", "exclude", "reservation"),
        *("gres", "licenses", "dependency", "begin", "deadline", "python", "export"),
        *("job_name", "comment", "wckey", "mail_type", "mail_user"),
    )
)
"""What is text though it may look like a number: an account, a node, a time of day."""

SITE = "site"
"""Said of `SHARE`: as the site has it."""

SHARE = ("cpus_per_task", "mem")

GPUS = frozenset(("gres", "gpus", "gpus_per_node", "gpus_per_task", "num_gpus"))

# What a node's agent needs, and each of its ranks besides weights: buffers, and on a GPU a context.
HOST_GB, CPU_RANK_GB, GPU_RANK_GB = 2.0, 0.5, 4.0

FLAGS = frozenset(("exclusive", "stderr_to_stdout"))

TIME = re.compile(r"\d+|\d+:\d+|\d+:\d+:\d+|\d+-\d+|\d+-\d+:\d+|\d+-\d+:\d+:\d+|UNLIMITED|INFINITE")

TIMES = "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes"


def parameters(point: Point) -> dict[str, Any]:
    """What a point asks of sbatch, in submitit's names.

    Raises:
        UserError: a value of cluster.slurm is not of the kind that its name needs.
    """
    understood = _understood(point.job.cluster.slurm)
    asked = marked({**share(point.job, understood), **understood}, point.directory.parent)
    asked = {k: v for k, v in asked.items() if not (k in SHARE and v == SITE)}
    more = {str(k).replace("_", "-"): v for k, v in asked.get("additional_parameters", {}).items()}
    cpus = asked.get("cpus_per_task", more.get("cpus-per-task"))
    # of the step: Slurm from 22.05 on does not take it from the job
    per_task = [] if cpus is None else [f"--cpus-per-task={cpus}"]
    return {
        "stderr_to_stdout": True,
        # not asked for: left to themselves submitit asks for five minutes and a wckey of its own
        "time": None,
        "wckey": None,
        **asked,
        "nodes": place(point.job).nodes,
        "ntasks_per_node": 1,
        # one node's agent that ends badly ends the others, and Slurm says FAILED; what the job has
        # of its environment its steps have
        "srun_args": [
            *("--kill-on-bad-exit=1", "--export=ALL", *per_task),
            *asked.get("srun_args", []),
        ],
    }


def share(job: Job, asked: Mapping[str, Any]) -> dict[str, Any]:
    """CPUs and memory of each node, where nothing is said of them: what its ranks need.

    Left to itself Slurm gives a task one core, and the memory of one. `site` says that it may.

    Args:
        asked: `cluster.slurm`, nulls left out.
    """
    more = asked.get("additional_parameters", {})
    said = {str(name).replace("-", "_") for name in (*asked, *more)}
    found: dict[str, Any] = {}
    if not said & {"cpus_per_task", "cpus_per_gpu"}:
        found["cpus_per_task"] = job.cluster.ranks_per_node
    if not said & {"mem", "mem_per_cpu", "mem_per_gpu"}:
        found["mem"] = f"{_memory_gb(job, bool(said & GPUS))}G"
    return found


def _memory_gb(job: Job, has_gpus: bool) -> int:
    """A power of two, so that points that differ little are still jobs of one shape."""
    ranks = job.cluster.ranks_per_node
    if has_gpus and job.cluster.device != "cpu":
        needed_gb = HOST_GB + GPU_RANK_GB * ranks
    else:
        needed_gb = HOST_GB + CPU_RANK_GB * ranks + 2 * _weights_gb(job)
    return 1 << math.ceil(math.log2(needed_gb))


def _weights_gb(job: Job) -> float:
    """Of the fullest node's ranks."""
    key = repr((job.model, job.parallel, job.refit.mode, ranks := job.cluster.ranks_per_node))
    if key not in _WEIGHTS_GB:
        setup = Setup.of(job)
        world = range(setup.placement.world)
        held = memory.needed(setup.catalogue, setup.placement, world)
        each = [sum(both) for both in zip(*held, strict=True)]
        nodes = [sum(each[start : start + ranks]) for start in range(0, len(each), ranks)]
        _WEIGHTS_GB[key] = max(nodes) / 1e9
    return _WEIGHTS_GB[key]


_WEIGHTS_GB: dict[str, float] = {}  # what thousands of points share is worked out once


def _understood(values: Any) -> dict[str, Any]:
    """What `cluster.slurm` asks for, checked as far as submitit does not."""
    if not isinstance(values, dict | None):
        raise UserError(
            f"cluster.slurm={values!r} is not a mapping; conf/cluster/slurm.yaml has its names"
        )
    requested = {k: v for k, v in (values or {}).items() if v is not None}
    _check_lists(requested)
    more = requested.get("additional_parameters", {})
    if not isinstance(more, dict):
        raise UserError(
            f"cluster.slurm.additional_parameters={more!r} is not a mapping of sbatch's own names;"
            " write 'cluster.slurm.additional_parameters={container-image: ...}'"
        )
    at_once = requested.get("array_parallelism", 1)
    if not isinstance(at_once, int) or at_once < 1:
        raise UserError(
            f"cluster.slurm.array_parallelism={at_once!r}: must be a whole number, 1 or more"
        )
    if ours := sorted({*requested, *(str(name).replace("-", "_") for name in more)} & OURS):
        raise UserError(
            f"cluster.slurm cannot say {', '.join(ours)}: a job has one task on each of the nodes"
            " that its layouts need, cluster.ranks_per_node ranks on each"
        )
    _check_lines({**requested, **more})
    for name, value in requested.items():
        if name not in LISTS and name != "additional_parameters":
            check_text(name, value)
    for name, value in more.items():
        if value is False and str(name).replace("-", "_") not in TEXT:
            continue  # a flag that is not asked for
        if value is not True or str(name).replace("-", "_") in TEXT:  # true is a flag
            check_text(str(name), value, "additional_parameters.")
    asked = {k: v for k, v in requested.items() if not (k == "exclusive" and v is False)}
    if more:
        asked["additional_parameters"] = {k: v for k, v in more.items() if v is not False}
    return asked


def _check_lines(asked: Mapping[str, Any]) -> None:
    """What is asked of sbatch is a line each; another line would ask for something else."""
    for name, value in asked.items():
        if not re.fullmatch(r"[A-Za-z][\w-]*", str(name), re.ASCII):
            raise UserError(f"cluster.slurm: {str(name)!r} is no name of an option of sbatch's")
        if name in SHELL_LINES or isinstance(value, Mapping):
            continue
        texts = value if isinstance(value, list) else [value]
        if any(not text.isprintable() for text in texts if isinstance(text, str)):
            raise UserError(
                f"cluster.slurm.{name}={value!r}: a value is one line of printable characters"
            )


def _check_lists(requested: Mapping[str, Any]) -> None:
    for name in LISTS:
        value = requested.get(name, [])
        if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise UserError(
                f"cluster.slurm.{name}={value!r} is not a list of strings; write"
                f" 'cluster.slurm.{name}=[\"...\"]'"
            )


def check_text(name: str, value: Any, where: str = "") -> None:
    """Check that YAML has not made something else of what was written.

    It reads 1:30:00 as 5400, 00123 as 83, no as false and 1e3 as 1000.0, and which of the two was
    written nobody can say any more.

    Raises:
        UserError: it may have; the text says how to write it.
    """
    kind = name.replace("-", "_")
    if kind in ("time", "time_min"):
        _check_time(f"cluster.slurm.{where}{name}", value)
        return
    if isinstance(value, str) or (kind in FLAGS and isinstance(value, bool)):
        return
    if isinstance(value, int) and not isinstance(value, bool) and kind not in TEXT:
        return
    raise UserError(
        f"cluster.slurm.{where}{name}={_word(value)} is not text; YAML may have made it so, as it"
        f' reads 00123 as 83, 1e3 as 1000.0 and no as false; quote it: {name}: "..." in a file,'
        f" 'cluster.slurm.{where}{name}=\"...\"' on the command line"
    )


def _check_time(name: str, value: Any) -> None:
    """Below 60 a number is not what YAML makes of minutes and seconds."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 60:
        return
    if isinstance(value, str):
        if TIME.fullmatch(value.upper()):
            return
        raise UserError(f"{name}={value} is not a time of Slurm's: {TIMES}, or UNLIMITED")
    raise UserError(
        f"{name}={_word(value)} is a number, as which YAML also reads what has colons in it"
        f' (1:30:00 is 5400); quote it: time: "1:30:00" in a file, {name}=1:30:00 when typed,'
        f" minutes as '{name}=\"90\"'"
    )


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
