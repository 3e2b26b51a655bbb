"""What a report says of a point in words: its mapping, machine, versions and command. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from refit.record.record import Record
from refit.record.row import Row

DEGREES = ("tp", "cp", "pp", "ep", "etp")
OF_METHOD = ("refit=", "refit.method=")
OF_ROW = (*OF_METHOD, "model=", "parallel=", "mode=", "sweep.", "seed=")


def mapping(record: Record) -> str:
    """Both sides as others write them: `TP8 PP8 EP32 -> TP32 EP32`; degrees of 1 go without."""
    if record.layout is not None:
        sides = [vars(record.layout.source), *map(vars, record.layout.receiving)]
    else:
        pair = record.config["parallel"]
        sides = [pair["source"], *(pair.get("destinations") or [pair["destination"]])]
    source, *destinations = map(_side, sides)
    return f"{source} -> {' + '.join(destinations)}"


def _side(side: Mapping[str, Any]) -> str:
    if side.get("kind") == "fsdp":
        words = [f"FSDP{side.get('shard') or side.get('gpus')}"]
    else:
        sizes = {name: side.get(name) or 1 for name in DEGREES}
        words = [f"{name.upper()}{size}" for name, size in sizes.items() if size != 1] or ["TP1"]
    if side.get("kind") == "engine":
        words.insert(0, "engine")
    if side.get("dtype"):
        words.append(f"as {side['dtype']}")
    return " ".join(words)


def varied(records: Sequence[Record]) -> list[str]:
    """What tells points of one model, pair and kind apart: the overrides that not all of them have.

    Not the method, which has a column of its own.
    """
    said = [[o for o in r.overrides if not o.startswith(OF_ROW)] for r in records]
    rows = [(r.config["model"]["name"], r.config["parallel"]["name"], r.kind) for r in records]
    common: dict[tuple[str, ...], set[str]] = {}
    for row, of_one in zip(rows, said, strict=True):
        common[row] = common.get(row, set(of_one)) & set(of_one)
    return [
        " ".join(o for o in of_one if o not in common[row])
        for row, of_one in zip(rows, said, strict=True)
    ]


def p95(seconds: Sequence[float]) -> float:
    """The smallest time that at least 95 of 100 do not exceed, as the record's p90 is."""
    return sorted(seconds)[ceil(95 * len(seconds) / 100) - 1]


def machine(record: Record) -> str:
    """What a point ran on; of a prediction the cluster that it is for."""
    row, around = Row.of(record), record.environment
    if record.kind == "predicted":
        return f"predicted for {row.cluster}"
    words = [row.nodes or f"{row.host} (it did not run on a node)"]
    words += [f"partition {row.partition}"] if row.partition else []
    words += [row.device] if row.device and row.device != "cpu" else []
    words += [f"{around['cpus']} CPUs per node"] if around.get("cpus") else []
    return ", ".join(words)


def versions(record: Record) -> str:
    """Of this program, Python and what the ranks imported; the commit, and whether it is dirty."""
    around = record.environment
    found = {"refit-sweep": around.get("refit_sweep"), "Python": around.get("python")}
    found |= around.get("versions") or {}
    words = [f"{name} {version}" for name, version in found.items() if version]
    commit = around.get("commit")
    if commit:
        words.append(f"commit {commit[:10]}{' (dirty)' if around.get('dirty') else ''}")
    return ", ".join(words)


def command(record: Record, folder: str) -> str:
    """What runs the point again, into the same results.

    Args:
        folder: of the results, as the user says it.
    """
    is_slurm = record.config["cluster"].get("launcher", "local") != "local"
    is_sweep = is_slurm and record.kind == "measured"
    said = folder if re.fullmatch(r"[\w./-]+", folder) else f'"{folder}"'  # Hydra's quotes
    where = f"hydra.{'sweep' if is_sweep else 'run'}.dir={said}"
    words = [*(["-m"] if is_sweep else []), *record.overrides]
    words += [] if folder == "results" else [where]
    return f"python -m refit.run {shlex.join(words)}".rstrip()


def same_move(record: Record) -> str:
    """Equal for two points that have one plan: model, sides, placement, fan-out and method."""
    config = record.config
    model, pair, refit = (dict(config[group]) for group in ("model", "parallel", "refit"))
    for part in (model, pair):
        part.pop("name", None)
    named = ("fanout", "include", "exclude", "mode", "cast_at", "peer_names")
    of_refit = [refit.get(name) for name in named]
    per_node = config["cluster"]["ranks_per_node"]
    of_record = record.method, record.plan, record.model_build, record.layout
    return repr((model, pair, of_refit, per_node, config["mode"], *of_record))
