"""Reads and messages against the runs that they are cut out of, byte by byte, casts included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refit.job import Degrees
from refit.plan.copies import Copies
from refit.plan.runs import NO_CAST, Runs, received
from refit.rules.setup import Setup
from refit.transport.reads import Read, reads
from refit.transport.schedule import ALIGN, Message, _parts, messages
from tests.support.jobs import job
from tests.unit.plan.test_runs import MOE, Bytes, carried_out, shown, table_of

SMALL = replace(MOE, num_layers=2, num_moe_experts=4, vocab_size=16)

PAIRS = {
    "rows and columns": (Degrees(tp=4, ep=2, etp=1), Degrees(tp=2, ep=4, etp=1)),
    "experts cut and whole": (Degrees(tp=2, etp=2), Degrees(ep=4, etp=1)),
    "stages": (Degrees(pp=2, ep=2, etp=1), Degrees(tp=4, etp=1)),
    "wider on arrival": (Degrees(tp=2, etp=2), Degrees(tp=4, etp=1, dtype="float32")),
    "narrower": (Degrees(tp=4, etp=1, dtype="float32"), Degrees(tp=2, ep=2, etp=1)),
    "gate and up in turn": (
        Degrees(tp=2, etp=1), Degrees(kind="engine", tp=4, etp=2, gate_up_interleaved=True),
    ),
}  # fmt: skip


def copies_of(name: str, cast_at: str = "destination") -> Copies:
    refit = {"cast_at": cast_at}
    asked = job(*PAIRS[name], model=SMALL, ranks_per_node=16, method="gloo", refit=refit)
    (copies,) = Setup.of(asked).plan().hops
    return copies


def arenas(copies: Copies) -> dict[int, Bytes]:
    random = np.random.default_rng(0)
    ranks = copies.placement.source.ranks
    sizes = {rank: copies.arena(rank, of_source=True).nbytes for rank in ranks}
    return {rank: random.integers(0, 256, size, np.uint8) for rank, size in sizes.items()}


def done(read: Read, theirs: Bytes, size: int) -> tuple[Bytes, Bytes]:
    """What is in an arena of zeros after a read, and how often each byte of it was written."""
    got, times = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    staging = np.zeros(read.staged, np.uint8)
    columns = (read.theirs, read.ours, read.nbytes, read.is_staged)
    for source, into, nbytes, is_staged in zip(*(c.tolist() for c in columns), strict=True):
        assert source >= 0 and source + nbytes <= len(theirs)
        memory = staging if is_staged else got
        assert into + nbytes <= len(memory)
        memory[into : into + nbytes] = theirs[source : source + nbytes]
        if not is_staged:
            times[into : into + nbytes] += 1
    unpacked, again = carried_out(read.runs, {0: staging}, size)
    return got + unpacked, times + again  # what one wrote is zero of the other


@pytest.mark.parametrize(("limit", "gap"), [(1500, 40), (1 << 20, 0), (5000, 1 << 20)])
@pytest.mark.parametrize("name", PAIRS)
def test_reads_do_what_the_runs_do(name: str, limit: int, gap: int) -> None:
    copies = copies_of(name)
    held, world = arenas(copies), copies.placement.world
    for rank in copies.placement.receiving_ranks:
        size = copies.arena(rank, of_source=False).nbytes
        table = received(copies, rank)
        remote = table.where(table.peer != rank)
        wanted, once = carried_out(remote, held, size)
        got, times = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        found = reads(remote, rank, world, limit, gap)
        for read in found:
            assert read.staged <= limit and read.nbytes.sum() <= limit
            arrived, written = done(read, held[read.peer], size)
            got, times = got + arrived, times + written
        assert np.array_equal(got, wanted) and np.array_equal(times, once)
        shifts = [(read.peer - rank) % world for read in found]
        assert shifts == sorted(shifts)


@pytest.mark.parametrize(
    ("cast_at", "bucket", "in_place"),
    [("source", 1500, None), ("source", 5000, 200), ("destination", 1500, 1)],
)
@pytest.mark.parametrize("name", PAIRS)
def test_messages_do_what_the_runs_do(
    name: str, cast_at: str, bucket: int, in_place: int | None
) -> None:
    copies = copies_of(name, cast_at)
    held = arenas(copies)
    todo = [
        messages(copies, rank, received(copies, rank), bucket, in_place)
        for rank in range(copies.placement.world)
    ]
    sent = {(rank, m.peer, m.order): m for rank, ms in enumerate(todo) for m in ms if m.is_send}
    for rank, mine in enumerate(todo):
        table = received(copies, rank)
        remote = table.where(table.peer != rank)
        if not len(remote):
            continue
        size = copies.arena(rank, of_source=False).nbytes
        wanted, once = carried_out(remote, held, size)
        got, times = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for message in mine:
            if message.is_send:
                continue
            given = sent.pop((message.peer, rank, message.order))
            assert not (message.at % ALIGN).any()
            arrived, written = passed_on(given, message, held[message.peer], size)
            got, times = got + arrived, times + written
        assert np.array_equal(got, wanted) and np.array_equal(times, once)
    assert not sent


def passed_on(given: Message, got: Message, arena: Bytes, size: int) -> tuple[Bytes, Bytes]:
    """What a message brings into an arena of zeros, and how often it writes each byte."""
    assert (given.nbytes, given.in_place) == (got.nbytes, got.in_place)
    if given.in_place:
        assert shown(given.runs) and len(given.runs) == 1
        bucket = arena[given.start : given.start + given.nbytes]
        into, times = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        into[got.start : got.start + got.nbytes] = bucket
        times[got.start : got.start + got.nbytes] = 1
        return into, times
    packed, _ = carried_out(given.staged(), {0: arena}, given.nbytes)
    return carried_out(got.staged(), {0: packed}, size)


def test_where_bytes_go_by_hand() -> None:
    table = table_of(
        (1, 0, 0, 1, 0, 0, 96),  # a run
        (1, 128, 96, 3, 40, 32, 32),  # 8 bytes lie between its rows
        (2, 0, 256, 2, 1000, 64, 64),  # 936 bytes between them
    )
    near, far = reads(table, 0, 3, 1 << 10, gap=8)
    assert (near.peer, near.theirs.tolist(), near.nbytes.tolist()) == (1, [0, 128], [96, 112])
    assert (near.ours.tolist(), near.is_staged.tolist()) == ([0, 0], [False, True])
    assert (near.staged, shown(near.runs)) == (112, [(0, 0, 96, 3, 40, 32, 32)])
    assert (far.peer, far.theirs.tolist(), far.ours.tolist()) == (2, [0, 1000], [256, 320])
    assert (far.staged, len(far.runs), far.is_staged.tolist()) == (0, 0, [False, False])


def test_peers_take_turns() -> None:
    copies = copies_of("experts cut and whole")
    receives = [m for m in messages(copies, 3, received(copies, 3), 512) if not m.is_send]
    peers = [m.peer for m in receives]
    assert len(set(peers)) > 1 and len(peers) > 2 * len(set(peers))
    assert set(peers[: len(set(peers))]) == set(peers)


@pytest.mark.parametrize("most", [64, 1000])
def test_buckets_are_nearly_full(most: int) -> None:
    columns = (0, 0, 1000, 50, 40, 40, 40)
    runs = Runs(*np.array([(1, 0, 0, 1, 0, 0, 900, NO_CAST), (1, *columns[1:], NO_CAST)]).T)
    found = reads(runs, 0, 2, most, gap=0)
    assert sum(int(r.nbytes.sum()) for r in found) == 900 + 2000
    assert all(r.nbytes.sum() <= most for r in found)


def test_long_rows_of_a_block_are_messages_of_their_own() -> None:
    # equal runs at equal distances are one block, and no reason to pack
    table = table_of((1, 0, 0, 3, 1000, 2000, 512), (1, 5000, 8000, 4, 80, 40, 40))
    parts = list(_parts(table, False, 1 << 12, in_place_bytes=512))
    assert [(shown(runs), in_place) for runs, _, in_place in parts] == [
        ([(1, 5000, 8000, 4, 80, 40, 40)], False),
        *(([(1, 1000 * row, 2000 * row, 1, 0, 0, 512)], True) for row in range(3)),
    ]
