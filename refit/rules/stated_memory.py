"""Do a job's weights fit the device memory that its cluster states? Torch-free, nothing is run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refit.job import Job
from refit.layout.layout import IntArray, Placement
from refit.layout.tensors import Catalogue
from refit.model.architecture import tensors_of
from refit.model.convention import build_of
from refit.model.weight_bytes import of_sides
from refit.rules import devices


def weights_fit(job: Job, placement: Placement) -> str | None:
    """A measurement whose weights alone are too large for the stated memory is not begun.

    Of staging nothing is asked: it depends on the method, which the ranks' own machine chooses.
    mode=plan says it all, as a prediction that ends as `oom`.
    """
    stated = job.cluster.hardware.memory_gb is not None
    if job.mode == "plan" or not stated or not _on_stated_device(job):
        return None
    return shortage(job, held(tensors_of(job, placement, build_of(job).convention), placement))


def held(catalogue: Catalogue, placement: Placement) -> dict[str, IntArray]:
    """[world] each: bytes of weights of the source and of the destinations on every rank."""
    return {
        "source": of_sides(catalogue, placement, placement.source),
        "destination": of_sides(catalogue, placement, *placement.destinations),
    }


def shortage(job: Job, bytes_held: Mapping[str, IntArray]) -> str | None:
    """Why the fullest rank does not fit its device, or None.

    Args:
        bytes_held: [world] by what it is: source, destination, and staging where that is known.
    """
    total = np.sum(list(bytes_held.values()), axis=0)
    limit, rank = job.cluster.hardware.memory_gb, int(total.argmax())
    if limit is None or total[rank] <= limit * 1e9:
        return None
    parts = " + ".join(f"{name} {of[rank] / 1e9:.2f}" for name, of in bytes_held.items())
    weights = bytes_held["source"] + bytes_held["destination"]
    ways = ["more GPUs per layout"]
    if job.placement_mode == "collocated":
        ways.append("non-collocated mode")
    if weights.max() <= limit * 1e9:  # only staging is too much
        ways.append("a smaller refit.bucket_mb")
    return (
        f"rank {rank} needs {total[rank] / 1e9:.2f} GB of device memory ({parts}), cluster"
        f" '{job.cluster.name}' has {limit:g} GB; use {' or '.join(ways)}"
    )


def _on_stated_device(job: Job) -> bool:
    """Whether the ranks will run on what `cluster.hardware` describes, as far as is known here."""
    cluster = job.cluster
    if cluster.device == "auto" and cluster.launcher == "slurm":
        return True  # its nodes are elsewhere
    return devices.device(job) == cluster.hardware.device
