"""The 123 MoE training workloads: what they are made of, and each as a model and a pair of layouts.

A grid of models, worlds, TP and PP, and thirteen single ones. In all of them
world = TP * PP * EP * DP, where DP is the *expert* data parallel size and experts are cut over TP
(ETP = TP); there are 16 experts with two matrices each (not gated), top-2. What the workload files
leave open is Megatron's default, or its only way: no linear biases (ETP > 1 has none), rotary
positions.

Where layers do not divide among the stages, the first and the last have fewer than the others, as
Megatron can be told: of 36 layers on 8 stages 3, and 5 in each of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from refit.job import Cluster, Degrees, Job, Parallel, Refit
from refit.model_config import Model

if TYPE_CHECKING:  # Hydra asks for the options at every start, and layouts need numpy
    from refit.layout.layout import Layout

NUM_EXPERTS, TOPK, VOCABULARY = 16, 2, 50257
SHAPES = {  # layers, hidden size, feed-forward size, heads
    "gpt_7B": (36, 4096, 16384, 32),
    "gpt_13B": (40, 5120, 20480, 40),
    "gpt_22B": (48, 6144, 24576, 64),
    "gpt_175B": (96, 12288, 49152, 96),
    "llama_405B": (128, 16384, 53248, 128),
}
FIXED_TP = {"gpt_7B": 4, "gpt_22B": 8, "gpt_175B": 8}
"""These take their EP from the grid's TP, and then the TP that suits their size."""


@dataclass(frozen=True)
class Workload:
    """One training run: a model of `SHAPES` on a world of ranks."""

    size: str
    world: int
    tp: int
    pp: int
    ep: int
    global_batch: int
    micro_batch: int = 1
    sequence: int = 4096
    again: bool = False  # the one that the workload files have twice, the second time

    @property
    def name(self) -> str:
        """`gpt_13b_512_tp8pp2ep16`; batches and lengths where they are not the grid's."""
        name = f"{self.size.lower()}_{self.world}_tp{self.tp}pp{self.pp}ep{self.ep}"
        if self.global_batch != 2 * self.world:
            name += f"_gbs{self.global_batch}"
        if self.sequence != 4096:
            name += f"_seq{self.sequence}"
        return name + ("_again" if self.again else "")

    @property
    def experts_per_rank(self) -> int:
        """Of each layer, over EP; ETP cuts each of them further."""
        return NUM_EXPERTS // self.ep

    @property
    def dp(self) -> int:
        """The table's DP: world / (TP * PP * EP)."""
        return self.world // (self.tp * self.pp * self.ep)

    @property
    def gradient_accumulation(self) -> int:
        """Micro batches per dense replica and step."""
        return self.global_batch // (self.micro_batch * (self.world // (self.tp * self.pp)))

    @property
    def end_layers(self) -> int | None:
        """Layers of the first and the last stage where they are fewer than the others'; or None."""
        layers = SHAPES[self.size][0]
        between = -(-layers // self.pp)
        return None if layers % self.pp == 0 else (layers - between * (self.pp - 2)) // 2

    @property
    def model(self) -> Model:
        """What is trained, with its experts, at the workload's sequence length."""
        return replace(shape(self.size), seq_length=self.sequence)

    @property
    def training(self) -> Degrees:
        """What it trains on."""
        return replace(self._dense_training, ep=self.ep, etp=self.tp)

    @property
    def _dense_training(self) -> Degrees:
        return Degrees(
            tp=self.tp,
            pp=self.pp,
            gpus=self.world,
            num_layers_in_first_pipeline_stage=self.end_layers,
            num_layers_in_last_pipeline_stage=self.end_layers,
        )

    @property
    def layout(self) -> Layout:
        """`training` with every default filled in."""
        from refit.layout.place import resolve

        return resolve(self.training, self.tp)

    @property
    def dense_twin(self) -> tuple[Model, Layout]:
        """The same without experts: EP 1, one MLP per layer, same TP, PP and world."""
        from refit.layout.place import resolve

        return replace(dense(self.size), seq_length=self.sequence), resolve(self._dense_training, 1)

    @property
    def parallel(self) -> Parallel:
        """From training to one engine on the first ranks, which every possible workload can take.

        TP 8 and ETP 8 within a node; over nodes PP 4, and one expert per EP rank: 512 GPUs, as the
        largest (llama_405B with 16 experts has 3.7 T parameters) fits on no fewer A100s of 80 GB
        beside what they train; EP 2 to 8 where there are 64 to 256. More engines are more
        `parallel.destination.gpus`.
        """
        ep = min(NUM_EXPERTS, self.world // 32)
        return Parallel(
            name=self.name,
            use_case=f"MoE workload {self.size}, trained on {self.world}",
            mode="collocated",
            source=self.training,
            destination=Degrees(tp=8, pp=4, ep=ep, etp=8, gpus=32 * ep),
        )

    @property
    def dense_parallel(self) -> Parallel:
        """The dense twin's, to the same ranks, as replicas of TP 8 and PP 4."""
        pair = self.parallel
        return replace(
            pair,
            name=f"{self.name}_dense",
            use_case=f"dense twin of a MoE workload, {self.size}, trained on {self.world}",
            source=self._dense_training,
            destination=replace(pair.destination, ep=1, etp=None),
        )

    @property
    def job(self) -> Job:
        """The refit from its layout, on a cluster that is large enough."""
        return Job(
            model=self.model,
            parallel=self.parallel,
            refit=Refit(name="auto"),
            cluster=Cluster(name="large", nodes=-(-self.world // 8)),
            build="shards",
        )

    @property
    def dense_job(self) -> Job:
        """The dense twin's."""
        return replace(self.job, model=self.dense_twin[0], parallel=self.dense_parallel)


def shape(size: str) -> Model:
    """The model of a size, with its experts."""
    layers, hidden, ffn, heads = SHAPES[size]
    return Model(
        name=f"{size.lower()}_16e",
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        add_bias_linear=False,
        vocab_size=VOCABULARY,
        position_embedding_type="rope",
        max_position_embeddings=8192,
        num_moe_experts=NUM_EXPERTS,
        moe_router_topk=TOPK,
        moe_grouped_gemm=True,
    )


def dense(size: str) -> Model:
    """The model of a size, with one MLP per layer in place of experts."""
    plain = shape(size)
    return replace(plain, name=f"{plain.name}_dense", num_moe_experts=None, moe_grouped_gemm=False)


def workloads() -> list[Workload]:
    """All 123, by size, world, TP, PP and EP; one is in the workload files twice, and so here."""
    by_name = {workload.name: workload for workload in (*_grid(), *_SINGLE)}
    sizes = list(SHAPES)
    return sorted(
        by_name.values(),
        key=lambda w: (sizes.index(w.size), w.world, w.tp, w.pp, w.ep, w.name),
    )


@cache
def options() -> dict[str, dict[str, dict[str, Any]]]:
    """What the workloads add to conf/: group -> option -> its fields, as a YAML file would say."""
    models = [made(size) for made in (shape, dense) for size in SHAPES]
    options: dict[str, dict[str, Any]] = {}
    for w in workloads():
        options[w.name] = _option(w, w.model, w.parallel)
        options[w.dense_parallel.name] = _option(w, w.dense_twin[0], w.dense_parallel)
    return {"model": {model.name: asdict(model) for model in models}, "workload": options}


def _option(workload: Workload, model: Model, pair: Parallel) -> dict[str, Any]:
    return {
        "defaults": [{"override /model": model.name}],
        "model": {"seq_length": workload.sequence},
        "parallel": asdict(pair),
    }


def _grid() -> Iterator[Workload]:
    """EP is the largest of 16, 8, 4, 2, 1 that divides the data parallel size."""
    for size in SHAPES:
        for world in (512, 1024, 2048):
            for tp in (4, 8, 16, 32) if size == "gpt_7B" else (8, 16, 32):
                for pp in (2, 4, 8):
                    ep = next(ep for ep in (16, 8, 4, 2, 1) if world // (tp * pp) % ep == 0)
                    yield Workload(size, world, FIXED_TP.get(size, tp), pp, ep, 2 * world)


_TWICE = Workload("gpt_7B", 64, 4, 2, 8, 2048, sequence=2048)
_SINGLE = (
    _TWICE,
    replace(_TWICE, again=True),
    Workload("gpt_7B", 128, 4, 4, 8, 4096, sequence=2048),
    Workload("gpt_7B", 256, 4, 4, 16, 2048, sequence=8192),
    Workload("gpt_7B", 4096, 4, 1, 16, 8192),
    Workload("gpt_13B", 128, 2, 4, 16, 4096, micro_batch=2, sequence=2048),
    Workload("gpt_13B", 256, 4, 4, 16, 4096, sequence=2048),
    Workload("gpt_13B", 256, 4, 4, 16, 4096),
    Workload("gpt_13B", 512, 16, 2, 16, 4096, sequence=2048),
    Workload("gpt_13B", 512, 4, 8, 16, 8192),
    Workload("gpt_22B", 512, 8, 16, 4, 4096),
    Workload("gpt_22B", 1024, 8, 8, 16, 8192),
    Workload("gpt_175B", 2048, 8, 16, 16, 8192, sequence=2048),
    Workload("gpt_175B", 4096, 8, 32, 16, 16384),
)
