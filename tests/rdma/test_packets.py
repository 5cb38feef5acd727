"""What one order is on the wire: the packets of tests/rdma/inside/test_capture.py, as tshark sees
them. Window and keys are taken from the control connection, which was captured too."""

from __future__ import annotations

import json
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rdma_suite import Suite, is_native

from rdmaorder.gateway.protocol import decode_body

pytestmark = pytest.mark.rdma

#: RoCE opcodes of the reliable connection.
WRITE_ONLY, ACKNOWLEDGE = 10, 17


@dataclass(frozen=True)
class Packet:
    """One RoCE packet."""

    source: str
    opcode: int
    pair: int
    packet_sequence: int
    address: int
    key: int
    length: int


@dataclass
class Wire:
    """One capture: what was announced and what was sent."""

    facts: dict[str, Any]
    messages: dict[str, dict[str, Any]]
    packets: list[Packet]

    def sent_by(self, end: str) -> list[Packet]:
        """Each once: one that a stalled machine sent again has the sequence of the first."""
        seen = {}
        for packet in self.packets:
            if packet.source == self.facts[end]:
                seen.setdefault((packet.opcode, packet.packet_sequence), packet)
        return list(seen.values())


def tshark(file: Path, chosen: str, *fields: str) -> list[list[str]]:
    words = ["tshark", "-r", str(file), "-Y", chosen, "-T", "fields", "-E", "separator=|"]
    words += [word for field in fields for word in ("-e", field)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


def control_messages(file: Path, port: int) -> dict[str, dict[str, Any]]:
    """Every message of the control connection by its type."""
    streams: dict[str, bytes] = {}
    chosen = f"tcp.port == {port} && tcp.len > 0 && !tcp.analysis.retransmission"
    for source, payload in tshark(file, chosen, "tcp.srcport", "tcp.payload"):
        streams[source] = streams.get(source, b"") + bytes.fromhex(payload)
    found = {}
    for stream in streams.values():
        while stream:
            (length,) = struct.unpack("<I", stream[:4])
            message = decode_body(stream[4 : 4 + length])
            found[message["type"]] = message
            stream = stream[4 + length :]
    return found


@pytest.fixture(scope="module", params=[64, 256])
def wire(suite: Suite, request: pytest.FixtureRequest) -> Wire:
    facts_file = suite.folder / f"orders-{request.param}.json"
    if is_native():
        pytest.skip("packets are captured on the soft-RoCE wire only")
    assert facts_file.exists(), f"nothing was captured: {suite.end}"
    facts = json.loads(facts_file.read_text())
    file = facts_file.with_suffix(".pcap")
    names = ["ip.src", "infiniband.bth.opcode", "infiniband.bth.destqp", "infiniband.bth.psn"]
    names += ["infiniband.reth.va", "infiniband.reth.r_key", "infiniband.reth.dmalen"]
    rows = tshark(file, "infiniband", *names)
    packets = [Packet(row[0], *(int(word or "-1", 0) for word in row[1:])) for row in rows]
    return Wire(facts, control_messages(file, facts["port"]), packets)


def test_each_order_is_one_write_only_of_a_slot_to_its_place_in_the_window(wire: Wire) -> None:
    ack = wire.messages["EstablishmentAck"]
    window, slot_bytes = ack["window"], wire.facts["slot_bytes"]
    ring = window["address"] + window["offset_bytes"]
    writes = [packet for packet in wire.sent_by("strategy") if packet.opcode == WRITE_ONLY]
    assert {packet.pair for packet in writes} == {ack["endpoint"]["qp_number"]}
    orders = [packet for packet in writes if packet.address >= ring]
    assert len(orders) == wire.facts["count"]
    for index, packet in enumerate(orders):
        assert packet.key == window["key"]
        assert packet.length == slot_bytes
        assert packet.address == ring + index % window["slot_count"] * slot_bytes
        assert packet.address + packet.length <= window["address"] + window["bytes"]
    # The rest are status lines (credit and life) and, at the end, an empty one that waits for all.
    others = Counter((packet.address, packet.length) for packet in writes if packet.address < ring)
    assert set(others) <= {(window["address"], 64), (window["address"], 0)}
    assert others[window["address"], 0] <= 1


def test_each_report_is_one_write_only_of_a_slot_to_the_strategys_window(wire: Wire) -> None:
    asked = wire.messages["Establish"]
    window = asked["window"]
    ring = window["address"] + window["offset_bytes"]
    writes = [packet for packet in wire.sent_by("gateway") if packet.opcode == WRITE_ONLY]
    reports = [packet for packet in writes if packet.address >= ring]
    # Reports of one batch go out as one WRITE.
    sent_bytes = wire.facts["count"] * wire.facts["slot_bytes"]
    assert sum(packet.length for packet in reports) == sent_bytes
    assert {packet.key for packet in reports} == {window["key"]}
    assert {packet.pair for packet in reports} == {asked["endpoint"]["qp_number"]}
    for packet in reports:
        assert packet.address + packet.length <= window["address"] + window["bytes"]


def test_nothing_but_writes_and_their_acknowledgements_is_on_the_wire(wire: Wire) -> None:
    """No SEND, READ, ATOMIC, no immediate, no message in several packets."""
    assert {packet.opcode for packet in wire.packets} == {WRITE_ONLY, ACKNOWLEDGE}
    sources = {wire.facts["gateway"], wire.facts["strategy"]}
    assert {packet.source for packet in wire.packets} == sources


def test_queue_pairs_begin_with_the_packet_sequences_they_announced(wire: Wire) -> None:
    for end, kind in (("strategy", "Establish"), ("gateway", "EstablishmentAck")):
        first = next(packet for packet in wire.sent_by(end) if packet.opcode == WRITE_ONLY)
        assert first.packet_sequence == wire.messages[kind]["endpoint"]["packet_sequence"]
