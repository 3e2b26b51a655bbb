"""One point of a sweep: a job with its identity, its overrides, and every file name it owns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from refit import told
from refit.errors import UserError
from refit.job import Job
from refit.model_config import Model
from refit.record import allocation
from refit.record.files import read_json as read_json
from refit.record.files import write_atomic as write_atomic


@dataclass(frozen=True)
class Point:
    """A job in a directory.

    Files, all named here:
        point.json: the overrides and the resolved config, frozen when it was last submitted;
            with them `hydra`, where that is not None.
        timing.json: the record of the newest attempt that ended.
        attempts/<n>/: one attempt: its timing.json, rank<k>.log, and the agents' own files.

    Attributes:
        hydra: Hydra's settings where the point's process needs any: env_set, callbacks, logging.
    """

    job: Job
    directory: Path
    overrides: tuple[str, ...] = ()
    hydra: dict[str, Any] | None = None

    @cached_property
    def id(self) -> str:
        """See `identity`."""
        return identity(self.job)

    @property
    def name(self) -> str:
        """Of its folder: model, pair, method, what nodes are asked for, and id."""
        return self.directory.name

    @property
    def frozen(self) -> Path:
        """What `freeze` writes and `load` reads."""
        return self.directory / "point.json"

    @property
    def timing(self) -> Path:
        """The record that stands for the point; there may be none yet."""
        return self.directory / "timing.json"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that it runs with: hydra.job.env_set."""
        return self.hydra["job"]["env_set"] if self.hydra else {}

    @staticmethod
    def of(
        job: Job,
        root: Path,
        overrides: tuple[str, ...] = (),
        hydra: dict[str, Any] | None = None,
    ) -> Point:
        """The point of a job below a results folder."""
        tag = f"{job.model.name}-{job.parallel.name}-{job.refit.name}"
        if job.mode == "plan":
            tag += f"-plan-{job.cluster.name}"
        tag += allocation.suffix(job)
        if job.sweep.repetition > 1:
            tag += f"-r{job.sweep.repetition}"
        own = identity(job)
        point = Point(job, root / f"{tag}-{own}", overrides, hydra)
        vars(point)["id"] = own  # of thousands of points it is worked out once each
        return point

    @staticmethod
    def load(directory: Path) -> Point:
        """A point as it was frozen.

        Raises:
            UserError: there is none in that folder.
        """
        values = read_json(directory / "point.json")
        if values is None or not _is_frozen(values):
            raise UserError(f"{directory} holds no point: no whole point.json in it")
        try:
            job = Job.from_dict(told.asked_again(values["config"]))
        except KeyError as missing:
            raise UserError(
                f"{directory}: its config asks for the environment variable {missing}, which is not"
                " set here"
            ) from None
        hydra = values.get("hydra")
        return Point(job, directory, tuple(values["overrides"]), hydra)

    def freeze(self) -> None:
        """Write what the ranks will read: editing YAML afterwards changes nothing.

        Raises:
            UserError: the folder cannot be written.
        """
        values: dict[str, Any] = {
            "overrides": self.overrides,
            "config": told.as_written(self.job.to_dict()),
        }
        if self.hydra is not None:
            values["hydra"] = self.hydra
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # values of variables, which may be secrets, are for who runs it alone
            mode = 0o600 if self.variables or self.job.cluster.env else 0o666
            write_atomic(self.frozen, json.dumps(values, indent=2), mode)
        except OSError as error:
            raise self._unwritable(error) from None

    def attempt(self, name: str | None = None) -> Attempt:
        """Make the folder of an attempt; earlier attempts stay.

        Args:
            name: what the agents of several nodes agree on; None: the next number.

        Raises:
            UserError: the folder cannot be written.
        """
        attempts = self.directory / "attempts"
        try:
            attempts.mkdir(parents=True, exist_ok=True)
            if name is None:
                return Attempt(_next(attempts))
            (attempts / name).mkdir(exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        return Attempt(attempts / name)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write results to {self.directory}: {error.strerror}; choose another with"
            " hydra.run.dir=... (one run) or hydra.sweep.dir=... (a sweep)"
        )


def _next(attempts: Path) -> Path:
    """Make the folder of the next attempt; of two who ask at once each has one of its own."""
    taken = [int(p.name) for p in attempts.iterdir() if p.name.isdecimal()]
    for number in count(max(taken, default=-1) + 1):
        with suppress(FileExistsError):
            (attempts / str(number)).mkdir()
            break
    return attempts / str(number)


@dataclass(frozen=True)
class Attempt:
    """One try at a point."""

    directory: Path

    @property
    def timing(self) -> Path:
        """The attempt's own record, written by node 0 when it ends."""
        return self.directory / "timing.json"

    def agent_log(self, node: int) -> Path:
        """The traceback of a node's agent; it is there only if the agent itself failed."""
        return self.directory / f"agent{node}.log"

    def rank_log(self, rank: int) -> Path:
        """Output and errors of a global rank, those of C libraries too."""
        return self.directory / f"rank{rank}.log"

    def rank_report(self, rank: int) -> Path:
        """What a global rank measured; see `refit.record.report.RankReport`."""
        return self.directory / f"rank{rank}.json"


_LATER_OF_A_SIDE = (
    "kind",
    "shard",
    "dtype",
    "make_vocab_size_divisible_by",
    "expert_slots",
    "gate_up_interleaved",
    "share_embeddings_and_output_weights",
    "padding",
    "sequence_parallel",
    "order",
    "offset",
    "node_aligned",
    "pipeline_model_parallel_layout",
    "virtual_pipeline_model_parallel_size",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
)
"""Fields of `Degrees` that came when points had identities; null says what was so before."""

_LATER_OF_A_MODEL = (
    "lora",
    "add_norm_bias",
    "add_proj_bias",
    "add_output_bias",
    "post_layernorm",
    "qk_layernorm_over_heads",
    "mtp_num_layers",
    "moe_latent_size",
    "hybrid_override_pattern",
    "mamba_state_dim",
    "mamba_head_dim",
    "mamba_num_groups",
    "mamba_num_heads",
    "experimental_attention_variant",
    "attention_output_gate",
    "linear_attention_freq",
    "linear_conv_kernel_dim",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "dsa_indexer_n_heads",
    "dsa_indexer_head_dim",
    "dsa_indexer_topk",
)
"""Fields of `Model` that came later; its default says what was so before."""


def identity(job: Job) -> str:
    """Ten hex digits over what affects a result: not names, texts, deadlines or sweep settings.

    The first repetition of a point is the point itself, so that repeating it renames nothing. A
    prediction depends on the cluster's rates, a measurement on what the machine really has, and on
    Slurm on what chooses the machine.
    """
    canonical = json.dumps(affecting(job), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def affecting(job: Job) -> dict[str, Any]:
    """What of a config affects a result, as JSON: what `identity` is a hash of."""
    config = asdict(job)
    if job.mode == "measure":
        del config["mode"]
    for group in ("model", "parallel", "refit"):
        del config[group]["name"]
    for refusing in ("published_parameters", "pairs_of"):
        del config["model"][refusing]
    for later in ("include", "exclude"):
        if config["refit"][later] is None:  # as before there was such a field
            del config["refit"][later]
    for later in _LATER_OF_A_MODEL:
        if config["model"][later] == getattr(Model, later):
            del config["model"][later]
    pair = config["parallel"]
    listed = pair["destinations"]
    if listed is None:
        del pair["destinations"]
    for degrees in (pair["source"], pair["destination"], *(listed or ())):
        if not job.model.is_moe and (degrees["etp"] or 0) > 1:
            degrees["etp"] = None  # of experts alone
        for later in _LATER_OF_A_SIDE:
            if degrees[later] is None:
                del degrees[later]
    if config["refit"]["cast_at"] == "auto":
        del config["refit"]["cast_at"]
    if job.refit.method != "megatron":
        del config["refit"]["peer_names"]  # no other reads it
    del pair["use_case"], pair["model"], pair["nodes"]
    del config["bench"]["deadline_s"], config["sweep"]
    if job.sweep.repetition > 1:
        config["repetition"] = job.sweep.repetition
    config["cluster"] = _of_cluster(job, config["cluster"])
    return config


def _of_cluster(job: Job, cluster: dict[str, Any]) -> dict[str, Any]:
    """What of a cluster affects a result."""
    names = ["name", "ranks_per_node", "device"]
    if job.mode == "plan":
        names.append("hardware")
    elif job.cluster.env is not None:
        names.append("env")
    asked = allocation.asked(job)
    return {**{name: cluster[name] for name in names}, **({"slurm": asked} if asked else {})}


def _is_frozen(values: Mapping[str, Any]) -> bool:
    """Whether these can be what `Point.freeze` wrote."""
    overrides, hydra = values.get("overrides"), values.get("hydra")
    texts = isinstance(overrides, list) and all(isinstance(o, str) for o in overrides)
    env_set: Any = {}
    if hydra is not None:
        env_set = hydra["job"].get("env_set") if _has(hydra, "job") else None
    return texts and isinstance(values.get("config"), dict) and isinstance(env_set, dict)


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), dict)
