"""The peer: the installed megatron-core's own refit planner, executor and copy service.

Nothing here moves a byte. It hands Megatron the two GPTModels and lets it plan and copy as it does
for its users; what it cannot do it says itself, and that is the point's reason.
"""

from __future__ import annotations

# first: it imports megatron-core without the noise that this makes
import refit.weights.megatron_build  # noqa: F401

# isort: split
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core import resharding
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.resharding import refit as core
from megatron.core.resharding.copy_services.nccl_copy_service import NCCLCopyService

from refit.job import Refit
from refit.model import megatron_versions as versions
from refit.model.megatron_versions import VERSION
from refit.plan.copies import Copies
from refit.record.moved import KNOWN_FAULT, Moved
from refit.transport import Transport, Unsupported
from refit.transport.megatron_cpu import without_cuda
from refit.transport.megatron_names import under_production_names
from refit.transport.nccl import warm_group
from refit.weights.weights import Weights

RACE = (
    "megatron-core's NCCL service copies what stays on a rank on a stream of its own, which does"
    " not wait for the current one, where its executor has just made that contiguous"
    " (resharding/copy_services/nccl_copy_service.py)"
)


class MegatronTransport(Transport):
    """Megatron's own refit, from its plan to its service.

    `prepare` is its planning and the start of its service, `execute` a refit with its cached plan;
    both raise Unsupported with Megatron's own words where it cannot.
    `pack` is the time before its service runs, `wire` its service's run, and `unpack` what
    follows, its barrier included.
    """

    plans_itself = True

    def __init__(self, refit: Refit) -> None:
        self._backend, self._names = refit.backend, refit.peer_names
        self._refit: Callable[[], None] = lambda: None
        self._service: Any = None
        self._marks: list[float] = []
        self._races = False
        self._details: dict[str, int | str] = {}
        self._moved: Moved | None = None  # in the first refit, and as much in every other

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        sides = [side for side in (source, destination) if side is not None]
        if any(not side.chunks for side in sides):
            raise Unsupported("megatron-core refits GPTModels; build=shards has none")
        self._rank = rank
        named = under_production_names if self._names == "production" else lambda model: model
        models = [None if s is None else named(s.chunks[0]) for s in (source, destination)]
        service = _service(self._backend, sides)
        self._details = {"library": f"megatron-core {VERSION}", "service": type(service).__name__}
        self._watch(service)
        self._service = service
        on_cuda = any(side.arena.is_cuda for side in sides)
        self._races = versions.LOCAL_COPIES_RACE and on_cuda and type(service) is NCCLCopyService
        start = time.perf_counter()
        with own_words("cannot plan this refit"), without_cuda():
            self._refit = _planned(models[0], models[1], service)
        self.plan_s = time.perf_counter() - start

    def execute(self) -> dict[str, float]:
        start = time.perf_counter()
        with own_words("cannot do this refit"), without_cuda(), self._counted():
            self._refit()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begun, ended = self._marks
        done = time.perf_counter()
        return {"pack": begun - start, "wire": ended - begun, "unpack": done - ended}

    @property
    def staging_bytes(self) -> int | None:
        return None  # it allocates in each refit what that needs, and gives it back

    @property
    def moved(self) -> Moved | None:
        return self._moved

    @property
    def details(self) -> dict[str, int | str]:
        if self._races and self._moved is not None and self._rank in self._moved.received:
            return {**self._details, KNOWN_FAULT: RACE}
        return self._details

    def close(self) -> None:
        self._refit, self._service = lambda: None, None
        versions.clear_refit_caches(core)

    def _watch(self, service: Any) -> None:
        """Note when the service starts and ends its run."""
        run = service.run

        def timed() -> None:
            begun = time.perf_counter()
            run()
            self._marks = [begun, time.perf_counter()]

        service.run = timed

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Note what Megatron's executor hands to the service, in the first refit."""
        if self._moved is not None:
            yield
            return
        moved = self._moved = Moved()

        def counted(
            submit: Callable[..., None], sends: bool, tensor_at: int
        ) -> Callable[..., None]:
            def noted(*args: Any, **kw: Any) -> None:
                tensor, peer = args[tensor_at : tensor_at + 2]
                moved.add(sends, peer, tensor.nbytes)
                submit(*args, **kw)

            return noted

        with ExitStack() as stack:
            for sends, name in ((True, "submit_send"), (False, "submit_recv")):
                for suffix, tensor_at in (("", 0), ("_with_id", 1)):  # the latter up to 0.17
                    if submit := getattr(self._service, name + suffix, None):
                        noted = counted(submit, sends, tensor_at)
                        stack.enter_context(patch.object(self._service, name + suffix, noted))
            yield


def _service(backend: str, sides: list[Weights]) -> Any:
    """Megatron's copy service of a name; `auto` is nccl where any rank's weights are on CUDA."""
    if backend == "auto":
        on_cuda = [False] * dist.get_world_size()
        dist.all_gather_object(on_cuda, any(side.arena.is_cuda for side in sides))
        backend = "nccl" if any(on_cuda) else "gloo"
    try:
        with without_cuda():
            # it sends over the default group, NCCL at Megatron's users and gloo here
            group = warm_group() if backend == "nccl" else None
            if group is not None and versions.REFIT_TAKES_NONE:
                return core.get_or_create_service(backend, group=group)
            service = core.get_or_create_service(backend)
            return service if group is None else _over(service, group)
    except Exception as error:
        raise Unsupported(
            f"megatron-core {VERSION} cannot start its {backend} service here: {_text(error)}"
        ) from error


def _over(service: Any, group: dist.ProcessGroup) -> Any:
    """Let a service that names no group run over this one."""
    run = service.run

    def grouped() -> None:
        with patch.object(dist, "P2POp", partial(dist.P2POp, group=group)):
            run()

    service.run = grouped
    return service


def _planned(source: Any, destination: Any, service: Any) -> Callable[[], None]:
    """Let Megatron plan; every rank of the world calls this. Returns a refit by that plan."""
    if versions.REFIT_TAKES_NONE:
        core.prepare_swap_model_weights(source, destination)
        return partial(core.swap_model_weights, source, destination, service)
    # 0.16.1's swap_model_weights wants both models on every rank. What that calls, and Megatron
    # exports, wants only modules with groups: one without parameters gives and takes nothing.
    some = source if source is not None else destination
    num_experts = some.config.num_moe_experts if some is not None else None
    source, destination = (m if m is not None else _absent() for m in (source, destination))
    plan = resharding.build_centralized_reshard_plan(source, destination, num_experts)
    return partial(resharding.execute_reshard_plan, plan, source, destination, service)


def _absent() -> torch.nn.Module:
    module: Any = torch.nn.Module()
    module.pg_collection = ProcessGroupCollection()
    return module


@contextmanager
def own_words(what: str) -> Iterator[None]:
    """An error that megatron-core itself raises is what it has to say of this refit.

    Errors from below it, a lost peer or memory that ran out, are none of its making.
    """
    try:
        yield
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        raised_in = str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
        if not raised_in.startswith("megatron."):
            raise
        raise Unsupported(f"megatron-core {VERSION} {what}: {_text(error)}") from error


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
