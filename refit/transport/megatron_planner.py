"""Megatron's own planner without ranks: which block goes where in its refit of a setup."""

from __future__ import annotations

# first: it imports megatron-core without the noise that this makes
import refit.weights.megatron_build  # noqa: F401

# isort: split
from typing import Any

import numpy as np
import torch
from megatron.core.resharding import planner
from megatron.core.resharding.utils import ParameterMetadata, TransferOp

from refit.errors import UserError
from refit.layout.layout import Layout
from refit.layout.tensors import ITEMSIZE, Catalogue, Shard
from refit.model import megatron_versions as versions
from refit.plan.copies import Rows
from refit.rules.setup import Setup
from refit.transport import Unsupported
from refit.transport.megatron import own_words

Groups = dict[str, list[int]]


def planned(setup: Setup) -> Rows:
    """Every block copy of megatron-core's refit, by its planner, one receiving rank after another.

    The planner is given what it would gather of real models with production's experts
    (`refit.peer_names=production`).

    Raises:
        UserError: it refuses the pair, in its own words.
    """
    try:
        return _planned(setup)
    except Unsupported as error:
        raise UserError(str(error)) from error


def _planned(setup: Setup) -> Rows:
    placement, tensors = setup.placement, setup.catalogue
    source, destination = placement.source, placement.destination
    wanted, offered = planner.index_metadata_rosters(
        [
            (_metadata(tensors, source, rank), _metadata(tensors, destination, rank))
            for rank in range(placement.world)
        ]
    )
    rows: list[tuple[int, int, int, int]] = []
    with own_words("cannot plan this refit"):
        for rank in destination.ranks:
            # of the whole schedule only what this rank receives: the others' turns are left out
            mine = planner.build_plan_from_rosters({rank: wanted[rank]}, offered, rank)
            rows += [_row(setup, rank, op) for op in mine.recv_ops]
    tensor, sender, receiver, nbytes = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Rows(tensors, placement, tensor, sender, receiver, nbytes)


def _row(setup: Setup, rank: int, op: TransferOp) -> tuple[int, int, int, int]:
    """One receipt of a rank, as columns of `Rows`."""
    tensor = int(op.param_name)
    family = setup.catalogue.family_of(tensor)
    cut = family.cut(setup.placement.destination)
    start, stop, _ = op.my_slice[cut.axis].indices(cut.sizes[0])
    nbytes = family.elements // cut.length * (stop - start) * ITEMSIZE[family.dtype]
    return tensor, op.peer_rank, rank, nbytes


def _metadata(tensors: Catalogue, side: Layout, rank: int) -> list[ParameterMetadata]:
    """What `extract_param_metadata` says of every tensor that a rank holds of a side."""
    if rank not in side.ranks:
        return []
    groups = _groups(side, rank)
    return [
        _of_shard(shard, side, groups, rank)
        for shard in tensors.held_by(side, rank)
        if versions.REFITS_BUFFERS or not shard.family.is_buffer
    ]


def _groups(side: Layout, rank: int) -> Groups:
    """A rank's process groups by Megatron's names, as global ranks."""
    stage, dp, cp, tp = (int(index) for index in np.argwhere(side.dense == rank)[0])
    _, edp, ep, etp = (int(index) for index in np.argwhere(side.expert == rank)[0])
    return {
        "tp": side.dense[stage, dp, cp, :].tolist(),
        "dp": side.dense[stage, :, cp, tp].tolist(),
        "pp": side.dense[:, dp, cp, tp].tolist(),
        "ep": side.expert[stage, edp, :, etp].tolist(),
        "expt_tp": side.expert[stage, edp, ep, :].tolist(),
    }


def _of_shard(shard: Shard, side: Layout, groups: Groups, rank: int) -> ParameterMetadata:
    family, is_expert = shard.family, shard.family.grid == "expert"
    marks: dict[str, Any] = {
        "tensor_model_parallel": family.axis is not None,
        "partition_dim": family.axis or 0,
        "partition_stride": max(1, len(family.parts)),
    }
    if is_expert:
        layer, leaf = family.name.split(".")[-2:]
        kind = leaf.removesuffix("{expert}")
        marks = versions.expert_attributes(layer, kind, side.tp, side.ep, side.etp)
        marks.setdefault("tensor_model_parallel", side.etp > 1)
    # a last stage that is not the first has tied embeddings under another name
    is_copy = family.stage == "both" and side.pp > 1 and groups["pp"][-1] == rank
    return ParameterMetadata(
        name=str(shard.tensor),
        resolved_name="output_layer.weight" if is_copy else shard.name,
        shape=shard.shape,
        dtype=getattr(torch, family.dtype),
        element_size=getattr(torch, family.dtype).itemsize,
        is_tp=marks["tensor_model_parallel"],
        partition_dim=marks.get("partition_dim", 0),
        partition_stride=marks.get("partition_stride", 1),
        is_ep=not marks.get("allreduce", True),
        num_experts=family.num_experts or None,
        owner_rank=rank,
        tensor_parallel_group_ranks=groups["expt_tp" if is_expert else "tp"],
        expert_parallel_group_ranks=groups["ep"] if not marks.get("allreduce", True) else None,
        data_parallel_group_ranks=groups["dp"],
        pipeline_parallel_group_ranks=groups["pp"],
    )
