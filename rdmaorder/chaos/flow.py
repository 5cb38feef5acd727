"""The orders a strategy under test sends: every kind of message, drawn from a seed."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from rdmaorder.messages import (
    BUY,
    NEW_ORDER,
    PRICE_SCALE,
    SELL,
    SLOT,
    OrdType,
    Records,
    TemplateId,
    TimeInForce,
    as_cancels,
    as_new_orders,
    as_replaces,
    cancel_orders,
    new_orders,
    replace_orders,
)

__all__ = ["make_messages"]

_CANCEL_SHARE: Final = 0.2
_REPLACE_SHARE: Final = 0.1
_IMMEDIATE_SHARE: Final = 0.3
_DEADLINE_SHARE: Final = 0.05
_DEADLINE_NS: Final = 50_000_000
_REACH: Final = 60  #: a cancel or replace names one of this many orders before it


def make_messages(first_id: int, count: int, dice: np.random.Generator) -> Records:
    """``count`` SLOT messages with the ClOrdIDs from ``first_id`` on."""
    slots: Records = new_orders(count).view(SLOT)
    ids = np.arange(first_id, first_id + count, dtype=np.uint64)
    earlier = np.maximum(ids.astype(np.int64) - dice.integers(1, _REACH, count), 1)
    draw = dice.random(count)
    cancels = draw < _CANCEL_SHARE
    replaces = ~cancels & (draw < _CANCEL_SHARE + _REPLACE_SHARE)
    if cancels.any():
        slots[cancels] = cancel_orders(int(cancels.sum())).view(SLOT)
        made = slots[cancels]
        as_cancels(made)["orig_cl_ord_id"] = earlier[cancels]
        slots[cancels] = made
    if replaces.any():
        made = replace_orders(int(replaces.sum())).view(SLOT)
        fields = as_replaces(made)
        fields["orig_cl_ord_id"] = earlier[replaces]
        _fill(fields, dice)
        slots[replaces] = made
    plain = slots["template_id"] == TemplateId.NEW_ORDER
    made = slots[plain]
    fields = as_new_orders(made)
    _fill(fields, dice)
    fields["account"] = dice.integers(0, 1 << 16, len(made))
    slots[plain] = made
    slots.view(NEW_ORDER)["cl_ord_id"] = ids  # at one place in every message
    return slots


def _fill(fields: Records, dice: np.random.Generator) -> None:
    count = len(fields)
    fields["price"] = dice.integers(1, 1000, count) * PRICE_SCALE
    fields["quantity"] = dice.integers(1, 1000, count)
    fields["instrument"] = dice.integers(1, 50, count)
    fields["side"] = np.where(dice.random(count) < 0.5, BUY, SELL)
    fields["ord_type"] = OrdType.LIMIT
    fields["time_in_force"] = np.where(
        dice.random(count) < _IMMEDIATE_SHARE, TimeInForce.IMMEDIATE_OR_CANCEL, TimeInForce.DAY
    )
    deadline = np.where(dice.random(count) < _DEADLINE_SHARE, time.time_ns() + _DEADLINE_NS, 0)
    fields["stale_after_ns"] = deadline
