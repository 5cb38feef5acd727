"""Puts sessions on the wire under tcpdump. What it caught is decoded on the host, where tshark does
not take ten seconds to load: tests/rdma/test_packets.py."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_support import PATIENCE_S, Connect, StartGateway, eventually, order, take
from wire import Wire

COUNT = 150


@contextmanager
def capture(netdev: str, file: Path, what: str) -> Iterator[None]:
    """tcpdump into ``file``, from when it listens until all has been written."""
    words = [
        "tcpdump",
        "-Z",
        "root",
        "-U",
        "-B",
        "8192",
        "-i",
        netdev,
        "-w",
        str(file),
        *what.split(),
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        while "listening on" not in said:
            said = process.stderr.readline()
            assert said, "tcpdump ended"
        yield
        time.sleep(0.5)  # what is still in its buffer
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=PATIENCE_S)[1]
    assert "\n0 packets dropped by kernel" in rest, rest


@pytest.mark.parametrize("slot_bytes", [64, 256])
def test_orders_are_captured_on_the_wire(
    start_gateway: StartGateway, connect: Connect, soft: Wire, out: Path, slot_bytes: int
) -> None:
    gateway = start_gateway(heartbeat_us=50_000)
    port = gateway.url.rsplit(":", 1)[1]
    file = out / f"orders-{slot_bytes}.pcap"
    with capture(soft.near.netdev, file, f"udp port 4791 or tcp port {port}"):
        session = connect(gateway, slot_bytes=slot_bytes, order_slots=32)
        for n in range(1, COUNT + 1):  # each a call of its own, over several laps of the ring
            order(session, n)
        assert list(take(session, COUNT)["cl_ord_id"]) == list(range(1, COUNT + 1))
        eventually(lambda: session.status()["applied"] == COUNT, "applied")
        assert session.close(PATIENCE_S)
        gateway.stop()
    facts = {
        "count": COUNT,
        "slot_bytes": slot_bytes,
        "port": int(port),
        "gateway": soft.near.address,
        "strategy": soft.far.address,
    }
    (out / f"orders-{slot_bytes}.json").write_text(json.dumps(facts))
