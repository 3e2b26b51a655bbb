"""What one rank does to prove its refits: it fills, stamps and looks. None of it is in a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from refit.record.report import FirstWrong
from refit.rules.setup import Setup
from refit.weights.pattern import Check, Pattern
from refit.weights.stamps import Stamps, positions
from refit.weights.weights import Weights

NOTHING = Check(0, 0)


@dataclass(frozen=True)
class Sides:
    """What this rank holds of the source, and of the destination that it is of; None: nothing."""

    source: Weights | None
    destination: Weights | None


class Proof:
    """The refits of one rank, looked at.

    In order: `begin`, the cold refit, `whole`; something `beside`; then for each refit `stamp`, the
    refit, `look` and `whole_if_chosen`; then for each set of changed weights `renew`, the refit and
    perhaps `whole`; and `end`.

    Attributes:
        destination: every element, as `whole` found it.
        stamps: what `look` found at the destination.
        source: what refits changed of that which they were to copy, stamps there too.
        first, first_of_source: the first tensor found wrong at each.
        seconds: that all of this took.
    """

    def __init__(self, setup: Setup, sides: Sides) -> None:
        self.destination = self.stamps = self.source = NOTHING
        self.first: FirstWrong | None = None
        self.first_of_source: FirstWrong | None = None
        self.seconds = 0.0
        self._setup, self._sides = setup, sides
        self._trained = self._pattern = Pattern(setup.job.seed, 0)
        self._chosen = _chosen(setup.job.seed, setup.job.bench.iterations)
        self._refits = 0
        # made before a transport has the weights in its hands
        where = positions(setup.catalogue, setup.placement, setup.job.seed)
        source, destination = sides.source, sides.destination
        seed, travels = setup.job.seed, setup.travels
        self._of_source = Stamps(seed, source, where) if source else None
        self._of_destination = Stamps(seed, destination, where, travels) if destination else None

    def begin(self) -> None:
        """The trained weights into the source; into the destination what no refit may leave."""
        source, destination = self._sides.source, self._sides.destination
        with self._clock():
            if source and self._of_source:
                source.populate()
                self._trained.fill(source)
                self._of_source.keep()
            if destination:
                destination.populate()
                self._trained.poison(destination)

    def whole(self, after: str) -> None:
        """Look at every element of the destination that travels.

        Args:
            after: the refit that left it so, in words.
        """
        destination = self._sides.destination
        with self._clock():
            if destination:
                found = self._pattern.check(destination, self._setup.travels)
                self.destination += found
                self.first = self.first or self._wrong(found, after)

    @contextmanager
    def beside(self, after: str) -> Iterator[None]:
        """What is done meanwhile may destroy the destination's weights, but no source's.

        Behind it they are poison again, so that the refits to come write every element anew.

        Args:
            after: as of `whole`.
        """
        destination = self._sides.destination
        with self._clock():
            if self._of_destination:
                self._of_destination.keep()  # all of it is right after the cold refit, or never is
            self._look_at_left_out(after)
        yield
        with self._clock():
            if destination:
                self._trained.poison(destination)

    def stamp(self) -> None:
        """Change the stamps at the source."""
        with self._clock():
            if self._of_source and not self._refits:
                # stamps hide what stood there: that it did not change
                self._source_is(self._of_source.check(0), "the cold refit")
            self._refits += 1
            if self._of_source:
                self._of_source.write(self._refits)

    def look(self, after: str) -> None:
        """Look at the stamps, as soon as the refit has returned.

        Args:
            after: as of `whole`.
        """
        with self._clock():
            if self._of_destination:
                found = self._of_destination.check(self._refits)
                self.stamps += found
                self.first = self.first or self._wrong(found, after)
            if self._of_source:
                self._source_is(self._of_source.check(self._refits), after)

    def whole_if_chosen(self, iteration: int, after: str) -> None:
        """After one timed refit, which the seed chooses, look at every element too.

        Nobody may be refitting any more: where ranks pass on what they have, others read here, and
        stamps are taken away.

        Args:
            iteration: of the timed ones, from 0.
            after: as of `whole`.
        """
        if iteration != self._chosen:
            return
        with self._clock():
            if self._of_destination:
                self._of_destination.restore()
        self.whole(after)

    def renew(self, generation: int, finite: bool = False) -> None:
        """Look at the source, every element of it, and fill it with other weights.

        Args:
            generation: another one than before.
            finite: see `Pattern`.
        """
        following = Pattern(self._setup.job.seed, generation, finite)
        self._look_at_source(following)
        self._refits += 1
        self._pattern = following

    def end(self) -> None:
        """Look at the source once more, and at what was left out and must be as it was."""
        self._look_at_source()
        with self._clock():
            self._look_at_left_out("the last refit")

    def _look_at_left_out(self, after: str) -> None:
        destination, travels = self._sides.destination, self._setup.travels
        if destination and travels is not None:
            found = self._trained.check_left_out(destination, travels)
            self.destination += found
            self.first = self.first or self._wrong(found, after)

    def _look_at_source(self, following: Pattern | None = None) -> None:
        """Every element of it; then it is filled with the pattern that follows, if one does."""
        source = self._sides.source
        with self._clock():
            if self._of_source:
                self._of_source.restore()
                self._of_source = None  # other weights have no stamps
            if source:
                found = (
                    self._pattern.check_and_renew(source, following)
                    if following
                    else self._pattern.check(source)
                )
                self._source_is(found, "the last refit of those weights")

    def _source_is(self, found: Check, after: str) -> None:
        self.source += found
        self.first_of_source = self.first_of_source or self._wrong(found, after)

    def _wrong(self, found: Check, after: str) -> FirstWrong | None:
        return FirstWrong(found.first, after, self._refits) if found.first else None

    @contextmanager
    def _clock(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def _chosen(seed: int, iterations: int) -> int:
    """Which timed refit is looked at whole."""
    digest = hashlib.blake2b(f"{seed}/whole".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % iterations
