"""Writes journals as a gateway would; what the journal tests share."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from rdmaorder import journal, messages
from rdmaorder.journal import RecordKind

SEGMENT_BYTES = 64 * 1024
TIME_NS = 1_700_000_000_123_456_789


def new_order(cl_ord_id: int, price: int = 187_250_000_000, quantity: int = 100) -> bytes:
    slot = np.zeros(1, messages.NEW_ORDER)
    slot["block_length"], slot["template_id"] = 48, messages.TemplateId.NEW_ORDER
    slot["schema_id"] = 1
    slot["cl_ord_id"], slot["price"], slot["quantity"] = cl_ord_id, price, quantity
    slot["instrument"], slot["side"], slot["ord_type"] = 7, messages.BUY, messages.OrdType.LIMIT
    slot["time_in_force"] = messages.TimeInForce.IMMEDIATE_OR_CANCEL
    return slot.tobytes()[:56]


def report(cl_ord_id: int, order_sequence: int, reason: int = 0) -> bytes:
    slot = np.zeros(1, messages.EXECUTION_REPORT)
    slot["block_length"], slot["template_id"] = 48, messages.TemplateId.EXECUTION_REPORT
    slot["schema_id"] = 1
    slot["cl_ord_id"], slot["price"] = cl_ord_id, messages.NO_PRICE
    slot["order_sequence_low"] = order_sequence & 0xFFFFFFFF
    slot["exec_type"] = messages.ExecType.REJECTED if reason else messages.ExecType.NEW
    slot["ord_status"] = messages.OrdStatus.REJECTED if reason else messages.OrdStatus.NEW
    slot["reason"] = reason
    return slot.tobytes()[:56]


def session_event() -> bytes:
    slot = np.zeros(1, messages.SESSION_EVENT)
    slot["block_length"], slot["template_id"] = 48, messages.TemplateId.SESSION_EVENT
    slot["schema_id"], slot["from_sequence"], slot["count"] = 1, 4, 2
    slot["kind"] = messages.SessionEventKind.NOT_APPLIED
    return slot.tobytes()[:56]


class Author:
    """Writes the records a gateway would write."""

    def __init__(self, directory: Path) -> None:
        self.writer = journal.Writer(str(directory), segment_bytes=SEGMENT_BYTES, sync="none")
        self._time_ns = TIME_NS

    def __enter__(self) -> Author:
        return self

    def __exit__(self, *exc: object) -> None:
        self.writer.close()

    def add(self, kind: int, payload: bytes, index: int, sequence: int, detail: int = 0) -> int:
        self._time_ns += 1
        return self.writer.append(
            kind,
            payload,
            session_index=index,
            sequence=sequence,
            time_ns=self._time_ns,
            detail=detail,
        )

    def session(self, index: int, name: str) -> None:
        self.add(RecordKind.SESSION, name.encode(), index, 1)

    def link(self, index: int, epoch: int, order: int, report_: int) -> None:
        self.add(RecordKind.LINK, struct.pack("<QQQ", epoch, order, report_), index, order)

    def not_applied(self, index: int, start: int, count: int) -> None:
        self.add(RecordKind.NOT_APPLIED, struct.pack("<Q", count), index, start)

    def orders(self, index: int, *sequences: int) -> None:
        for sequence in sequences:
            self.add(RecordKind.ORDER, new_order(sequence), index, sequence)


def write_two_sessions(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.link(0, 11, 1, 1)
        author.session(1, "beta")
        author.link(1, 12, 1, 1)
        author.orders(0, 1)
        author.orders(1, 1)
        author.add(RecordKind.REPORT, report(1, 1), 0, 1)
        author.add(RecordKind.ORDER, new_order(2), 0, 2, messages.Reason.MAX_QUANTITY)
        author.add(RecordKind.REPORT, report(2, 2, messages.Reason.MAX_QUANTITY), 0, 2)
        author.add(RecordKind.REPORT, session_event(), 0, 3)


def damage(directory: Path, offset: int, number: int = 1) -> None:
    path = directory / f"{number:010d}.rojl"
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
