"""Jobs for tests: small ones that run anywhere, and one whose every field can be said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from refit.job import Bench, Cluster, Degrees, Job, Parallel, Refit
from refit.layout.layout import Placement
from refit.layout.place import place
from refit.model_config import Model
from refit.rules.methods import METHODS

# gated experts, a shared expert, expert bias, a dense first layer
TINY = Model(
    name="tiny",
    num_layers=2,
    hidden_size=64,
    num_attention_heads=4,
    num_query_groups=4,
    ffn_hidden_size=96,
    gated_linear_unit=True,
    add_bias_linear=False,
    normalization="RMSNorm",
    qk_layernorm=True,
    vocab_size=500,
    make_vocab_size_divisible_by=16,
    share_embeddings_and_output_weights=False,
    position_embedding_type="rope",
    seq_length=32,
    max_position_embeddings=32,
    num_moe_experts=4,
    moe_layer_freq=[0, 1],
    moe_ffn_hidden_size=48,
    moe_shared_expert_intermediate_size=32,
    moe_router_score_function="sigmoid",
    moe_router_enable_expert_bias=True,
)

# one layer, 728 parameters of two bytes: embeddings 2 * 16 * 8, linear_qkv 24 * 8, linear_proj
# 8 * 8, gated fc1 16 * 8, fc2 8 * 8, three norms of 8
SMALL = Model(
    name="small",
    num_layers=1,
    hidden_size=8,
    ffn_hidden_size=8,
    num_attention_heads=4,
    vocab_size=16,
    make_vocab_size_divisible_by=4,
    gated_linear_unit=True,
    add_bias_linear=False,
    normalization="RMSNorm",
    position_embedding_type="rope",
    share_embeddings_and_output_weights=False,
)


def dense(model: Model, **changes: Any) -> Model:
    """The model without its experts: an MLP in every layer."""
    return replace(
        model,
        num_moe_experts=None,
        moe_layer_freq=1,
        moe_ffn_hidden_size=None,
        moe_shared_expert_intermediate_size=None,
        moe_router_score_function="softmax",
        moe_router_enable_expert_bias=False,
        **changes,
    )


def methods_on_cpu(across_nodes: bool = False) -> list[str]:
    """The methods that carry out our plan between CPU ranks, or between those of several nodes."""
    return [
        name
        for name, method in METHODS.items()
        if "cpu" in method.devices
        and not method.plans_itself
        and not (across_nodes and method.one_node)
    ]


def job(
    source: Degrees | None = None,
    destination: Degrees | None = None,
    mode: str = "non-collocated",
    method: str = "ipc",
    model: Model = TINY,
    ranks_per_node: int = 4,
    device: str = "cpu",
    **rest: Any,
) -> Job:
    """A job on `build=shards`; by default TP 2 -> TP 1 on three ranks of which
    rank 2 is the destination, and one idle. With `destinations` it has those."""
    listed = rest.pop("destinations", None)
    assert listed is None or destination is None
    bench = replace(Bench(iterations=2, deadline_s=60.0), **rest.pop("bench", {}))
    refit = replace(Refit(name=method, method=method), **rest.pop("refit", {}))
    return Job(
        model=model,
        parallel=Parallel(
            name="pair",
            mode=mode,
            source=source or Degrees(tp=2, etp=1),
            destination=destination or (Degrees() if listed else Degrees(tp=1, etp=1)),
            destinations=listed,
        ),
        refit=refit,
        cluster=Cluster(name="local", ranks_per_node=ranks_per_node, device=device),
        bench=bench,
        build=rest.pop("build", "shards"),
        **rest,
    )


def fitting(what: Job) -> Job:
    """On one node, whose last rank takes part: each idle one behind it costs a start."""
    return replace(what, cluster=replace(what.cluster, nodes=1, ranks_per_node=place(what).end))


def placed(
    source: Degrees,
    destination: Degrees | None = None,
    mode: str = "non-collocated",
    model: Model = TINY,
    ranks_per_node: int = 8,
    refit_mode: str = "auto",
    destinations: list[Degrees] | None = None,
) -> Placement:
    """Where all sides stand."""
    return place(
        job(
            source,
            destination,
            mode,
            model=model,
            ranks_per_node=ranks_per_node,
            refit={"mode": refit_mode},
            destinations=destinations,
        )
    )


def make_job(**changes: Any) -> Job:
    """The table's first row and model; `make_job(model__num_layers=8)` sets `model.num_layers`."""
    values: dict[str, Any] = {
        "model": {
            "name": "moe",
            "num_layers": 4,
            "hidden_size": 1024,
            "num_attention_heads": 8,
            "ffn_hidden_size": 2688,
            "gated_linear_unit": True,
            "add_bias_linear": False,
            "normalization": "RMSNorm",
            "position_embedding_type": "rope",
            "share_embeddings_and_output_weights": False,
            "vocab_size": 50257,
            "num_moe_experts": 16,
            "moe_shared_expert_intermediate_size": 512,
        },
        "parallel": {
            "name": "pair",
            "source": {"tp": 2, "ep": 2, "etp": 1},
            "destination": {"tp": 2, "ep": 1, "etp": 1},
        },
        "refit": {"name": "auto"},
        "cluster": {"name": "local"},
    }
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        node = values
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return Job.from_dict(values)
