"""A gateway handler in Python that accepts everything: the other end of "Python on both ends"."""

from __future__ import annotations

import struct

import numpy as np

from rdmaorder.messages import ExecType, OrdStatus, Records, execution_reports

__all__ = ["Accept"]

# ORDER_RECORD and HANDLER_REPORT as far as an acceptance needs them.
_ORDER = struct.Struct("<4xIQ40xQ")  # session_index, cl_ord_id, sequence
_HEAD = struct.Struct("<QQ")  # order_sequence, cl_ord_id
_TAIL = struct.Struct("<I")  # session_index
_TAIL_OFFSET = 56


class Accept:
    """One report an order.

    A single order goes through ``struct``: four numpy columns of one record cost several times as
    much, and so does asking a structured array for its buffer each time.
    """

    def __init__(self) -> None:
        self._one = _prepared(1)
        self._bytes = memoryview(self._one.view(np.uint8))

    def on_orders(self, orders: Records) -> Records | None:
        """Takes and accepts."""
        if len(orders) == 1:
            session_index, cl_ord_id, sequence = _ORDER.unpack(orders.tobytes())
            _HEAD.pack_into(self._bytes, 0, sequence, cl_ord_id)
            _TAIL.pack_into(self._bytes, _TAIL_OFFSET, session_index)
            return self._one
        reports = _prepared(len(orders))
        reports["order_sequence"] = orders["sequence"]
        reports["cl_ord_id"] = orders["cl_ord_id"]
        reports["session_index"] = orders["session_index"]
        return reports


def _prepared(count: int) -> Records:
    reports = execution_reports(count)
    reports["exec_type"] = ExecType.NEW
    reports["ord_status"] = OrdStatus.NEW
    return reports
