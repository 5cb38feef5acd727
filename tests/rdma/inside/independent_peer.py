"""A strategy over RDMA, written from docs/control-plane.md and docs/wire-format.md alone.

It shares no code with the library and no package beside Debian's pyverbs (hence the interpreter
/usr/bin/python3, and msgpack by hand):

    independent_peer.py '{"gateway": "10.1.0.1", "port": 9000, "local": "10.1.0.2",
                          "device": "rxe1", "session": "alpha", "key": HEX or "", "count": 40,
                          "do": "trade"}'

prints one JSON object. "do": "trade" sends orders and takes their reports; "wrong key" and "beyond"
write where they may not.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

PATIENCE_S = 60.0
SLOT = 64
RING_OFFSET = 4096
HEADER = struct.Struct("<HHHH")
NEW_ORDER = struct.Struct("<QqqQIIIBBBB")
EXECUTION_REPORT = struct.Struct("<QQqqqIBBBB")
STATUS_LINE = struct.Struct("<QQQQQQBB6x")
MTUS = {256: e.IBV_MTU_256, 512: e.IBV_MTU_512, 1024: e.IBV_MTU_1024, 2048: e.IBV_MTU_2048}
MTUS[4096] = e.IBV_MTU_4096


# -- msgpack: maps, strings, binaries and unsigned integers ------------------------------------


def pack(value: Any) -> bytes:
    if isinstance(value, dict):
        items = b"".join(pack(key) + pack(each) for key, each in value.items())
        return struct.pack(">BH", 0xDE, len(value)) + items
    if isinstance(value, str):
        return struct.pack(">BB", 0xD9, len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return struct.pack(">BB", 0xC4, len(value)) + value
    return struct.pack(">BQ", 0xCF, value)


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    kind = data[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if kind in (0xCC, 0xCD, 0xCE, 0xCF):
        size = 1 << (kind - 0xCC)
        return int.from_bytes(data[at : at + size], "big"), at + size
    if kind & 0xF0 == 0x80 or kind == 0xDE:
        count = kind & 0x0F
        if kind == 0xDE:
            count, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        found = {}
        for _ in range(count):
            key, at = unpack(data, at)
            found[key], at = unpack(data, at)
        return found, at
    lengths = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4}
    if kind & 0xE0 == 0xA0:
        length = kind & 0x1F
    else:
        size = lengths[kind]
        length, at = int.from_bytes(data[at : at + size], "big"), at + size
    body = data[at : at + length]
    return (body if kind in (0xC4, 0xC5, 0xC6) else body.decode()), at + length


# -- CRC-32C and slots -------------------------------------------------------------------------


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def seal(epoch: int, sequence: int, contents: bytes) -> bytes:
    crc = crc32c(struct.pack("<QQ", epoch, sequence) + contents)
    return contents + struct.pack("<II", crc, sequence & 0xFFFFFFFF)


# -- the peer ----------------------------------------------------------------------------------


class Peer:
    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.socket = socket.create_connection(
            (asked["gateway"], asked["port"]), PATIENCE_S, (asked["local"], 0)
        )
        self._open_device()
        granted = self._negotiate()
        self.report_slots = granted["report_slot_count"]
        self.reserve = granted["cancel_reserve_count"]
        self._establish(granted)
        self.version = 0
        self.gateway_version = 0

    def _open_device(self) -> None:
        device = self.asked["device"]
        self.context = Context(name=device)
        self.domain = PD(self.context)
        self.queue = CQ(self.context, 64)
        access = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE
        self.window_bytes = RING_OFFSET + SLOT * 64
        self.window = MR(self.domain, self.window_bytes, access)
        self.window.write(b"\0" * self.window_bytes, self.window_bytes)
        self.source = MR(self.domain, SLOT, e.IBV_ACCESS_LOCAL_WRITE)
        capacity = QPCap(max_send_wr=16, max_recv_wr=1, max_inline_data=SLOT)
        attributes = QPInitAttr(
            qp_type=e.IBV_QPT_RC, scq=self.queue, rcq=self.queue, cap=capacity, sq_sig_all=0
        )
        self.pair = QP(self.domain, attributes)
        self.gid_index, self.gid = self._own_gid(device)
        self.packet_sequence = secrets.randbits(24)

    def _own_gid(self, device: str) -> tuple[int, bytes]:
        port = Path("/sys/class/infiniband") / device / "ports" / "1"
        wanted = ipaddress.IPv6Address("::ffff:" + self.asked["local"]).packed
        for entry in (port / "gids").iterdir():
            if ipaddress.IPv6Address(entry.read_text().strip()).packed != wanted:
                continue
            if (port / "gid_attrs" / "types" / entry.name).read_text().strip() == "RoCE v2":
                return int(entry.name), wanted
        raise SystemExit(f"{device} has no RoCE v2 GID for {self.asked['local']}")

    # -- control plane -------------------------------------------------------------------------

    def tell(self, message: dict[str, Any]) -> None:
        body = pack(message)
        self.socket.sendall(struct.pack("<I", len(body)) + body)

    def hear(self) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._exactly(4))
        message, end = unpack(self._exactly(length))
        assert end == length
        return dict(message)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the gateway closed the connection"
            data += more
        return data

    def _negotiate(self) -> dict[str, Any]:
        asked = self.asked
        self.tell(
            {
                "type": "Negotiate",
                "protocol": "rdmaorder",
                "protocol_version": 1,
                "layout_version": 1,
                "client_version": "independent",
                "session": asked["session"],
                "transport": "rdma",
                "schema_id": 1,
                "schema_version": 0,
                "slot_bytes": SLOT,
                "order_slot_count": 32,
                "report_slot_count": 16,
                "flow": "Idempotent",
                "timestamp_ns": time.time_ns(),
                "pid": os.getpid(),
            }
        )
        answer = self.hear()
        expected = None
        if answer["type"] == "Challenge":
            key, nonce = bytes.fromhex(asked["key"]), secrets.token_bytes(32)
            name = asked["session"].encode()
            over = struct.pack("<II", 1, 1) + bytes([len(name)]) + name
            over += answer["nonce"] + nonce + b"\0"  # no TLS, no binding

            def proof(who: bytes) -> bytes:
                return hmac.new(key, who + over, hashlib.sha256).digest()

            self.tell(
                {"type": "Authenticate", "client_nonce": nonce, "mac": proof(b"rdmaorder client")}
            )
            expected = proof(b"rdmaorder server")
            answer = self.hear()
        assert answer["type"] == "NegotiationResponse", answer
        assert answer.get("mac") == expected, "the gateway proved nothing"
        return answer

    def _establish(self, granted: dict[str, Any]) -> None:
        mtu_bytes = 1024
        self.tell(
            {
                "type": "Establish",
                "session": self.asked["session"],
                "next_order_sequence": 0,
                "next_report_sequence": granted["next_report_sequence"],
                "window": {
                    "bytes": self.window_bytes,
                    "offset_bytes": RING_OFFSET,
                    "slot_bytes": SLOT,
                    "slot_count": self.report_slots,
                    "address": self.window.buf,
                    "key": self.window.rkey,
                },
                "endpoint": {
                    "qp_number": self.pair.qp_num,
                    "packet_sequence": self.packet_sequence,
                    "gid": self.gid,
                    "lid": 0,
                    "mtu_bytes": mtu_bytes,
                },
            }
        )
        ack = self.hear()
        assert ack["type"] == "EstablishmentAck", ack
        self.epoch = ack["epoch"]
        self.next_order = self.first_order = ack["next_order_sequence"]
        self.next_report = ack["next_report_sequence"]
        self.there = ack["window"]
        self._connect(ack["endpoint"], min(mtu_bytes, ack["endpoint"]["mtu_bytes"]))
        self.tell({"type": "Established", "epoch": self.epoch})

    def _connect(self, endpoint: dict[str, Any], mtu_bytes: int) -> None:
        attributes = QPAttr(port_num=1)
        attributes.qp_access_flags = e.IBV_ACCESS_REMOTE_WRITE
        attributes.path_mtu = MTUS[mtu_bytes]
        attributes.dest_qp_num = endpoint["qp_number"]
        attributes.rq_psn = endpoint["packet_sequence"]
        attributes.sq_psn = self.packet_sequence
        attributes.max_rd_atomic = attributes.max_dest_rd_atomic = 1
        attributes.min_rnr_timer = 12
        attributes.timeout, attributes.retry_cnt, attributes.rnr_retry = 17, 6, 6
        text = ipaddress.IPv6Address(endpoint["gid"]).exploded
        route = GlobalRoute(dgid=GID(text), sgid_index=self.gid_index, hop_limit=64)
        attributes.ah_attr = AHAttr(port_num=1, is_global=1, gr=route)
        self.pair.to_rts(attributes)

    # -- memory --------------------------------------------------------------------------------

    def put(self, offset: int, data: bytes, key: int | None = None) -> int:
        """One RDMA WRITE; its completion status."""
        self.source.write(data, len(data))
        piece = SGE(self.source.buf, len(data), self.source.lkey)
        request = SendWR(
            wr_id=1,
            opcode=e.IBV_WR_RDMA_WRITE,
            num_sge=1,
            sg=[piece],
            send_flags=e.IBV_SEND_SIGNALED | e.IBV_SEND_INLINE,
        )
        request.set_wr_rdma(
            self.there["key"] if key is None else key, self.there["address"] + offset
        )
        self.pair.post_send(request)
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            count, completions = self.queue.poll(1)
            if count:
                return int(completions[0].status)
        raise SystemExit("the WRITE never completed")

    def write_order(self, cl_ord_id: int) -> None:
        block = NEW_ORDER.pack(cl_ord_id, 1_250_000_000, 10, 0, 7, 0, 0, 1, 2, 0, 0)
        sequence = self.next_order
        at = (sequence - 1) % self.there["slot_count"] * SLOT
        slot = seal(self.epoch, sequence, HEADER.pack(48, 1, 1, 0) + block)
        assert self.put(self.there["offset_bytes"] + at, slot) == e.IBV_WC_SUCCESS
        self.next_order += 1

    def write_line(self) -> None:
        """Credit for reports, and life."""
        self.version += 1
        read = self.next_report - 1
        fields = (read, read, 0, self.next_order, self.version, time.time_ns(), 1, 0)
        line = seal(self.epoch, self.version, STATUS_LINE.pack(*fields))
        assert self.put(0, line) == e.IBV_WC_SUCCESS

    def line(self) -> tuple[int, ...] | None:
        """The gateway's status line, None before its first and while it is being written."""
        data = self.window.read(SLOT, 0)
        low = struct.unpack("<I", data[60:])[0]
        if low < self.gateway_version or data != seal(self.epoch, low, data[:56]):
            return None
        self.gateway_version = low
        return STATUS_LINE.unpack(data[:56])

    def report(self) -> tuple[int, ...] | None:
        sequence = self.next_report
        at = RING_OFFSET + (sequence - 1) % self.report_slots * SLOT
        data = self.window.read(SLOT, at)
        if data != seal(self.epoch, sequence, data[:56]):
            return None
        assert HEADER.unpack(data[:8]) == (48, 101, 1, 0)
        self.next_report += 1
        return EXECUTION_REPORT.unpack(data[8:56])

    # -- what is asked for ---------------------------------------------------------------------

    def trade(self) -> dict[str, Any]:
        count, reports = self.asked["count"], []
        consumed, sent = self.first_order - 1, 0
        line = None
        end_s = time.monotonic() + PATIENCE_S
        while len(reports) < count or line is None or line[1] < self.next_order - 1:
            assert time.monotonic() < end_s, f"{len(reports)} reports, line {line}"
            line = self.line() or line
            if line is not None:
                consumed = max(consumed, line[0])
            if (
                sent < count
                and self.next_order <= consumed + self.there["slot_count"] - self.reserve
            ):
                sent += 1
                self.write_order(1000 + sent)
            while (report := self.report()) is not None:
                reports.append(report)
            self.write_line()
        self.tell(
            {
                "type": "Terminate",
                "code": "Finished",
                "last_sequence": self.next_order - 1,
                "text": "",
            }
        )
        return {"reports": reports, "line": line, "answer": self.hear()}

    def write_astray(self) -> dict[str, Any]:
        """Where there is no permission: with another key, or beyond the window."""
        if self.asked["do"] == "wrong key":
            status = self.put(self.there["offset_bytes"], b"\0" * SLOT, self.there["key"] ^ 0x5A00)
        else:
            status = self.put(self.there["bytes"], b"\0" * SLOT)
        return {"status": status, "answer": self.hear()}


def main() -> None:
    peer = Peer(json.loads(sys.argv[1]))
    result = peer.trade() if peer.asked["do"] == "trade" else peer.write_astray()
    print(json.dumps(result), flush=True)
    peer.socket.close()


main()
