"""A gateway handler in Python that accepts every request: the other end of ``python-handler``."""

from __future__ import annotations

from rdmaorder._core import Order

__all__ = ["Accept"]


class Accept:
    """One report an order."""

    def on_order(self, order: Order) -> None:
        """Takes and accepts."""
        order.accept()
