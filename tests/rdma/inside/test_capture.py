"""Puts sessions on the wire under tcpdump. What it caught is decoded on the host, where tshark does
not take ten seconds to load: tests/rdma/test_packets.py."""

from __future__ import annotations

import json
import re
import shutil
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
TAKEN = ("captured", "received by filter")


@contextmanager
def capture(netdev: str, file: Path, what: str, least_bytes: int) -> Iterator[None]:
    """tcpdump into ``file``, from when it listens until all has been written."""
    # It may not open our file: it is another user then (with -Z root Ubuntu 24.04's ends at once).
    words = ["tcpdump", "-U", "-B", "8192", "-i", netdev, "-w", "-", *what.split()]
    with (
        file.open("wb") as written,
        subprocess.Popen(words, stdout=written, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stderr is not None
        said = process.stderr.readline()
        while "listening on" not in said:
            said = process.stderr.readline()
            assert said, "tcpdump ended"
        yield
        # At SIGINT it forgets what it has not taken from the kernel yet.
        eventually(lambda: file.stat().st_size > least_bytes and is_quiet(file), "all is written")
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=PATIENCE_S)[1]
    captured, received = (int(re.search(rf"(\d+) packets {w}", rest)[1]) for w in TAKEN)
    assert captured == received, rest
    assert "\n0 packets dropped by kernel" in rest, rest


def is_quiet(file: Path) -> bool:
    """Whether nothing is added for a while."""
    before = file.stat().st_size
    time.sleep(1)
    return file.stat().st_size == before


@pytest.mark.parametrize("slot_bytes", [64, 256])
def test_orders_are_captured_on_the_wire(
    start_gateway: StartGateway,
    connect: Connect,
    soft: Wire,
    out: Path,
    tmp_path: Path,
    slot_bytes: int,
) -> None:
    gateway = start_gateway(heartbeat_us=50_000)
    port = gateway.url.rsplit(":", 1)[1]
    file = tmp_path / f"orders-{slot_bytes}.pcap"
    # Of each order and each acknowledgement at least the data and the headers of RoCE.
    least_bytes = COUNT * (slot_bytes + 2 * 62)
    with capture(soft.near.netdev, file, f"udp port 4791 or tcp port {port}", least_bytes):
        session = connect(gateway, slot_bytes=slot_bytes, order_slots=32)
        for n in range(1, COUNT + 1):  # each a call of its own, over several laps of the ring
            order(session, n)
        assert list(take(session, COUNT)["cl_ord_id"]) == list(range(1, COUNT + 1))
        eventually(lambda: session.status()["applied"] == COUNT, "applied")
        assert session.close(PATIENCE_S)
        gateway.stop()
    shutil.copy(file, out)
    facts = {
        "count": COUNT,
        "slot_bytes": slot_bytes,
        "port": int(port),
        "gateway": soft.near.address,
        "strategy": soft.far.address,
    }
    (out / f"orders-{slot_bytes}.json").write_text(json.dumps(facts))
