"""Transports: what carries out copies. One file per method, with one subclass of `Transport`.

What a method needs of the machine stands in `refit.rules.methods`, which does not import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from refit.job import Refit
from refit.plan.copies import Copies
from refit.record.moved import Moved
from refit.weights.weights import Weights


class Unsupported(Exception):
    """What was asked cannot be done by this transport here; its text says why and the way out.

    For what shows only on the ranks; `refit.rules.methods` says what is known before they start.
    """


class Transport(ABC):
    """Moves one rank's part of some copies. All ranks, idle ones too, call each method in order.

    A subclass has no other public members than these, so that a misspelt one is an error: a
    TypeError when the class is defined.

    Attributes:
        plans_itself: it carries out a plan of its own, made in `prepare`, and not the copies that
            it is given; its cold refit is then timed without our planning.
        plan_s: the seconds of `prepare` that went into such planning.
    """

    plans_itself: ClassVar[bool] = False
    plan_s: float = 0.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        members = sorted(name for name in vars(Transport) if not name.startswith("_"))
        public = {name for name in vars(cls) if not name.startswith("_")}
        if unknown := sorted(public - set(members)):
            raise TypeError(
                f"{cls.__qualname__}: {', '.join(unknown)} is no member of a Transport, which has"
                f" {', '.join(members)}; begin the name of a member of its own with _"
            )

    @abstractmethod
    def __init__(self, refit: Refit) -> None:
        """Take what is asked of the method; nothing of the job is known yet."""

    @abstractmethod
    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        """Once: buffers, handles, registration.

        Args:
            copies: those that this rank gives or receives; other ranks have theirs.
            rank: this one.
            source, destination: its weights of the giving and of the receiving side; None where
                it holds none.

        Raises:
            Unsupported: it cannot; on all ranks or on some, whose reason is then the point's.
        """

    @abstractmethod
    def execute(self) -> dict[str, float]:
        """One refit. Returns seconds per phase; this rank's destination is usable on return."""

    @property
    def staging_bytes(self) -> int | None:
        """Memory held besides the weights themselves; None where it is not known."""
        return None

    @property
    def moved(self) -> Moved | None:
        """Where it `plans_itself`, what this rank moved in one refit; None where it does not count.

        That is the record's `plan` then, which is null without.
        """
        return None

    @property
    def details(self) -> Mapping[str, int | str]:
        """What it has to say of itself, for the record's `transport`."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""
