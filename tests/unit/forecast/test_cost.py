"""Floor and estimate: two layouts worked by hand, and what must hold for any."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import lcm

import numpy as np
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from refit.forecast.predict import predict
from refit.job import Cluster, Degrees, Hardware, Job, Parallel, Refit
from refit.layout.place import place
from refit.model.architecture import catalogue
from refit.model.weight_bytes import per_rank_bytes, weight_bytes
from refit.plan.build import build_plan
from refit.record.parts import DeviceMemory
from refit.rules.methods import METHODS
from refit.rules.setup import Setup
from tests.support.jobs import SMALL, TINY

SLOW = Hardware(  # 1000, 250 and 2000 bytes a second
    memory_gbps=2e-6,
    peer_gbps=1e-6,
    peer_efficiency=0.5,
    nic_gbps=0.25e-6,
    nic_efficiency=0.8,
    latency_us=1000,
)


def small(method: str, ranks_per_node: int, hardware: Hardware = SLOW) -> Job:
    """TP 2 -> TP 1: ranks 0 and 1 send 1456 bytes to rank 2."""
    return Job(
        model=SMALL,
        parallel=Parallel("pair", source=Degrees(tp=2), destination=Degrees()),
        refit=Refit("r", method, bucket_mb=0.0005),
        cluster=Cluster("by hand", ranks_per_node=ranks_per_node, hardware=hardware),
        mode="plan",
    )


def test_one_node_by_hand() -> None:
    found = predict(Setup.of(small("ipc", 3)))
    # the senders have 704 bytes each of what is cut, and share three norms of 16 bytes
    assert sorted(found.traffic.sent_bytes) == [0, 720, 736]
    assert found.traffic.received_bytes.tolist() == [0, 0, 1456]
    assert found.floor is not None and found.estimate is not None
    assert asdict(found.floor) == pytest.approx(
        {"receive_s": 1.456, "send_s": 0.728, "memory_s": 0.728}
        | dict.fromkeys(("node_in_s", "node_out_s", "node_s"), 0)
    )
    assert found.floor.seconds == pytest.approx(1.456)
    mean = (1.44 + 1.472 + 2.912) / 3  # at half the rate
    assert asdict(found.estimate) == pytest.approx(
        {
            "wire_s": mean,
            "imbalance_s": 2.912 - mean,
            "operations_s": 0.017,
        }  # 17 runs, none touches another
        | dict.fromkeys(("staging_s", "fixed_s"), 0)
    )
    assert found.estimate.seconds == pytest.approx(2.929)


def test_blocks_that_touch_are_one_operation() -> None:
    """TP 1 -> TP 1: all is one run but for two norms of 16 bytes, as tensors begin at 64ths."""
    job = small("ipc", 2)
    whole = replace(job, parallel=Parallel("pair", source=Degrees(), destination=Degrees()))
    found = predict(Setup.of(whole))
    assert len(found.plan) == 10
    assert found.estimate is not None and found.estimate.operations_s == pytest.approx(0.003)


def test_packed_messages_by_hand() -> None:
    found = predict(Setup.of(small("gloo", 3)))
    assert found.estimate is not None
    assert found.estimate.operations_s == pytest.approx(0.004)  # 720 and 736 bytes by 500
    assert found.estimate.staging_s == pytest.approx(2 * 1456 / 2000)
    assert found.staging_bytes is not None
    assert found.staging_bytes.tolist() == [1000, 1000, 2000]  # two of 500, on each side
    in_place = predict(Setup.of(small("ipc", 3))).staging_bytes
    assert in_place is not None and in_place.sum() == 0


def test_two_nodes_by_hand() -> None:
    found = predict(Setup.of(small("ipc", 2)))  # rank 2 is alone on its node
    assert found.floor is not None and found.estimate is not None
    assert asdict(found.floor) == pytest.approx(
        {
            "receive_s": 1456 / 1250,
            "send_s": 728 / 1250,
            "node_in_s": 1456 / 500,  # through the NICs of both ranks of the node
            "node_out_s": 1456 / 500,
            "memory_s": 0.728,
            "node_s": 0,
        }
    )
    assert found.estimate.wire_s + found.estimate.imbalance_s == pytest.approx(1456 / 200)


def test_what_stays_where_it_is_costs_its_copies_alone() -> None:
    what = small("ipc", 2)
    pair = Parallel("pair", mode="collocated", source=Degrees(tp=2), destination=Degrees(tp=2))
    found = predict(Setup.of(replace(what, parallel=pair)))
    assert found.floor is not None and found.estimate is not None
    # each rank reads and writes the 752 bytes that it holds
    assert asdict(found.floor) == pytest.approx(
        {"memory_s": 2 * 752 / 2000}
        | dict.fromkeys(("receive_s", "send_s", "node_in_s", "node_out_s", "node_s"), 0)
    )
    assert found.estimate.wire_s == pytest.approx(0.752)
    assert (found.estimate.imbalance_s, found.estimate.staging_s) == pytest.approx((0, 0))
    packs = replace(small("gloo", 2, replace(SLOW, node_gbps=1e-6)), parallel=pair)
    packed = predict(Setup.of(packs)).estimate
    assert packed is not None and packed.staging_s == 0


def test_a_shared_memory_bounds_its_ranks_together() -> None:
    found = predict(Setup.of(small("ipc", 3, replace(SLOW, node_gbps=0.1e-6))))
    assert found.floor is not None and found.estimate is not None
    assert found.floor.seconds == found.floor.node_s == pytest.approx(14.56)
    assert found.estimate.imbalance_s == pytest.approx(0)  # all wait for the same memory


def test_a_record_has_what_each_rank_moves_and_holds() -> None:
    said = predict(Setup.of(small("gloo", 2))).forecast()
    sent = said.per_rank.pop("send_bytes")
    assert sorted(sent) == [0, 0, 720, 736]
    assert said.per_rank == {
        "recv_bytes": [0, 0, 1456, 0],
        "cross_node_send_bytes": sent,
        "cross_node_recv_bytes": [0, 0, 1456, 0],
        "source_bytes": [752, 752, 0, 0],
        "destination_bytes": [0, 0, 1456, 0],
        "staging_bytes": [1000, 1000, 2000, 0],
    }
    assert said.memory == DeviceMemory(3456, None, None) and said.missing is None
    near = predict(Setup.of(small("gloo", 3)))
    assert near.floor is not None and near.estimate is not None
    said = near.forecast()
    assert said.floor == {"seconds": pytest.approx(1.456), **asdict(near.floor)}
    assert said.estimate == {"seconds": near.estimate.seconds, **asdict(near.estimate)}
    assert said.per_rank["cross_node_send_bytes"] == [0, 0, 0]
    unknown = predict(Setup.of(small("gloo", 2, replace(SLOW, nic_gbps=None)))).forecast()
    assert (unknown.floor, unknown.estimate) == (None, None)
    assert unknown.missing == "cluster.hardware.nic_gbps"


@pytest.mark.parametrize(("nbytes", "fits"), [(3456, True), (3455, False)])
def test_staging_takes_memory_too(nbytes: int, fits: bool) -> None:
    found = predict(Setup.of(small("gloo", 3, replace(SLOW, memory_gb=(nbytes + 0.5) / 1e9))))
    assert found.forecast().memory == DeviceMemory(3456, nbytes, fits)
    assert (found.shortage is None) is fits


def test_fitted_terms_replace_the_hardwares() -> None:
    plain = predict(Setup.of(small("gloo", 3))).estimate
    fitted = {"gloo": {"wire": 3.0, "latency_us": 10.0, "staging": 0.5, "fixed_us": 7e6}}
    found = predict(Setup.of(small("gloo", 3, replace(SLOW, fitted=fitted)))).estimate
    assert plain is not None and found is not None
    assert found.wire_s == pytest.approx(3 * plain.wire_s)
    assert found.imbalance_s == pytest.approx(3 * plain.imbalance_s)
    assert found.operations_s == pytest.approx(plain.operations_s / 100)
    assert (found.staging_s, found.fixed_s) == pytest.approx((plain.staging_s / 2, 7.0))
    other = predict(Setup.of(small("ipc", 3, replace(SLOW, fitted=fitted)))).estimate
    assert other == predict(Setup.of(small("ipc", 3))).estimate


def test_rates_that_are_not_stated_are_named() -> None:
    found = predict(Setup.of(small("ipc", 2, replace(SLOW, nic_gbps=None))))
    assert found.floor is None and found.estimate is None
    assert found.missing == "cluster.hardware.nic_gbps"
    assert predict(Setup.of(small("ipc", 3, replace(SLOW, nic_gbps=None)))).missing is None


@st.composite
def degrees(draw: st.DrawFn) -> Degrees:
    tp, pp, ep = (draw(st.sampled_from((1, 2, 4))) for _ in range(3))
    pp = min(pp, 2)
    gpus = pp * lcm(tp, ep) * draw(st.sampled_from((1, 2)))
    return Degrees(tp=tp, pp=pp, ep=ep, etp=1, gpus=gpus)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    positive = st.floats(0.01, 100)
    share = st.floats(0.1, 1)
    hardware = Hardware(
        memory_gbps=draw(positive),
        memory_efficiency=draw(share),
        peer_gbps=draw(positive),
        peer_efficiency=draw(share),
        nic_gbps=draw(positive),
        nic_efficiency=draw(share),
        node_gbps=draw(st.none() | positive),
        latency_us=draw(st.floats(0, 100)),
    )
    mode = draw(st.sampled_from(("collocated", "non-collocated")))
    return Job(
        model=TINY,
        parallel=Parallel("p", mode=mode, source=draw(degrees()), destination=draw(degrees())),
        refit=Refit("r", draw(st.sampled_from(("ipc", "gloo", "auto"))), bucket_mb=0.01,
                    fanout=draw(st.sampled_from(("direct", "hierarchical")))),
        cluster=Cluster("drawn", ranks_per_node=draw(st.sampled_from((1, 2, 3, 8))),
                        hardware=hardware),
        mode="plan",
    )  # fmt: skip


@given(jobs())
def test_the_floor_is_below_any_plan(job: Job) -> None:
    found = predict(Setup.of(job))
    event(f"{len(found.plan.hops)} hops")
    assert found.floor is not None and found.estimate is not None
    assert 0 < found.floor.seconds <= found.estimate.seconds * (1 + 1e-12)
    assert all(value >= 0 for value in asdict(found.estimate).values())
    # a plan with other sources, as bad as can be, has the same floor and no smaller estimate of it
    plan = build_plan(found.plan.catalogue, found.placement)
    worst = np.array([plan.holders.ranks(int(s))[-1] for s in plan.holder_set])
    other = predict(Setup.of(job), replace(plan, source=np.where(plan.remote, worst, plan.source)))
    assert other.floor is not None and other.estimate is not None
    assert other.floor.seconds == pytest.approx(found.floor.seconds)
    assert other.floor.seconds <= other.estimate.seconds * (1 + 1e-12)
    held = found.destination_bytes
    assert (found.traffic.received_bytes + found.traffic.local_bytes).tolist() == held.tolist()
    if METHODS[found.setup.method].one_sided:
        assert found.staging_bytes is not None and not found.staging_bytes.any()


@given(degrees(), st.booleans())
def test_bytes_per_rank_are_the_sum_of_its_shards(side: Degrees, tied: bool) -> None:
    model = replace(TINY, share_embeddings_and_output_weights=tied)
    layout = place(Job(model=model, parallel=Parallel("p", source=side))).source
    assume(layout.gpus <= 16)
    tensors = catalogue(model, layout.tp)
    found = per_rank_bytes(tensors, layout).tolist()
    assert found == [weight_bytes(tensors, layout, r) for r in layout.ranks]


def test_a_block_that_many_want_leaves_its_holder_once() -> None:
    job = Job(
        model=SMALL,
        parallel=Parallel("p", source=Degrees(), destination=Degrees(gpus=4)),
        cluster=Cluster("c", ranks_per_node=1, hardware=SLOW),
    )
    placement = place(job)
    plan = build_plan(catalogue(SMALL), placement)
    assert (plan.bounds.send, plan.least_send, plan.leaving_bytes) == (4 * 1456, 1456, 1456)
    assert plan.node_needs.tolist() == [0, 1456, 1456, 1456, 1456]
