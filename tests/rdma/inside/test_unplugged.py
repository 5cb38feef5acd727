"""An interface that goes down under a session. Runs last: routes and IPv6 addresses go with it."""

from __future__ import annotations

import subprocess

import pytest
from gateway_support import Connect, StartGateway, eventually, order, take
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
