"""The typed config of one point. DictConfig and YAML end here; everything below takes a `Job`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Optional

from refit.errors import UserError
from refit.fields import MISSING, build, hints
from refit.model_config import NOT_MODELLED, Model
from refit.other_names import meant

# `Optional[...]` and not `... | None` below: OmegaConf 2.3 reads these hints as the schema.

LIST_OF_SIDES = (
    "write 'parallel.destinations=[{tp: 2, gpus: 4}, {tp: 1, gpus: 2}]', or"
    " parallel.destinations=null"
)


@dataclass(frozen=True)
class Degrees:
    """One side's parallel degrees, as a user writes them; `refit.layout.layout` resolves them."""

    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    etp: Optional[int] = None  # null: a source's tp, a destination's source.etp; 1 without experts
    gpus: Optional[int] = None  # default tp*cp*pp*ep
    num_layers_in_first_pipeline_stage: Optional[int] = None
    num_layers_in_last_pipeline_stage: Optional[int] = None
    # all below: null means what was before there was such a field, and then renames no point
    order: Optional[str] = None  # of ranks, fastest first, as Megatron's: tp-cp-ep-dp-pp
    offset: Optional[int] = None  # the side's first rank; null: 0, or behind the source
    node_aligned: Optional[bool] = None  # true: it starts at the next node's first rank
    # layers of each stage: [3,1], or Megatron's string 'Et*3|tL'; k*pp of them: k virtual stages
    pipeline_model_parallel_layout: Any = None
    virtual_pipeline_model_parallel_size: Optional[int] = None
    account_for_embedding_in_pipeline_split: Optional[bool] = None
    account_for_loss_in_pipeline_split: Optional[bool] = None
    # activations cut along the sequence between TP's cuts, which training with TP and EP needs: no
    # weights depend on it; null: not said, and nothing is remarked
    sequence_parallel: Optional[bool] = None
    # megatron, which null means | fsdp: PyTorch's fully_shard | engine: vLLM's or SGLang's
    kind: Optional[str] = None
    gate_up_interleaved: Optional[bool] = None  # of an engine: rows of gate and up in turn
    shard: Optional[int] = None  # of fsdp: ranks that share each parameter; null: all its gpus
    dtype: Optional[str] = None  # of what the model has in bfloat16: that | float16 | float32
    # slots of one tensor for all of a rank's experts, as engines have them; null: a tensor each
    expert_slots: Optional[int] = None
    # false: a destination has what the model ties twice; null: as the model
    share_embeddings_and_output_weights: Optional[bool] = None
    # null: a source's is the model's, and a destination has as many rows as its source
    make_vocab_size_divisible_by: Optional[int] = None
    # what lies beside the weights in a shard: zero, which null means, and stays so | unchecked
    padding: Optional[str] = None


@dataclass(frozen=True)
class Parallel:
    """One source -> destination pair of layouts, or a source and several destinations."""

    name: str = MISSING
    use_case: str = ""
    model: Optional[str] = None  # the model whose pair this is; null: any
    mode: str = "non-collocated"  # the pair's own: collocated (same ranks) | non-collocated
    nodes: Optional[int] = None  # the most that the pair is for, whatever the cluster has
    source: Degrees = field(default_factory=Degrees)
    destination: Degrees = field(default_factory=Degrees)
    # [{tp: 4, gpus: 8}, {tp: 1, ep: 8}]: several, in place of `destination`; null: that one
    destinations: Any = field(default=None, metadata={"each": Degrees, "example": LIST_OF_SIDES})

    @property
    def sides(self) -> dict[str, Degrees]:
        """The source, then each destination, by their names in the config."""
        listed = self.destinations is not None
        receiving = self.destinations if listed else [self.destination]
        names = ("source", *destination_names(len(receiving), listed))
        return dict(zip(names, (self.source, *receiving), strict=True))

    def etp_of(self, side: Degrees) -> int:
        """The ETP of one of `sides`: as it says, or by default.

        A source's is its TP and a destination's the *source's* ETP, both Megatron's; a
        destination's its own TP where the source is no Megatron. Engines cut experts over TP where
        EP does not deal them out whole.
        """
        if side.etp is not None:
            return side.etp
        if side.kind == "engine":
            return side.tp if side.ep == 1 else 1
        of_its_own = side is self.source or self.source.kind == "fsdp"
        return side.tp if of_its_own else self.etp_of(self.source)


def destination_names(count: int, listed: bool) -> tuple[str, ...]:
    """What destinations are called: `destination`, or `destinations[0]`, ... where it is a list."""
    if not listed:
        return ("destination",)
    return tuple(f"destinations[{number}]" for number in range(count))


@dataclass(frozen=True)
class Refit:
    """How the weights travel."""

    name: str = MISSING
    method: str = "auto"  # auto, a name in refit/rules/methods.py, or package.module:Class
    mode: str = "auto"  # auto (the pair's own) | collocated | non-collocated
    bucket_mb: float = 64.0  # largest message in MB (1e6 bytes), and so the unit of staging memory
    in_flight: int = 4  # groups or buckets under way per rank and direction
    max_ops_per_group: int = 512  # sends and receives of one rank that are posted together
    streams: int = 2  # CUDA streams for packing, and as many for unpacking; the CPU has none
    # direct: every replica from a holder | hierarchical: a block crosses to each node once, and the
    # rank that fetched it passes it on
    fanout: str = "direct"
    # where the sides' dtypes differ, who casts: auto (so that fewer bytes travel) | source |
    # destination
    cast_at: str = "auto"
    # lists of patterns over tensors' names, such as ['*.mlp.experts.*']: what travels, and what of
    # it does not; null: all, and nothing
    include: Any = None
    exclude: Any = None
    backend: str = "auto"  # of method megatron: auto | gloo | nccl | nvshmem | nixl
    # of method megatron, how experts are named to it: production (as TEGroupedMLP names them) |
    # installed (as the models that are built here do)
    peer_names: str = "production"


@dataclass(frozen=True)
class Hardware:
    """What mode=plan knows of a cluster. Rates are of one direction, in GB/s (1e9 bytes).

    Efficiencies are the share of a rate that software was seen to reach. All null: rates unknown.
    """

    device: str = "cuda"  # cuda | cpu: decides what refit.method=auto means in a plan
    memory_gb: Optional[float] = None  # of one rank's device
    memory_gbps: Optional[float] = None  # a device's own memory, reads and writes together
    memory_efficiency: float = 1.0
    peer_gbps: Optional[float] = None  # of a rank to the other ranks of its node
    peer_efficiency: float = 1.0
    nic_gbps: Optional[float] = None  # of a rank to other nodes
    nic_efficiency: float = 1.0
    node_gbps: Optional[float] = None  # bytes written by all ranks of a node, where they share it
    latency_us: float = 0.0  # of one operation
    fitted: Any = None  # by `refit.calibrate`, per method: wire, latency_us, staging, fixed_us


@dataclass(frozen=True)
class Cluster:
    """Where the ranks run."""

    name: str = MISSING
    launcher: str = "local"  # local: processes of this machine | slurm: jobs
    nodes: int = 1  # the most nodes a point may take
    ranks_per_node: int = 8
    device: str = "auto"  # auto: a GPU for each rank, shared where there are fewer | cpu | cuda
    hardware: Hardware = field(default_factory=Hardware)
    slurm: Any = None  # what sbatch is asked for, in submitit's names; nulls are left out
    # {CUDA_DEVICE_MAX_CONNECTIONS: 1}: environment variables of the ranks, before they import
    # anything; each point's ranks are then started anew, not forked from what has imported it all
    env: Any = None


@dataclass(frozen=True)
class Bench:
    """What is timed, and for how long a point may take."""

    warmup: int = 0  # refits between the cold one and the timed ones
    iterations: int = 3
    deadline_s: float = 600.0  # of the whole point, from the start of its ranks


@dataclass(frozen=True)
class Sweep:
    """How a sweep treats its points. Not part of a point's identity, but for `repetition`."""

    # retry: keep done points, run failed ones again | cached: keep whatever ended
    # force: run all again | read-only: run nothing
    mode: str = "retry"
    dry_run: bool = False  # print what would be run, and where
    exclude: Any = None  # a list of patterns: points whose directory's name matches are dropped
    repeat: int = 1  # run each point so often; a higher number keeps the runs that are done
    repetition: int = 1  # which of them this one is; set by the sweep, and part of the identity
    interleave: bool = False  # the first repetition of every point, then the second of every point
    wait: bool = True  # False: submit to Slurm and return
    here: bool = False  # run on the nodes of the allocation that this process is in
    pack: int = 1  # points of one shape that share an allocation, one after another
    # jobs of Slurm's run the code as it is now; False: as it is when they start
    snapshot: bool = True
    max_attempts: int = 3  # for what Slurm took away: preemption, node failure, time limit


@dataclass(frozen=True)
class Job:
    """One point of a sweep, whole."""

    model: Model = field(default_factory=Model)
    parallel: Parallel = field(default_factory=Parallel)
    refit: Refit = field(default_factory=Refit)
    cluster: Cluster = field(default_factory=Cluster)
    bench: Bench = field(default_factory=Bench)
    sweep: Sweep = field(default_factory=Sweep)
    build: str = (
        "megatron"  # megatron: real GPTModels | shards: the same tensors, plainly allocated
    )
    verify: str = "bits"  # bits | logits: bits, and the forward pass of both models compared
    seed: int = 0
    mode: str = "measure"  # measure: real ranks, real bytes | plan: no ranks, a prediction

    @property
    def placement_mode(self) -> str:
        """`collocated` or `non-collocated`: what `refit.mode` says, else the pair's own."""
        return self.parallel.mode if self.refit.mode == "auto" else self.refit.mode

    def to_dict(self) -> dict[str, Any]:
        """The whole config as plain containers, the inverse of `from_dict`."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Job:
        """Build a Job from plain containers.

        Raises:
            UserError: a field is unknown, missing or of the wrong type; the text names it.
        """
        pair = values.get("parallel")
        if isinstance(pair, Mapping) and pair.get("destination", {}) is None:
            if pair.get("destinations") is None:
                raise UserError(
                    "'parallel.destination' is null, and parallel.destinations is no list; one of"
                    " them says where the weights go"
                )
            pair = {key: value for key, value in pair.items() if key != "destination"}
            values = {**values, "parallel": pair}
        job: Job = build(Job, values, unknown_field)
        if job.parallel.destinations is not None and job.parallel.destination != Degrees():
            raise UserError(
                "parallel.destination and parallel.destinations are both given, and a pair has one"
                " or the other; set parallel.destination=null or parallel.destinations=null"
            )
        return job


def unknown_field(cls: Any, key: str, where: str) -> str:
    """What to say of a key that a config class does not have.

    Args:
        cls: a dataclass of this module.
        where: the key with the path to it, such as `model.mtp_num_layers`.
    """
    if clause := meant(key, where.removesuffix(key), cls is Degrees):
        return f"unknown field '{where}'; {clause}. {_ALL}"
    names = [declared.name for declared in fields(cls)]
    not_modelled = NOT_MODELLED if cls is Model else {}
    close = get_close_matches(key, [*names, *not_modelled], 1)
    if close and close[0] in not_modelled:
        weights = not_modelled[close[0]]
        return (
            f"'{where}' is not modelled: {weights} would be missing, and every number of the refit"
            " be wrong. Leave it out only for a model that does not have it"
        )
    guesses = _elsewhere(key) or close
    hint = f"did you mean {' or '.join(guesses)}? " if guesses else ""
    return f"unknown field '{where}'; {hint}{_ALL}"


_ALL = "All fields there are: python -m refit.run --cfg job"


def _elsewhere(key: str) -> list[str]:
    """Where there is a field of this name."""
    groups = hints(Job)
    groups |= {"parallel.source": Degrees, "parallel.destination": Degrees}
    found = {name: cls for name, cls in groups.items() if is_dataclass(cls)}
    return [
        f"{name}.{key}"
        for name, cls in found.items()
        if any(declared.name == key for declared in fields(cls))
    ]
