"""Reading what running processes publish about themselves, without their help."""

from __future__ import annotations

from rdmaorder.monitor.counters import CounterName, Counters

__all__ = ["CounterName", "Counters"]
