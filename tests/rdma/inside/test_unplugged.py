"""An interface that goes down under a session. Runs last: routes and IPv6 addresses go with it."""

from __future__ import annotations

import subprocess

import pytest
from gateway_support import PATIENCE_S, Connect, StartGateway, eventually, order, take
from wire import Wire

import rdmaorder as ro


def test_an_interface_that_goes_down_ends_its_links_with_the_cause_and_is_refused(
    start_gateway: StartGateway, connect: Connect, soft: Wire
) -> None:
    # The control connection goes another way, so that it is the device that tells.
    gateway = start_gateway(listen=f"rdma://127.0.0.1:0?device={soft.near.device}")
    url = f"{gateway.url}?tls=off&device={soft.far.device}"
    session = connect(url)
    order(session, 1)
    take(session, 1)
    subprocess.run(["ip", "link", "set", soft.far.netdev, "down"], check=True)
    eventually(lambda: session.status()["state"] == "dead", "the end is seen")
    cause = session.status()["cause"]
    assert cause.startswith("transport failed: "), cause
    assert f"on {soft.far.device} port 1 to queue pair" in cause
    with pytest.raises(ro.NotConnected, match="transport failed"):
        order(session, 2)
    with pytest.raises(ro.TransportError, match=f"{soft.far.device}.* port 1.*(down|active port)"):
        connect(url, "beta")


@pytest.mark.parametrize("end", ["far", "near"])
def test_a_reconnect_waits_for_an_interface_to_come_back(
    start_gateway: StartGateway, connect: Connect, soft: Wire, end: str
) -> None:
    netdev = getattr(soft, end).netdev
    for each in (soft.near, soft.far):
        subprocess.run(["ip", "link", "set", each.netdev, "up"], check=True)
    gateway = start_gateway(listen=f"rdma://127.0.0.1:0?device={soft.near.device}")
    url = f"{gateway.url}?tls=off&device={soft.far.device}"
    # A GID follows its interface a moment later.
    session = eventually(lambda: connected(connect, url), "the devices are back")
    order(session, 1)
    take(session, 1)
    subprocess.run(["ip", "link", "set", netdev, "down"], check=True)
    eventually(lambda: session.status()["state"] == "dead", "the end is seen")
    with pytest.raises((ro.TransportError, ro.Refused, ro.ConnectTimeout)):
        session.reconnect(0.2)  # the last try says why, or had no time left
    with subprocess.Popen(["sh", "-c", f"sleep 1; ip link set {netdev} up"]):
        session.reconnect(PATIENCE_S)
    order(session, 2)
    take(session, 1)


def connected(connect: Connect, url: str) -> ro.Session | None:
    try:
        made: ro.Session = connect(url)
    except (ro.TransportError, ro.Refused):
        return None
    return made
