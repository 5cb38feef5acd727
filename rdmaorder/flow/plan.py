"""Which session sends which message, and under which ClOrdID."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rdmaorder.errors import InputError
from rdmaorder.flow.decimals import Int64Array
from rdmaorder.flow.table import DELETE, MODIFY, NEW, Flow
from rdmaorder.messages import (
    BLOCK_BYTES,
    NEW_ORDER,
    NO_PRICE,
    SCHEMA_ID,
    SCHEMA_VERSION,
    SLOT,
    OrdType,
    TemplateId,
    TimeInForce,
    as_cancels,
    as_new_orders,
    as_replaces,
)

__all__ = ["SESSION_COUNT_MAX", "SessionPlan", "make_plan"]

Records = npt.NDArray[np.void]

SESSION_COUNT_MAX = 256
#: ClOrdIDs from here on are given to no order: they stand for orders the recording never opened.
_NEVER_USED = np.uint64(1 << 63)


@dataclass(slots=True)
class SessionPlan:
    """What one session sends, in order."""

    name: str
    slots: Records  #: SLOT; ClOrdIDs as for a session whose next sequence is 1
    kinds: npt.NDArray[np.uint8]  #: NEW, MODIFY, CANCEL or DELETE
    due_ns: Int64Array  #: after the first message of the recording
    #: whether a message names an earlier order of this session (a replace or cancel does)
    names_order: npt.NDArray[np.bool_]

    def numbered(self, first_sequence: int) -> Records:
        """The slots as a session sends them whose next sequence is ``first_sequence``.

        A message's ClOrdID is its sequence, which a session never uses twice: a second replay into
        the same session repeats no ClOrdID.
        """
        slots: Records = self.slots.copy()
        offset = np.uint64(first_sequence - 1)
        as_new_orders(slots)["cl_ord_id"] += offset  # the first field of every order message
        as_cancels(slots)["orig_cl_ord_id"][self.names_order] += offset
        return slots


@dataclass(slots=True)
class _Chains:
    """What follows from the messages before a message; one entry per message."""

    named: Int64Array  #: the message whose ClOrdID it names, -1: none
    side: npt.NDArray[np.uint8]
    price: Int64Array


def _order_keys(flow: Flow, count: int) -> Int64Array:
    """One number per (order id, symbol): venues number the orders of each symbol by themselves."""
    pairs = flow.order[:count] * max(1, len(flow.symbols)) + flow.symbol[:count]
    _, keys = np.unique(pairs, return_inverse=True)
    return np.asarray(keys, np.int64).reshape(count)


def _follow_chains(flow: Flow, keys: Int64Array) -> _Chains:
    """Walks the messages once, keeping for each order the ClOrdID, side, price and open quantity.

    A replace moves an order's ClOrdID only while the order is open: otherwise the venue refuses it
    and the id it brought never comes into being.
    """
    count = len(keys)
    key_count = int(np.max(keys)) + 1 if count else 0
    latest, side_of, price_of = [-1] * key_count, [0] * key_count, [NO_PRICE] * key_count
    open_quantity = [0] * key_count
    named = [-1] * count
    sides, prices = flow.side[:count].tolist(), flow.price[:count].tolist()
    rows = zip(
        keys.tolist(), flow.kind[:count].tolist(), flow.quantity[:count].tolist(), strict=True
    )
    for row, (key, kind, quantity) in enumerate(rows):
        if kind == NEW:
            latest[key], side_of[key], price_of[key] = row, sides[row], prices[row]
            open_quantity[key] = quantity
            continue
        named[row] = latest[key]
        if sides[row] == 0:
            sides[row] = side_of[key]
        if kind == MODIFY:
            if prices[row] == NO_PRICE:
                prices[row] = price_of[key]
            if open_quantity[key] > 0:
                latest[key], price_of[key], open_quantity[key] = row, prices[row], quantity
        elif kind == DELETE:
            open_quantity[key] = 0
        else:
            open_quantity[key] -= quantity
    return _Chains(np.array(named, np.int64), np.array(sides, np.uint8), np.array(prices, np.int64))


def _fill(
    flow: Flow, chains: _Chains, keys: Int64Array, positions: Int64Array
) -> tuple[Records, npt.NDArray[np.bool_]]:
    """Slots of all messages; ``positions`` count each session's messages from 0."""
    count = len(keys)
    slots = np.zeros(count, NEW_ORDER)
    slots["block_length"], slots["schema_id"] = BLOCK_BYTES, SCHEMA_ID
    slots["version"] = SCHEMA_VERSION
    kind, quantity = flow.kind[:count], flow.quantity[:count]
    instrument = flow.symbol[:count].astype(np.uint32) + 1
    ord_type = np.where(chains.price == NO_PRICE, OrdType.MARKET, OrdType.LIMIT)
    own = positions.astype(np.uint64) + np.uint64(1)
    names_order = chains.named >= 0
    orig = np.where(names_order, own[chains.named], _NEVER_USED + keys.astype(np.uint64))

    new, replace = kind == NEW, kind == MODIFY
    cancel = ~(new | replace)
    for template, rows, view in (
        (TemplateId.NEW_ORDER, new, slots),
        (TemplateId.REPLACE_ORDER, replace, as_replaces(slots)),
        (TemplateId.CANCEL_ORDER, cancel, as_cancels(slots)),
    ):
        view["template_id"][rows] = template
        view["cl_ord_id"][rows] = own[rows]
        view["quantity"][rows] = quantity[rows]
        view["instrument"][rows] = instrument[rows]
        view["side"][rows] = chains.side[rows]
        if template == TemplateId.CANCEL_ORDER:
            view["orig_cl_ord_id"][rows] = orig[rows]
            view["quantity"][kind == DELETE] = 0  # all of it
            continue
        view["price"][rows] = chains.price[rows]
        view["ord_type"][rows] = ord_type[rows]
        view["time_in_force"][rows] = TimeInForce.DAY
        if template == TemplateId.REPLACE_ORDER:
            view["orig_cl_ord_id"][rows] = orig[rows]
    return slots.view(SLOT), names_order


def make_plan(
    flow: Flow, session_count: int, *, limit: int | None = None, name: str = "replay"
) -> list[SessionPlan]:
    """Spreads the first ``limit`` messages (None: all) over ``session_count`` sessions.

    An order id goes to the session crc32(order id) % session_count, so that every message of an
    order takes the same way. Sessions are called ``name-1``, ``name-2`` and so on. Instruments are
    numbered from 1 in the order in which their symbols appear in the file.
    """
    if not 1 <= session_count <= SESSION_COUNT_MAX:
        raise InputError(f"session count {session_count} is outside 1 .. {SESSION_COUNT_MAX}")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} is not above 0")
    count = len(flow) if limit is None else min(limit, len(flow))
    hashes = (zlib.crc32(order_id.encode()) % session_count for order_id in flow.order_ids)
    session_of_order = np.fromiter(hashes, np.int64, len(flow.order_ids))
    session = session_of_order[flow.order[:count]]
    positions = np.zeros(count, np.int64)
    members = [np.flatnonzero(session == index) for index in range(session_count)]
    for rows in members:
        positions[rows] = np.arange(len(rows))
    keys = _order_keys(flow, count)
    slots, names_order = _fill(flow, _follow_chains(flow, keys), keys, positions)
    due_ns = flow.t_ns[:count] - (flow.t_ns[0] if count else 0)
    return [  # copies of what is selected, so that a slice of a session's messages is contiguous
        SessionPlan(
            f"{name}-{number}", slots[rows], flow.kind[rows], due_ns[rows], names_order[rows]
        )
        for number, rows in enumerate(members, 1)
    ]
