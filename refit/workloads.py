"""`python -m refit.workloads`: the 123 MoE workloads, their messages, which Megatron can run."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from refit import program
from refit.errors import UserError
from refit.forecast import traffic
from refit.layout.layout import Layout
from refit.model.workload_grid import NUM_EXPERTS, SHAPES, TOPK, Workload, workloads
from refit.model_config import Model
from refit.record.files import write_output
from refit.rules.impossible import impossible

MESSAGES = {  # column of the CSV: what it is and what is in it; the last two once per step
    "tp_bytes": "tensor parallel all-gather, reduce-scatter: activations",
    "a2a_ep_bytes": "expert parallel all-to-all, dispatch or combine: activations",
    "etp_ag_bytes": "expert tensor parallel all-gather, reduce-scatter: activations",
    "ep_meta_ag_bytes": "all-gather of how many tokens each expert gets: counts",
    "pp_bytes": "pipeline stage to stage: activations",
    "ag_dp_ep_bytes": "expert data parallel all-gather: weights",
    "rs_dp_ep_bytes": "expert data parallel reduce-scatter: gradients",
}

LEGEND = (
    "bytes: one rank's whole buffer, its own share included; 2 per activation, weight and count,",
    "4 per gradient. Of one layer and micro batch; of the two expert data parallel messages all",
    "expert weights of a rank (in its even share of the layers, rounded down), once per step.",
)


def messages(model: Model, layout: Layout, micro_batch: int, sequence: int) -> dict[str, int]:
    """Bytes per rank of each of `MESSAGES`, by `refit.forecast.traffic`."""
    tokens = (micro_batch, sequence)
    return {
        "tp_bytes": traffic.tensor_parallel_bytes(model, layout, *tokens),
        "a2a_ep_bytes": traffic.dispatch_bytes(model, layout, *tokens),
        "etp_ag_bytes": traffic.expert_tensor_parallel_bytes(model, layout, *tokens),
        "ep_meta_ag_bytes": traffic.metadata_bytes(model, layout),
        "pp_bytes": traffic.pipeline_bytes(model, layout, *tokens),
        "ag_dp_ep_bytes": traffic.expert_gather_bytes(model, layout),
        "rs_dp_ep_bytes": traffic.expert_reduce_bytes(model, layout),
    }


def row(workload: Workload, dense: bool = False) -> dict[str, Any]:
    """One workload, or its twin without experts, as a row of the CSV."""
    model, layout = workload.dense_twin if dense else (workload.model, workload.layout)
    return {
        "name": workload.name + ("_dense" if dense else ""),
        "model": workload.size,
        "layers": model.num_layers,
        "hidden": model.hidden_size,
        "ffn": model.ffn_hidden_size,
        "num_experts": model.num_moe_experts or 0,
        "topk": model.moe_router_topk if model.is_moe else 0,
        "world_size": layout.gpus,
        "tp": layout.tp,
        "etp": layout.etp,
        "pp": layout.pp,
        "ep": layout.ep,
        "dp_dense": layout.dp,
        "edp": layout.edp,
        "experts_per_rank": (model.num_moe_experts or 0) // layout.ep,
        "gbs": workload.global_batch,
        "mbs": workload.micro_batch,
        "seq": workload.sequence,
        "ga": workload.gradient_accumulation,
        "end_stage_layers": workload.end_layers or "",
        "moe_params_per_rank": traffic.expert_parameters(model, layout),
        **messages(model, layout, workload.micro_batch, workload.sequence),
        "impossible": impossible(workload.dense_job if dense else workload.job) or "",
    }


def summary(every: Sequence[Workload]) -> list[str]:
    """The table by EP, how many workloads Megatron can run, and the others with the reason."""
    reasons = {workload.name: impossible(workload.job) for workload in every}
    total = Counter(workload.ep for workload in every)
    can = Counter(workload.ep for workload in every if not reasons[workload.name])
    lines = [
        f"{len(every)} MoE workloads: {NUM_EXPERTS} experts, top-{TOPK}, grouped GEMM, A100",
        "world = TP * PP * EP * DP; experts are cut over TP too (ETP = TP)",
        "",
        "  EP  Experts per EP Rank  Workloads  Distribution  Megatron can run",
    ]
    lines += [
        f"{ep:4d}  {NUM_EXPERTS // ep:19d}  {total[ep]:9d}"
        f"  {f'{NUM_EXPERTS} / {ep:<2} = {NUM_EXPERTS // ep}':<12}  {can[ep]:16d}"
        for ep in sorted(total)
    ]
    lines += [f" all  {'':19s}  {len(every):9d}  {'':12s}  {sum(can.values()):16d}", ""]
    refused = [workload.name for workload in every if reasons[workload.name]]
    uneven = [w for w in every if w.end_layers and not reasons[w.name]]
    if uneven:
        layers, pp, end = SHAPES[uneven[0].size][0], uneven[0].pp, uneven[0].end_layers
        lines.append(
            f"{len(uneven)} with {layers} layers on {pp} stages run with {end} layers in the first"
            " and the last stage:"
        )
        lines += [*(f"    {w.name}" for w in uneven), ""]
    if refused:
        lines.append(f"Megatron cannot run {len(refused)} of them:")
    for reason in dict.fromkeys(reasons[name] for name in refused):
        alike = [name for name in refused if reasons[name] == reason]
        lines += [f"  {len(alike)}: {reason}", *(f"    {name}" for name in alike)]
    return lines


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Degrees and messages, one line per workload."""
    columns = ("name", "world_size", "tp", "pp", "ep", "edp", "experts_per_rank", *MESSAGES)
    cells = [columns, *(tuple(str(row[c]) for c in columns) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def detail(workload: Workload) -> list[str]:
    """All about one workload: degrees, messages beside its dense twin's, how to refit from it."""
    moe, twin, layout = row(workload), row(workload, dense=True), workload.layout
    lines = [
        f"{workload.name}: {workload.size}, {moe['layers']} layers, hidden {moe['hidden']}",
        f"world {layout.gpus} = TP {layout.tp} * PP {layout.pp} * EP {layout.ep} * DP {layout.edp};"
        f" ETP {layout.etp}; {workload.experts_per_rank} experts per EP rank",
        f"global batch {moe['gbs']}, micro batch {moe['mbs']}, sequence {moe['seq']}",
    ]
    if end := workload.end_layers:
        stages = ",".join(str(len(stage)) for stage in layout.stage_layers(moe["layers"]))
        lines.append(
            f"{moe['layers']} layers do not divide among {layout.pp} stages: {end} in the first and"
            f" the last ({stages})"
        )
    lines += ["", f"{'bytes per rank':64s}{'MoE':>14s}{'dense twin':>14s}"]
    lines += [f"{MESSAGES[m]:64s}{moe[m]:14d}{twin[m]:14d}" for m in MESSAGES]
    lines += LEGEND
    if moe["impossible"]:
        return [*lines, "", f"Megatron cannot run it: {moe['impossible']}"]
    command = f"python -m refit.run mode=plan cluster=a100 workload={workload.name}"
    return [
        *lines,
        "",
        f"as the source of a refit: {command}",
        f"and its dense twin: {command}_dense",
    ]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Print what is asked for.

    Raises:
        UserError: no workload has that name or EP, or the file cannot be written.
    """
    parser = program.parser("refit.workloads", __doc__)
    parser.add_argument("name", nargs="?", help="one workload, in full")
    parser.add_argument("--ep", type=int, help="those with this EP, with their message sizes")
    parser.add_argument("--dense", action="store_true", help="their twins without experts (EP 1)")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write a row for each")
    options = parser.parse_args(arguments)
    every = workloads()
    if options.name:
        every = [_named(options.name, every)]
    if options.ep is not None:
        degrees = sorted({w.ep for w in every})
        every = [w for w in every if w.ep == options.ep]
        if not every:
            listed = ", ".join(map(str, degrees))
            raise UserError(f"--ep {options.ep}: no workload has it; they have {listed}")
    rows = [row(workload, options.dense) for workload in every]
    if options.name:
        lines = detail(every[0])
    else:
        lines = summary(every)
        if options.ep is not None or options.dense:
            lines += ["", *table(rows), "", *LEGEND]
    print("\n".join(lines))
    if options.csv:
        try:
            write_output(options.csv, as_csv(rows))
        except OSError as error:
            raise UserError(f"cannot write {options.csv}: {error.strerror or error}") from None
        print("\n".join((f"written: {options.csv}", *LEGEND)))
    return 0


def _named(name: str, every: Sequence[Workload]) -> Workload:
    by_name = {workload.name: workload for workload in every}
    if name in by_name:
        return by_name[name]
    close = get_close_matches(name, by_name)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"no workload '{name}'{hint} All of them: --csv FILE, or --ep 2, 4, 8, 16")


if __name__ == "__main__":
    program.exit_with(main)
