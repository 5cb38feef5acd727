"""A gateway handler in Python that accepts every new order: the other end of ``python-handler``."""

from __future__ import annotations

import struct

import numpy as np

from rdmaorder.messages import ExecType, OrdStatus, Records, execution_reports

__all__ = ["Accept"]

# ORDER_RECORD and HANDLER_REPORT as far as an acceptance needs them.
_ORDER = struct.Struct("<4xIQqq24xQ")  # session_index, cl_ord_id, price, quantity, sequence
_HEAD = struct.Struct("<QQQqqq")  # order_sequence, cl_ord_id, order_id, price, quantity, leaves
_TAIL = struct.Struct("<I")  # session_index
_TAIL_OFFSET = 56


class Accept:
    """One report an order.

    A single order goes through ``struct``: four numpy columns of one record cost several times as
    much, and so does asking a structured array for its buffer each time.
    """

    def __init__(self) -> None:
        self._one = _prepared(1)
        self._bytes = self._one.view(np.uint8).data

    def on_orders(self, orders: Records) -> Records | None:
        """Takes and accepts."""
        if len(orders) == 1:
            session_index, cl_ord_id, price, quantity, sequence = _ORDER.unpack(orders.tobytes())
            _HEAD.pack_into(self._bytes, 0, sequence, cl_ord_id, 0, price, quantity, quantity)
            _TAIL.pack_into(self._bytes, _TAIL_OFFSET, session_index)
            return self._one
        reports = _prepared(len(orders))
        reports["order_sequence"] = orders["sequence"]
        for name in ("cl_ord_id", "session_index", "price", "quantity"):
            reports[name] = orders[name]
        reports["leaves_quantity"] = orders["quantity"]
        return reports


def _prepared(count: int) -> Records:
    reports = execution_reports(count)
    reports["exec_type"] = ExecType.NEW
    reports["ord_status"] = OrdStatus.NEW
    return reports
