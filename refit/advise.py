"""Which layout to serve from: `python -m refit.advise model=kimi_k2 gpus=64 source.tp=8 ...`.

Arguments:
    model=NAME        an option of conf/model; model.<field>=... changes it
    gpus=N            GPUs of the destination
    source=NAME       an option of conf/parallel whose source is taken; source.<degree>=... changes
                      it, or says it without a NAME. Without either, the first option that is named
                      after the model.
    cluster=NAME      an option of conf/cluster that states its rates; h100 if it is not said
    hardware=NAME     an option of conf/hardware: those rates, below Slurm or the cluster said
    top=N             rows to print; 10
Anything else is an override as refit.run takes it, such as refit.mode=collocated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refit import compose, program, schema
from refit.errors import UserError
from refit.forecast import traffic
from refit.forecast.predict import Prediction, predict
from refit.job import Degrees, Job
from refit.layout.layout import Layout
from refit.layout.place import place
from refit.model.architecture import PRODUCTION, tensors_of
from refit.model.dispatchers import suited
from refit.model.parameters import count
from refit.model.weight_bytes import per_rank_bytes
from refit.model_config import Model
from refit.rules import methods
from refit.rules.bounds import RANKS
from refit.rules.impossible import impossible
from refit.rules.setup import Setup


@dataclass(frozen=True)
class Advice:
    """One destination layout.

    Attributes:
        seconds: estimated refit.
        headroom_bytes: of device memory that the fullest destination rank has left.
        serving_bytes: that a rank sends per MoE layer, for one token per GPU.
        dispatcher: `allgather`, `alltoall`, or empty without expert parallelism.
        places: by seconds, headroom and serving, from 1; equal values share a place.
    """

    job: Job
    prediction: Prediction
    seconds: float
    headroom_bytes: float
    serving_bytes: float
    dispatcher: str
    places: tuple[int, int, int] = (0, 0, 0)

    @property
    def layout(self) -> Layout:
        """The destination, with its degrees."""
        return self.prediction.placement.destination


def dispatcher(model: Model, layout: Layout) -> str:
    """The token dispatcher that suits the layout's EP."""
    return suited(layout.ep) if model.is_moe else ""


def serving_bytes(model: Model, layout: Layout) -> float:
    """Bytes that a rank sends to others for one layer, at one token per GPU of the layout.

    A replica of tp * pp ranks then has tp * pp tokens, of c bytes of hidden state in all. Over TP a
    ring all-gather before attention and a reduce-scatter after it send c * (tp - 1) / tp each. With
    allgather, dispatch and combine bring a rank's c / tp to and from each of ep - 1 others; with
    all-to-all each token goes to topk experts, (ep - 1) / ep of them elsewhere. What stages hand on
    is shared among all layers.
    """
    tokens = layout.tp * layout.pp
    c = traffic.hidden_bytes(model, 1, tokens)
    total = 2 * c * (layout.tp - 1) / layout.tp
    word = dispatcher(model, layout)
    if word == "allgather":
        total += 2 * c / layout.tp * (layout.ep - 1)
    elif word == "alltoall":
        routed = traffic.dispatch_bytes(model, layout, 1, tokens)
        total += 2 * routed * (layout.ep - 1) / layout.ep
    stages = traffic.pipeline_bytes(model, layout, 1, tokens) * (layout.pp - 1)
    return total + stages / model.num_layers


def candidates(job: Job, gpus: int) -> Iterator[Job]:
    """Every destination of these GPUs, ETP 1, whose degrees divide; the rules choose among them."""
    divisors = [n for n in range(1, gpus + 1) if gpus % n == 0]
    experts = divisors if job.model.is_moe else [1]
    for pp in divisors:
        for tp in divisors:
            for ep in experts:
                if gpus % (tp * pp) == 0 and gpus % (ep * pp) == 0:
                    sides = Degrees(tp=tp, pp=pp, ep=ep, etp=1, gpus=gpus)
                    yield replace(job, parallel=replace(job.parallel, destination=sides))


def advise(job: Job, gpus: int) -> tuple[list[Advice], int, int]:
    """The destinations of these GPUs that are legal and fit, best first.

    They are ordered by the sum of their places by seconds, headroom and serving bytes; equal sums
    by seconds.

    Args:
        job: its source, model, mode and cluster; its destination, which is no list, is not looked
            at.

    Returns:
        The advice; how many layouts the rules refuse; how many do not fit device memory.

    Raises:
        UserError: the cluster does not state its rates, the method has no estimate, several
            destinations are given, the source itself is impossible, or no destination is left.
    """
    memory_gb = job.cluster.hardware.memory_gb
    if memory_gb is None or job.cluster.hardware.peer_gbps is None:
        raise UserError(
            f"cluster '{job.cluster.name}' does not state its memory and rates, by which layouts"
            " are ranked; add hardware=h100 or another of conf/hardware, or set cluster.hardware"
        )
    if methods.plans_itself(job.refit.method):
        raise UserError(
            f"refit={job.refit.method} carries out a plan of its own and has no estimate, by which"
            " layouts are ranked; use another method"
        )
    if job.parallel.destinations is not None:
        raise UserError(
            "parallel.destinations is a list, and one destination is looked for: its GPUs are"
            " gpus=N; leave parallel.destinations out"
        )
    twin = replace(job.parallel.source, offset=None, node_aligned=None)
    alone = replace(job, parallel=replace(job.parallel, destination=twin))
    if reason := impossible(alone):
        raise UserError(f"the source is impossible: {reason}")
    advices, refused, too_large, reason, least = [], 0, 0, "", float("inf")
    for candidate in candidates(job, gpus):
        if why := impossible(candidate):
            refused, reason = refused + 1, why
            continue
        held = _least_bytes(candidate)
        advice = _advice(candidate) if held <= memory_gb * 1e9 else None
        if advice is None:
            too_large, least = too_large + 1, min(least, held)
        else:
            advices.append(advice)
    if not advices:
        if too_large:
            reason = (
                f"the smallest needs {least / 1e9:.1f} GB and staging on a rank of {memory_gb:g} GB"
            )
        else:
            reason = f"the last because {reason}"
        raise UserError(
            f"no layout of {gpus} GPUs serves model '{job.model.name}' on cluster"
            f" '{job.cluster.name}': the rules refuse {refused}, {too_large} do not fit; {reason};"
            " use more GPUs, or another cluster"
        )
    values = [(a.seconds, -a.headroom_bytes, a.serving_bytes) for a in advices]
    columns = [sorted(column) for column in zip(*values, strict=True)]
    placed = [
        replace(a, places=(columns[0].index(v[0]) + 1, columns[1].index(v[1]) + 1,
                           columns[2].index(v[2]) + 1))
        for a, v in zip(advices, values, strict=True)
    ]  # fmt: skip
    return sorted(placed, key=lambda a: (sum(a.places), a.seconds)), refused, too_large


def _least_bytes(job: Job) -> int:
    """Weights on the fullest rank, staging aside: asked before a plan is made."""
    placement = place(job)
    tensors = tensors_of(job, placement, PRODUCTION)
    held = np.zeros(placement.world, dtype=np.int64)
    for side in (placement.source, placement.destination):
        held[side.offset : side.offset + side.gpus] += per_rank_bytes(tensors, side)
    return int(held[placement.destination.offset : placement.destination.ranks.stop].max())


def _advice(job: Job) -> Advice | None:
    prediction = predict(Setup.of(job))
    assert prediction.estimate is not None and job.cluster.hardware.memory_gb is not None
    layout = prediction.placement.destination
    held = prediction.held_bytes[layout.offset : layout.ranks.stop].max()
    headroom = job.cluster.hardware.memory_gb * 1e9 - float(held)
    if headroom < 0:
        return None
    serving = serving_bytes(job.model, layout)
    return Advice(
        job,
        prediction,
        prediction.estimate.seconds,
        headroom,
        serving,
        dispatcher(job.model, layout),
    )


def lines(advices: Sequence[Advice], top: int) -> list[str]:
    """The best rows, with their reasons."""
    shown = [
        "place  layout                    estimate s   floor s  headroom GB  serving kB  why",
    ]
    for number, advice in enumerate(advices[:top], 1):
        assert advice.prediction.floor is not None and advice.prediction.estimate is not None
        terms = vars(advice.prediction.estimate)
        largest = max(terms, key=lambda name: terms[name])
        sent = (
            f"tokens by {advice.dispatcher} over EP {advice.layout.ep}"
            if advice.dispatcher
            else "no EP"
        )
        by_time, by_memory, by_serving = advice.places
        shown.append(
            f"{number:5}  {advice.layout.describe():24}  {advice.seconds:10.3f}"
            f"  {advice.prediction.floor.seconds:8.3f}  {advice.headroom_bytes / 1e9:11.1f}"
            f"  {advice.serving_bytes / 1e3:10.1f}  of {len(advices)}: refit {by_time}, memory"
            f" {by_memory}, serving {by_serving}; mostly {largest.removesuffix('_s')};"
            f" {advice.layout.dp} replicas; {sent}"
        )
    return shown


def job_asked_for(arguments: Sequence[str]) -> tuple[Job, int, int]:
    """Job, GPUs and number of rows of the command line.

    Raises:
        UserError: something is missing, misspelt or no number.
    """
    settings = {"gpus": "", "top": "10", "source": ""}
    overrides, degrees, model = ["mode=plan"], [], ""
    parser = program.parser("refit.advise", __doc__)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*")
    for argument in parser.parse_args(arguments).overrides:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"'{argument}' is not key=value, such as gpus=64; --help says more")
        if key in settings:
            settings[key] = value
        elif key.startswith("source."):
            degrees.append(f"parallel.{argument}")
        else:
            model = value if key == "model" else model
            overrides.append(argument)
    numbers = {}
    for key in ("gpus", "top"):
        if not re.fullmatch(r"[0-9]{1,9}", settings[key]) or not 1 <= int(settings[key]) <= RANKS:
            most = f"of 1 or more, and {RANKS} at most, such as {key}=64"
            raise UserError(f"{key}={settings[key][:40]} is not a number {most}")
        numbers[key] = int(settings[key])
    if not any(a.startswith("cluster=") for a in overrides):
        rates_are_said = any(a.startswith("hardware=") for a in overrides)
        overrides.append("cluster=slurm" if rates_are_said else "cluster=h100")
    if settings["source"]:
        overrides.append(f"parallel={settings['source']}")
    elif degrees:  # degrees that are not said are 1, not those of the default pair
        fields = "tp:1,cp:1,pp:1,ep:1,etp:1,gpus:null"
        overrides.append(f"parallel.source={{{fields}}}")
    else:
        if not model:
            raise UserError("no model is named; say model=NAME, an option of conf/model")
        pairs = sorted(p.stem for p in (schema.CONF / "parallel").glob(f"**/{model}_*.yaml"))
        if not pairs:
            with compose.configs():
                compose.job(overrides)  # a model that does not exist is said to be so
            raise UserError(
                f"no pair in conf/parallel is named after model '{model}'; say source=<pair> or its"
                " degrees, such as source.tp=8 source.ep=8"
            )
        overrides.append(f"parallel={pairs[0]}")
    with compose.configs():
        return compose.job([*overrides, *degrees]), numbers["gpus"], numbers["top"]


def main(arguments: Sequence[str]) -> None:
    """Print the ranking.

    Raises:
        UserError: see `job_asked_for` and `advise`.
    """
    job, gpus, top = job_asked_for(arguments)
    advices, refused, too_large = advise(job, gpus)
    source = advices[0].prediction.placement.source
    print(
        f"{job.model.name}, {count(job.model)}:\n"
        f"source {source.gpus} GPUs ({source.describe()}), destination {gpus},"
        f" {job.placement_mode}, cluster {job.cluster.name};\n{len(advices)} layouts are possible,"
        f" {refused} are refused by the rules, {too_large} do not fit in memory"
    )
    print("\n".join(lines(advices, top)))


if __name__ == "__main__":
    program.exit_with(main)
