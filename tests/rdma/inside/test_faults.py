"""A wire that loses, repeats and reorders packets, and one that is cut."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest
from gateway_support import PATIENCE_S, Connect, StartGateway, batch_of, eventually, order
from wire import Wire

import rdmaorder as ro

COUNT = 400
FAULTS = {
    "orders, 1 % lost": {"far": ["loss", "1%"]},
    "orders, 5 % lost": {"far": ["loss", "5%"]},
    "orders, 20 % lost": {"far": ["loss", "20%"]},
    "reports, 20 % lost": {"near": ["loss", "20%"]},
    "both, 5 % lost": {"far": ["loss", "5%"], "near": ["loss", "5%"]},
    "both, 20 % repeated": {"far": ["duplicate", "20%"], "near": ["duplicate", "20%"]},
    "both, 25 % out of order": {
        "far": ["delay", "2ms", "reorder", "75%", "50%"],
        "near": ["delay", "2ms", "reorder", "75%", "50%"],
    },
    "both, everything at once": {
        "far": ["delay", "1ms", "reorder", "75%", "loss", "3%", "duplicate", "5%"],
        "near": ["delay", "1ms", "reorder", "75%", "loss", "3%", "duplicate", "5%"],
    },
}


def disturbed(netdev: str) -> int:
    """Packets that netem dropped, and those that passed it."""
    words = ["tc", "-s", "-j", "qdisc", "show", "dev", netdev]
    (shown,) = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert shown["kind"] == "netem"
    return int(shown["drops"] + shown["packets"])


@pytest.mark.parametrize("fault", FAULTS)
def test_every_order_and_report_arrives_once_and_in_order(
    start_gateway: StartGateway,
    connect: Connect,
    netem: Callable[..., None],
    soft: Wire,
    fault: str,
) -> None:
    # Few heartbeats, so that it is orders and reports that are disturbed.
    gateway = start_gateway(listen=f"{soft.listen}?timeout_exponent=14", heartbeat_us=100_000)
    session = connect(f"{gateway.url}?tls=off&timeout_exponent=14", order_slots=64)
    for end, words in FAULTS[fault].items():
        netem(end, *words)
    before = {end: disturbed(getattr(soft, end).netdev) for end in FAULTS[fault]}
    sequences: list[int] = []
    answered: list[int] = []
    numbers: list[int] = []
    end_s = time.monotonic() + 2 * PATIENCE_S
    while len(answered) < COUNT:
        assert time.monotonic() < end_s, (len(answered), session.status())
        if len(sequences) < COUNT:
            sequence = session.try_new_order(len(sequences) + 1, 7, ro.BUY, 5, 1)
            if sequence > 0:
                sequences.append(sequence)
        reports = session.poll()
        answered += reports["order_sequence"].tolist()
        numbers += reports["sequence"].tolist()
    assert sequences == answered == numbers == list(range(1, COUNT + 1))
    assert gateway.counters()["orders_applied"] == COUNT
    assert session.status()["state"] == "live"
    for end, count in before.items():
        assert disturbed(getattr(soft, end).netdev) > count, "the fault touched something"


def test_a_cut_wire_is_suspect_then_dead_by_the_heartbeat_and_not_by_the_device(
    start_gateway: StartGateway, connect: Connect, netem: Callable[..., None], soft: Wire
) -> None:
    # The device alone would try for (6 + 1) * 4.3 s.
    gateway = start_gateway(listen=f"{soft.listen}?timeout_exponent=20&retry_count=6")
    url = f"{gateway.url}?tls=off&timeout_exponent=20&retry_count=6"
    session = connect(url, suspect_after_s=0.5, dead_after_s=1.5)
    assert session.status()["verbs"]["timeout_ns"] * 7 > 30 * 10**9
    sequence = eventually(lambda: max(session.try_new_order(1, 7, 1, 5, 1), 0), "it is live")
    assert session.wait(PATIENCE_S)
    netem("near", "loss", "100%")
    netem("far", "loss", "100%")
    cut_s = time.monotonic()
    eventually(lambda: session.status()["state"] != "live", "the silence is seen")
    status = session.status()
    assert (status["state"], status["send_status"]) == ("suspect", "not_connected")
    assert "no heartbeat from the gateway for" in status["cause"]
    with pytest.raises(ro.NotConnected):
        order(session, 2)
    assert session.next_sequence == sequence + 1
    eventually(lambda: session.status()["state"] == "dead", "it is given up")
    waited_s = time.monotonic() - cut_s
    assert "no heartbeat from the gateway for" in session.status()["cause"]
    assert 1.0 < waited_s < 15, "by the heartbeat's 1.5 s, far from the device's 30 s"
    assert list(session.poll()["order_sequence"]) == [sequence]  # what had arrived is delivered
    with pytest.raises(ro.NotConnected):
        session.poll()


def test_a_session_goes_on_where_it_was_after_the_wire_is_whole_again(
    start_gateway: StartGateway, connect: Connect, netem: Callable[..., None], soft: Wire
) -> None:
    gateway = start_gateway(heartbeat_us=20_000)
    session = connect(gateway, suspect_after_s=0.3, dead_after_s=1.0)
    eventually(lambda: session.try_send_batch(batch_of(10)) == 10, "ten go")
    assert session.wait_applied(10, PATIENCE_S)
    netem("far", "loss", "100%")
    netem("near", "loss", "100%")
    eventually(lambda: session.status()["state"] == "dead", "the silence is seen")
    session.close(0)
    netem("far", "loss", "0%")
    netem("near", "loss", "0%")

    def again() -> ro.Session | None:
        try:
            made: ro.Session = connect(gateway)
        except (ro.Refused, ro.ConnectTimeout):  # the gateway has not missed the old link yet
            return None
        return made

    session = eventually(again, "the gateway lets it in again")
    assert session.next_sequence == 11
    assert order(session, 11) == 11
