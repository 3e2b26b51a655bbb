"""Our cut of an FSDP side against torch's own: fully_shard of a real model, on real processes."""

from __future__ import annotations

import multiprocessing
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes

from refit.job import Degrees
from refit.layout.cut import PADDING
from refit.layout.place import place
from refit.model.architecture import PRODUCTION, tensors_of
from refit.model_config import Model
from refit.rules.setup import Setup
from tests.support.jobs import SMALL, job
from tests.support.sample import thorough

# two query heads a group, and sizes that neither 3 nor 4 ranks divide evenly
MODEL = replace(
    SMALL, num_layers=2, hidden_size=20, ffn_hidden_size=14, num_attention_heads=10,
    num_query_groups=5, kv_channels=2, vocab_size=53,
)  # fmt: skip


class Attention(torch.nn.Module):
    """As LlamaAttention has it: each projection a module of its own."""

    def __init__(self, m: Model) -> None:
        super().__init__()
        size, groups = m.kv_channels or 0, m.num_query_groups or 0
        heads = m.num_attention_heads
        self.q_proj = torch.nn.Linear(m.hidden_size, heads * size, bias=False)
        self.k_proj = torch.nn.Linear(m.hidden_size, groups * size, bias=False)
        self.v_proj = torch.nn.Linear(m.hidden_size, groups * size, bias=False)
        self.o_proj = torch.nn.Linear(heads * size, m.hidden_size, bias=False)
        self.heads, self.groups, self.size = heads, groups, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            p(x).unflatten(-1, (-1, self.size)).transpose(0, 1)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        done: torch.Tensor = self.o_proj(out.transpose(0, 1).flatten(1))
        return done


class Layer(torch.nn.Module):
    def __init__(self, m: Model) -> None:
        super().__init__()
        ffn = m.ffn_hidden_size or 0
        self.input_layernorm = torch.nn.RMSNorm(m.hidden_size)
        self.self_attn = Attention(m)
        self.post_attention_layernorm = torch.nn.RMSNorm(m.hidden_size)
        self.gate_proj = torch.nn.Linear(m.hidden_size, ffn, bias=False)
        self.up_proj = torch.nn.Linear(m.hidden_size, ffn, bias=False)
        self.down_proj = torch.nn.Linear(ffn, m.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        y = self.post_attention_layernorm(x)
        gated = torch.nn.functional.silu(self.gate_proj(y)) * self.up_proj(y)
        out: torch.Tensor = x + self.down_proj(gated)
        return out


class Llama(torch.nn.Module):
    """A model that computes, with the parameters of Hugging Face's LlamaForCausalLM."""

    def __init__(self, m: Model) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(m.vocab_size, m.hidden_size)
        self.layers = torch.nn.ModuleList(Layer(m) for _ in range(m.num_layers))
        self.norm = torch.nn.RMSNorm(m.hidden_size)
        self.lm_head = torch.nn.Linear(m.hidden_size, m.vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: torch.Tensor = self.lm_head(self.norm(x))
        return logits


def parameters_of(name: str) -> list[str]:
    """The trainer's parameters that are fused in a tensor of Megatron's, in order."""
    layer = ".".join(name.split(".")[1:3])
    leaf = ".".join(name.split(".")[3:])
    inside = {
        "input_layernorm.weight": ["input_layernorm"],
        "self_attention.linear_qkv.weight": [f"self_attn.{x}_proj" for x in "qkv"],
        "self_attention.linear_proj.weight": ["self_attn.o_proj"],
        "pre_mlp_layernorm.weight": ["post_attention_layernorm"],
        "mlp.linear_fc1.weight": ["gate_proj", "up_proj"],
        "mlp.linear_fc2.weight": ["down_proj"],
    }
    outside = {
        "embedding.word_embeddings.weight": "embed_tokens",
        "decoder.final_layernorm.weight": "norm",
        "output_layer.weight": "lm_head",
    }
    if name in outside:
        return [f"{outside[name]}.weight"]
    return [f"{layer}.{x}.weight" for x in inside[leaf]]


def fused(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
    """Megatron's tensor: q, k and v group by group, everything else one behind the other."""
    if "linear_qkv" not in name:
        return torch.cat(parts)
    groups = MODEL.num_query_groups or 0
    grouped = [part.unflatten(0, (groups, -1)) for part in parts]
    return torch.cat(grouped, 1).flatten(0, 1)


def rank_main(rank: int, world: int, shard: int, port: int, folder: str) -> None:
    """One process: a model fully sharded, and what of each parameter is here."""
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    torch.manual_seed(7)  # the same model everywhere
    model = Llama(MODEL)
    whole = {name: p.detach().clone() for name, p in model.named_parameters()}
    shape = (world,) if shard == world else (world // shard, shard)
    names = ("replicate", "shard")[-len(shape) :]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    here = {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        here[name] = parameter.to_local().detach().clone()
    tokens = torch.arange(5)
    torch.save(
        {"whole": whole, "here": here, "logits": model(tokens).detach(), "tokens": tokens},
        Path(folder) / f"{rank}.pt",
    )
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.mark.parametrize(("world", "shard"), [thorough((4, 4)), (3, 3), (4, 2)])
def test_each_rank_has_the_rows_that_fully_shard_gives_it(
    tmp_path: Path, world: int, shard: int
) -> None:
    # where no agent of this process has made the server ready, it imports what they need once
    multiprocessing.set_forkserver_preload([__name__])
    args = (world, shard, free_port(), str(tmp_path))
    start_processes(rank_main, args, nprocs=world, start_method="forkserver")
    source = Degrees(kind="fsdp", shard=shard, gpus=world)
    what = job(source, Degrees(kind="fsdp"), model=MODEL)
    placement = place(what)
    tensors = tensors_of(what, placement, PRODUCTION)
    reports: list[dict[str, Any]] = [torch.load(tmp_path / f"{r}.pt") for r in range(world)]
    # a model that computes: sharded, it says what the whole one says
    whole = Llama(MODEL)
    whole.load_state_dict(reports[0]["whole"])
    for rank, report in enumerate(reports):
        assert torch.allclose(report["logits"], whole(report["tokens"]), atol=1e-5)
        compared = set()
        for held in tensors.held_by(placement.source, rank):
            names = parameters_of(held.name)
            compared |= set(names)
            logical = fused(held.name, [report["whole"][name] for name in names])
            assert tuple(logical.shape) == held.family.shape
            theirs = []
            for name in names:
                local = report["here"][name]
                # torch pads all to the first chunk
                size = -(-len(report["whole"][name]) // shard)
                pad = local.new_zeros(size - len(local), *local.shape[1:])
                theirs.append(torch.cat([local, pad]))
            rows = held.global_indices()
            ours = logical[torch.from_numpy(np.maximum(rows, 0))]
            ours[torch.from_numpy(rows == PADDING)] = 0
            assert torch.equal(ours, torch.cat(theirs)), held.name
            assert held.shape == tuple(ours.shape)
        assert compared == set(report["whole"])


def test_llama_8b_on_eight_ranks_in_numbers() -> None:
    m = replace(
        MODEL, num_layers=32, hidden_size=4096, ffn_hidden_size=14336, num_attention_heads=32,
        num_query_groups=8, kv_channels=128, vocab_size=128256,
    )  # fmt: skip
    what = job(
        Degrees(kind="fsdp", gpus=8, shard=8), Degrees(tp=2, gpus=8), "collocated",
        model=m, ranks_per_node=8,
    )  # fmt: skip
    setup = Setup.of(what)
    plan = setup.plan()
    assert plan.bounds.move == 56_213_692_416  # 56.214 GB
    held = [s.nbytes for s in setup.catalogue.held_by(setup.placement.source, 3)]
    assert sum(held) == 2_007_565_312  # 2.008 GB
