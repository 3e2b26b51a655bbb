"""The agents of one attempt, one per node: where to meet, and how each node ended, through files.

The attempt's folder is on a file system that all nodes share; nothing else is needed, and no
port is fixed.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refit.errors import UserError
from refit.ranks.processes import follows
from refit.record.point import Attempt, read_json, write_atomic
from refit.record.record import Ended
from refit.record.report import RankReport
from refit.rules.setup import Setup

LOOPBACK = "127.0.0.1"
POLL_S = 0.2
LOOPBACK_S = 1.0  # for a connection of this machine with itself, which takes no time
# For the other nodes to say how they ended, once this node has. Slurm takes SlurmdTimeout, 300 s by
# default, to notice a dead node; it then ends the job, and the point is tried again.
LOST_S = 360.0


_STOPPED = {"status": None, "reason": ""}  # what node<k>.json says of ranks that were stopped


class Stopped(Exception):
    """This node's part ends for the sake of another, which has a failure to report."""


@dataclass(frozen=True)
class Nodes:
    """One agent's view of the attempt.

    Attributes:
        attempt: whose folder they share.
        node, count: this node's number, and how many there are.
    """

    attempt: Attempt
    node: int = 0
    count: int = 1

    @contextmanager
    def meeting(self, limit_s: float) -> Iterator[tuple[str, int, socket.socket | None]]:
        """Host and port of rank 0's store, and on node 0 the listening socket it takes over.

        Raises:
            Stopped: another node failed, and may never have opened a store.
            TimeoutError: node 0 did not say within the limit.
            UserError: this machine cannot reach itself.
        """
        if self.node > 0:
            place = self._wait_for(self._place, limit_s, self.another_failed)
            yield str(place["host"]), int(place["port"]), None
            return
        if self.count == 1:  # loopback, as nobody else needs to reach it
            _reach_loopback()
            with socket.create_server((LOOPBACK, 0)) as listener:
                yield LOOPBACK, int(listener.getsockname()[1]), listener
            return
        with socket.create_server(("", 0)) as listener:
            host, port = socket.gethostname(), int(listener.getsockname()[1])
            write_atomic(self._place, json.dumps({"host": host, "port": port}))
            yield host, port, listener

    def agree(self, mine: Setup, limit_s: float) -> Setup:
        """The setup that node 0 made, for all nodes; `mine` on node 0.

        Raises:
            Stopped: another node failed, and may never have made one.
            TimeoutError: node 0 did not say within the limit.
        """
        if self.count == 1:
            return mine
        if self.node == 0:
            write_atomic(self._setup, json.dumps(mine.chosen()))
            return mine
        return mine.as_chosen(self._wait_for(self._setup, limit_s, self.another_failed))

    def say(self, ended: Ended | None, reports: Sequence[RankReport] = ()) -> None:
        """How this node's ranks ended, and what they measured; None where they were stopped."""
        if self.count == 1:
            return
        end = {"status": ended.status, "reason": ended.reason} if ended else _STOPPED
        measured = [asdict(report) for report in reports]
        write_atomic(self._end(self.node), json.dumps({**end, "reports": measured}))

    def another_failed(self) -> bool:
        """Whether to stop, because another node has a failure to report."""
        ends = (read_json(self._end(n)) for n in range(self.count) if n != self.node)
        return any(end["status"] != "ok" for end in ends if end)

    def verdict(
        self, of_node_0: Ended | None, reports: Sequence[RankReport]
    ) -> tuple[Ended, list[RankReport]]:
        """On node 0: how the point ended, from what all nodes say, and all ranks' reports.

        Args:
            of_node_0: how its own ranks ended; None where they were stopped for another's sake.
            reports: of its own ranks.
        """
        ends, measured = [of_node_0] if of_node_0 else [], list(reports)
        for node in range(1, self.count):
            try:
                end = self._wait_for(self._end(node), LOST_S)
            except TimeoutError:
                ends.append(Ended("crashed", f"node {node} did not say how it ended"))
                continue
            if end["status"]:
                ends.append(Ended(end["status"], end["reason"]))
            measured += [RankReport.of(report) for report in end["reports"]]
        bad = [end for end in ends if end.status != "ok"]
        # a death or an error of its own explains the connections that other nodes lost by it
        order = ("crashed", "oom", "timeout", "unsupported", "failed")
        if bad:
            return min(bad, key=lambda end: (follows(end), order.index(end.status))), []
        return ends[0], measured

    def wait_for_record(self, limit_s: float) -> None:
        """On the other nodes: until node 0 has written the attempt's record.

        Raises:
            TimeoutError: it did not within the limit.
        """
        self._wait_for(self.attempt.timing, limit_s)

    @property
    def _place(self) -> Path:
        return self.attempt.directory / "meeting.json"

    @property
    def _setup(self) -> Path:
        return self.attempt.directory / "setup.json"

    def _end(self, node: int) -> Path:
        return self.attempt.directory / f"node{node}.json"

    def _wait_for(
        self, path: Path, limit_s: float, stop: Callable[[], bool] | None = None
    ) -> dict[str, Any]:
        until = time.monotonic() + limit_s
        while (values := read_json(path)) is None:
            if stop and stop():
                raise Stopped
            if time.monotonic() > until:
                raise TimeoutError(f"nothing in {path} after {limit_s:g} s")
            time.sleep(POLL_S)
        return values


def _reach_loopback() -> None:
    """Connect to a port of our own; ranks would try it until their deadline.

    Raises:
        UserError: it cannot be done.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as listener:
            socket.create_connection(listener.getsockname(), LOOPBACK_S).close()
    except OSError as error:
        raise UserError(
            f"ranks of one machine meet at 127.0.0.1, which does not answer here: {error}; set its"
            " loopback up (ip link set lo up), or run where there is one"
        ) from None
