"""Do both models say the same? Logits of the source and of the refitted destination, compared."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from refit.job import Job
from refit.layout.layout import Placement
from refit.weights.weights import Weights

MAX_TOKENS = 64

TOLERANCE = 1e-9
"""Largest difference allowed, relative to the largest logit.

Both passes run in float64, on upcast copies of the very same bits, so all they differ in is the
order of sums over TP, EP and PP: 3e-16 was measured. In float32 it was 2e-7 with 4 layers, more
with depth, while gate and up exchanged, the likeliest mistake, moved the logits by 6e-6 only:
silu(x) is nearly x/2 where weights are small. And float32 noise flips near ties of a large router.
What Megatron does in float32 anyway (router scores, rotary angles) starts from inputs equal to
1e-16, so it rounds alike but for one time in 1e8.
"""


def compare_logits(
    job: Job,
    placement: Placement,
    rank: int,
    source: Weights | None,
    destination: Weights | None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Run the same tokens through all models; every rank of the world calls this, idle ones too.

    The source's logits come from its first replica; every replica of every destination is compared.

    Args:
        source, destination: this rank's sides, None where it has none.
        device: where the default process group communicates.

    Returns:
        The same on all ranks: `max_abs_diff`, `max_abs_logit` (of the source), `tolerance`
        (relative), `ok`, `tokens`, `dtype`, `dispatcher` (of tokens; None without experts).
    """
    from refit.weights import megatron_build

    tokens = _tokens(job).to(device)
    trained = _logits(job, placement, "source", rank, source, tokens) if source else None
    got = None
    if destination:
        name = next(n for n, s in placement.sides.items() if n != "source" and rank in s.ranks)
        got = _logits(job, placement, name, rank, destination, tokens)
    expected = _broadcast(trained, job, placement, rank, tokens)
    max_diff, max_logit = _largest(got, expected)
    return {
        "max_abs_diff": max_diff,
        "max_abs_logit": max_logit,
        "tolerance": TOLERANCE,
        "ok": max_diff <= TOLERANCE * max_logit and 0 < max_logit < torch.finfo(torch.float64).max,
        "tokens": tokens.shape[1],
        "dtype": "float64",
        "dispatcher": megatron_build.dispatcher(job) if job.model.is_moe else None,
    }


def _tokens(job: Job) -> torch.Tensor:
    """[1, tokens]: the same on every rank, by the job's seed."""
    length = min(job.model.seq_length, job.model.max_position_embeddings, MAX_TOKENS)
    generator = torch.Generator().manual_seed(job.seed)
    return torch.randint(job.model.vocab_size, (1, length), generator=generator)


def _broadcast(
    logits: torch.Tensor | None, job: Job, placement: Placement, rank: int, tokens: torch.Tensor
) -> torch.Tensor:
    """[1, tokens, vocab_size], on every rank those of the source's first replica."""
    root = int(placement.source.dense[-1, 0, 0, 0])  # its first rank on the last stage
    if rank != root:
        shape = (*tokens.shape, job.model.vocab_size)
        logits = torch.empty(shape, dtype=torch.float64, device=tokens.device)
    assert logits is not None
    dist.broadcast(logits, src=root)
    return logits


def _largest(got: torch.Tensor | None, expected: torch.Tensor) -> tuple[float, float]:
    """The largest difference on any rank, and the largest expected logit, both absolute.

    NaN is the largest difference there is; a reduction must not lose it, nor JSON refuse it.
    """
    diff = expected.new_zeros(()) if got is None else (got - expected).abs().max()
    largest = torch.nan_to_num(torch.stack([diff, expected.abs().max()]), nan=float("inf"))
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    max_diff, max_logit = torch.nan_to_num(largest).tolist()
    return max_diff, max_logit


@torch.no_grad()
def _logits(
    job: Job, placement: Placement, side: str, rank: int, weights: Weights, tokens: torch.Tensor
) -> torch.Tensor | None:
    """[1, tokens, vocab_size] in float64 on each rank of the last stage, None on the others."""
    from refit.weights import megatron_build

    layout = placement.sides[side]
    groups = weights.chunks[0].pg_collection
    twins = megatron_build.gpt_models(job, placement, side, rank, torch.float64)
    for twin, original in zip(twins, weights.chunks, strict=True):
        _copy(twin, original)
    length = tokens.shape[1]
    positions = torch.arange(length, device=tokens.device)[None]
    # true: hidden
    mask = torch.ones((1, 1, length, length), dtype=torch.bool, device=tokens.device).triu(1)
    pipeline = [dist.get_global_rank(groups.pp, stage) for stage in range(layout.pp)]
    last, output = layout.pp * layout.virtual_stages - 1, None
    with megatron_build.megatron_runs(groups, megatron_build.virtual_stages(layout)):
        for chunk, twin in enumerate(twins):
            stage = chunk * layout.pp + groups.pp.rank()  # among all, virtual ones too
            if stage > 0:
                hidden = torch.empty(
                    (length, 1, job.model.hidden_size), dtype=torch.float64, device=tokens.device
                )
                dist.recv(hidden, src=pipeline[(stage - 1) % layout.pp])
                twin.set_input_tensor(hidden)
            output = twin(tokens, positions, mask, runtime_gather_output=True)
            if stage < last:
                dist.send(output.contiguous(), dst=pipeline[(stage + 1) % layout.pp])
    if rank != pipeline[-1]:
        return None
    assert output is not None
    return output[..., : job.model.vocab_size].contiguous()


def _copy(twin: torch.nn.Module, original: torch.nn.Module) -> None:
    """Give a model another's weights and buffers, and let it only evaluate."""
    for copy, parameter in zip(twin.parameters(), original.parameters(), strict=True):
        copy.data = parameter.data.double()
    for module, holder in zip(twin.modules(), original.modules(), strict=True):
        for leaf, buffer in holder._buffers.items():
            module._buffers[leaf] = None if buffer is None else buffer.clone()
    twin.eval()
