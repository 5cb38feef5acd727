"""Sessions over RDMA: which device, what was asked and granted, security, addresses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from gateway_support import (
    LENIENT,
    PATIENCE_S,
    Connect,
    StartGateway,
    batch_of,
    eventually,
    order,
    take,
)
from wire import Wire

import rdmaorder as ro

KEY = "ab" * 32


def test_the_device_of_the_route_is_taken_and_told_with_what_was_granted(
    start_gateway: StartGateway, connect: Connect, wire: Wire
) -> None:
    session = connect(start_gateway())
    verbs = session.status()["verbs"]
    assert (verbs["device"], verbs["gid"]) == (wire.far.device, wire.far.address)
    assert verbs["why"] == f"has {wire.far.address}"
    assert (verbs["gid_type"], verbs["gid_index"]) == ("RoCE v2", wire.far.gid_index)
    assert verbs["depth"] == verbs["asked"]["depth"] == 256
    assert (verbs["asked"]["device"], verbs["asked"]["mtu"]) == ("", 0)
    assert verbs["mtu_bytes"] in (1024, 2048, 4096)


def test_options_are_asked_for_granted_and_told_apart(
    start_gateway: StartGateway, connect: Connect, wire: Wire
) -> None:
    gateway = start_gateway(listen=f"{wire.listen}?mtu=1024&depth=32&signal_interval=8")
    asked = {"depth": 64, "inline_bytes": 130, "signal_interval": 16, "retry_count": 3}
    asked |= {"rnr_retry_count": 2, "traffic_class": 8, "gid_index": wire.far.gid_index}
    options = "&".join(f"{key}={value}" for key, value in asked.items())
    url = f"{gateway.url}?tls=off&device={wire.far.device}&timeout_exponent=18&{options}"
    session = connect(url)
    verbs = session.status()["verbs"]
    assert {key: verbs["asked"][key] for key in asked} == asked
    granted = {key: verbs[key] for key in asked if key != "inline_bytes"}
    assert granted == {key: value for key, value in asked.items() if key != "inline_bytes"}
    assert verbs["inline_bytes"] >= 64
    assert verbs["inline_bytes"] % 8 == 0
    assert verbs["mtu_bytes"] == 1024  # the gateway's
    assert verbs["timeout_ns"] == 4096 << 18
    session.send_batch(batch_of(200))
    assert list(take(session, 200)["cl_ord_id"]) == list(range(1, 201))


@pytest.mark.parametrize("inline_bytes", [0, 256])
def test_slots_of_every_size_go_inline_or_through_staging_memory(
    start_gateway: StartGateway, connect: Connect, inline_bytes: int
) -> None:
    gateway = start_gateway()
    for slot_bytes in (64, 128, 512, 4096):
        url = f"{gateway.url}?tls=off&inline_bytes={inline_bytes}"
        session = connect(url, f"s{slot_bytes}", slot_bytes=slot_bytes, order_slots=64)
        for n in range(1, 201):
            order(session, n)
        assert list(take(session, 200)["cl_ord_id"]) == list(range(1, 201))
        assert session.close(PATIENCE_S)


def test_many_sessions_have_each_their_own_link(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway()
    sessions = [connect(gateway, f"s{n}") for n in range(8)]
    for turn in range(10):
        for session in sessions:
            session.send_batch(batch_of(10, first_id=10 * turn + 1))
    for session in sessions:
        assert list(take(session, 100)["cl_ord_id"]) == list(range(1, 101))
    assert gateway.counters()["orders_applied"] == 800


def test_the_control_connection_is_tls_and_both_ends_prove_the_key(
    start_gateway: StartGateway, wire: Wire, tmp_path: Path
) -> None:
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command = [*words.split(), "-subj", "/CN=gateway", "-keyout", "gw.key", "-out", "gw.pem"]
    command += ["-addext", f"subjectAltName=IP:{wire.near.address}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    certificate = str(tmp_path / "gw.pem")
    gateway = start_gateway(
        tls="on",
        tls_certificate=certificate,
        tls_key=str(tmp_path / "gw.key"),
        session_keys={"alpha": KEY},
    )
    with ro.connect(gateway.url, "alpha", tls_ca=certificate, session_key=KEY, **LENIENT) as made:
        order(made, 1)
        assert len(take(made, 1)) == 1
    with pytest.raises(ro.Refused, match="the proof for session 'alpha' is wrong"):
        ro.connect(gateway.url, "alpha", tls_ca=certificate, session_key="cd" * 32)


def test_ipv6_carries_sessions_too(
    start_gateway: StartGateway, connect: Connect, soft: Wire
) -> None:
    session = connect(start_gateway(listen="rdma://[fd10:1::1]:0"))
    verbs = session.status()["verbs"]
    assert (verbs["device"], verbs["gid"]) == (soft.far.device, "fd10:1::2")
    session.send_batch(batch_of(100))
    assert len(take(session, 100)) == 100


# -- nothing is left behind --------------------------------------------------------------------


def resources() -> str:
    """What the kernel counts: queue pairs, regions, completion queues, domains, contexts."""
    return subprocess.run(
        ["rdma", "resource", "show"], capture_output=True, text=True, check=True
    ).stdout


def test_links_that_end_in_any_way_leave_no_resource_of_the_device(
    start_gateway: StartGateway, connect: Connect
) -> None:
    before = resources()
    gateway = start_gateway()
    sessions = [connect(gateway, f"s{n}") for n in range(3)]
    during = resources()
    assert during != before, "the count sees what there is"
    for n in range(3):
        order(sessions[n], 1)
    assert sessions[0].close(PATIENCE_S)  # in good order
    del sessions[0]  # without a word
    refused = pytest.raises(ro.RdmaOrderError)
    with refused:
        connect(f"{gateway.url}?tls=off&mtu=4096&gid_index=250", "bad")
    gateway.stop()  # ends the last one
    for session in sessions:
        session.close(0)
    eventually(lambda: resources() == before, "everything is released")
