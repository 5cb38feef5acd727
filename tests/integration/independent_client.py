"""A strategy written from docs/control-plane.md and docs/wire-format.md, sharing no code with the
library's: a socket, two memfds, mmap and a CRC. It can write what no strategy should."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from types import TracebackType
from typing import Any

import msgpack

SEALS = 0x0002 | 0x0004  # F_SEAL_SHRINK, F_SEAL_GROW
F_ADD_SEALS = 1033
PATIENCE_S = 30.0
REPORT_RING_OFFSET = 4096
HEADER = struct.Struct("<HHHH")
NEW_ORDER = struct.Struct("<QqqQIIIBBBB")
EXECUTION_REPORT = struct.Struct("<QQqqqIBBBB")
STATUS_LINE = struct.Struct("<QQQQQQBB6x")


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
    """The whole slot (or status line, with its version for sequence)."""
    crc = crc32c(struct.pack("<QQ", epoch, sequence) + contents)
    return contents + struct.pack("<II", crc, sequence & 0xFFFFFFFF)


def new_order(cl_ord_id: int, *, quantity: int = 10, side: int = 1, template_id: int = 1) -> bytes:
    """Header and block of a limit order at 1.25 for instrument 7."""
    block = NEW_ORDER.pack(cl_ord_id, 1_250_000_000, quantity, 0, 7, 0, 0, side, 2, 0, 0)
    return HEADER.pack(48, template_id, 1, 0) + block


class IndependentClient:
    """One link. ``write`` puts orders, ``read`` takes reports, ``order_ring`` is there to be
    spoilt."""

    def __init__(self, path: str, session: str = "stranger", slot_count: int = 64) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(path)
        self.session = session
        granted = self.ask(self.negotiate(slot_count))
        assert granted["type"] == "NegotiationResponse", granted
        window_bytes = REPORT_RING_OFFSET + 64 * granted["report_slot_count"]
        self.report_slot_count = granted["report_slot_count"]
        descriptor = os.memfd_create("reports", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, window_bytes)
        fcntl.fcntl(descriptor, F_ADD_SEALS, SEALS)
        self.own = mmap.mmap(descriptor, window_bytes)
        ack = self.ask(
            {
                "type": "Establish",
                "session": session,
                "next_order_sequence": 0,
                "next_report_sequence": granted["next_report_sequence"],
                "window": {
                    "bytes": window_bytes,
                    "offset_bytes": REPORT_RING_OFFSET,
                    "slot_bytes": 64,
                    "slot_count": granted["report_slot_count"],
                },
            },
            descriptor,
        )
        os.close(descriptor)
        assert ack["type"] == "EstablishmentAck", ack
        self.epoch = ack["epoch"]
        self.next_order = self.first_order = ack["next_order_sequence"]
        self.next_report = ack["next_report_sequence"]
        self.ring_offset = ack["window"]["offset_bytes"]
        self.slot_count = ack["window"]["slot_count"]
        self.peer = mmap.mmap(self.received, ack["window"]["bytes"])
        os.close(self.received)
        self.version = 0

    def negotiate(self, slot_count: int) -> dict[str, Any]:
        return {
            "type": "Negotiate",
            "protocol": "rdmaorder",
            "protocol_version": 1,
            "layout_version": 1,
            "client_version": "independent",
            "session": self.session,
            "transport": "shm",
            "schema_id": 1,
            "schema_version": 0,
            "slot_bytes": 64,
            "order_slot_count": slot_count,
            "report_slot_count": slot_count,
            "flow": "Idempotent",
            "timestamp_ns": 0,
            "pid": os.getpid(),
        }

    # -- control plane -------------------------------------------------------------------------

    def ask(self, message: dict[str, Any], descriptor: int | None = None) -> dict[str, Any]:
        body = msgpack.packb(message)
        frame = struct.pack("<I", len(body)) + body
        socket.send_fds(self.socket, [frame], [] if descriptor is None else [descriptor])
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """The next message; {} at the end of the connection."""
        length, descriptors, _, _ = socket.recv_fds(self.socket, 4, 1)
        if descriptors:
            (self.received,) = descriptors
        if not length:
            return {}
        body = self.socket.recv(*struct.unpack("<I", length), socket.MSG_WAITALL)
        message: dict[str, Any] = msgpack.unpackb(body)
        return message

    # -- rings ---------------------------------------------------------------------------------

    def slot_offset(self, sequence: int) -> int:
        return self.ring_offset + (sequence - 1) % self.slot_count * 64

    def put(self, sequence: int, slot: bytes) -> None:
        """Writes a slot, the commit word last and at once."""
        offset = self.slot_offset(sequence)
        self.peer[offset : offset + 56] = slot[:56]
        with memoryview(self.peer) as view, view.cast("Q") as words:
            (words[offset // 8 + 7],) = struct.unpack("<Q", slot[56:])

    def write(self, message: bytes) -> int:
        """Writes the next message and returns its sequence."""
        sequence = self.next_order
        assert sequence <= self.consumed() + self.slot_count, "no credit"
        self.put(sequence, seal(self.epoch, sequence, message))
        self.next_order += 1
        return sequence

    def read(self) -> tuple[int, ...] | None:
        """Fields of the next report (with template 101), or None."""
        sequence = self.next_report
        offset = REPORT_RING_OFFSET + (sequence - 1) % self.report_slot_count * 64
        slot = self.own[offset : offset + 64]
        if slot[60:] != struct.pack("<I", sequence & 0xFFFFFFFF):
            return None
        assert slot == seal(self.epoch, sequence, slot[:56]), "a report that does not verify"
        assert HEADER.unpack(slot[:8]) == (48, 101, 1, 0)
        self.next_report += 1
        return EXECUTION_REPORT.unpack(slot[8:56])

    def peer_line(self) -> tuple[int, ...]:
        """The gateway's status line; all zero before its first."""
        line = self.own[:64]
        return STATUS_LINE.unpack(line[:56])

    def consumed(self) -> int:
        return max(self.peer_line()[0], self.first_order - 1)

    def write_line(self, consumed: int) -> None:
        """The own status line: gives credit for reports."""
        self.version += 1
        line = STATUS_LINE.pack(consumed, consumed, 0, self.next_order, self.version, 0, 1, 0)
        self.peer[:64] = seal(self.epoch, self.version, line)

    def __enter__(self) -> IndependentClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()
        self.own.close()
        self.peer.close()
