"""Constants and enumerations of the wire format; import them from ``rdmaorder.messages``."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "BLOCK_BYTES",
    "BUY",
    "FLAG_POSS_RESEND",
    "KNOWN_FLAGS",
    "MAX_QUANTITY",
    "NO_PRICE",
    "PRICE_EXPONENT",
    "PRICE_SCALE",
    "SCHEMA_ID",
    "SCHEMA_VERSION",
    "SELL",
    "SLOT_BYTES",
    "ExecType",
    "Fate",
    "MassCancelScope",
    "OrdStatus",
    "OrdType",
    "PeerState",
    "Reason",
    "SessionEventKind",
    "Side",
    "Status",
    "TemplateId",
    "TimeInForce",
]

SCHEMA_ID: Final = 1
SCHEMA_VERSION: Final = 0
SLOT_BYTES: Final = 64
BLOCK_BYTES: Final = 48

PRICE_EXPONENT: Final = -9
PRICE_SCALE: Final = 1_000_000_000
#: "no price": what a market order carries
NO_PRICE: Final = -(2**63)
MAX_QUANTITY: Final = 2**63 - 1

FLAG_POSS_RESEND: Final = 0x01
KNOWN_FLAGS: Final = FLAG_POSS_RESEND


class TemplateId(IntEnum):
    """Which message a slot holds."""

    NEW_ORDER = 1
    REPLACE_ORDER = 2
    CANCEL_ORDER = 3
    MASS_CANCEL = 4
    EXECUTION_REPORT = 101
    SESSION_EVENT = 102


class Side(IntEnum):
    """FIX Side (54)."""

    BUY = 1
    SELL = 2


BUY: Final = Side.BUY
SELL: Final = Side.SELL


class OrdType(IntEnum):
    """FIX OrdType (40)."""

    MARKET = 1
    LIMIT = 2


class TimeInForce(IntEnum):
    """FIX TimeInForce (59)."""

    DAY = 0
    GOOD_TILL_CANCEL = 1
    IMMEDIATE_OR_CANCEL = 3
    FILL_OR_KILL = 4


class ExecType(IntEnum):
    """FIX ExecType (150), the code of its character: what happened to the request."""

    NEW = ord("0")
    CANCELED = ord("4")
    REPLACED = ord("5")
    REJECTED = ord("8")
    EXPIRED = ord("C")
    TRADE = ord("F")


class OrdStatus(IntEnum):
    """FIX OrdStatus (39), the code of its character: the order after the event."""

    NEW = ord("0")
    PARTIALLY_FILLED = ord("1")
    FILLED = ord("2")
    CANCELED = ord("4")
    REPLACED = ord("5")
    REJECTED = ord("8")
    EXPIRED = ord("C")


class Reason(IntEnum):
    """Why a request was refused or an order ended; docs/wire-format.md explains each."""

    NONE = 0
    UNKNOWN_ORDER = 1
    TOO_LATE = 2
    DUPLICATE_CL_ORD_ID = 3
    UNKNOWN_INSTRUMENT = 4
    INVALID_SIDE = 5
    INVALID_PRICE = 6
    INVALID_QUANTITY = 7
    INVALID_ORD_TYPE = 8
    INVALID_TIME_IN_FORCE = 9
    UNKNOWN_TEMPLATE = 10
    MAX_QUANTITY = 11
    MAX_NOTIONAL = 12
    PRICE_COLLAR = 13
    STALE = 14
    THROTTLED = 15
    HALTED = 16
    JOURNAL_UNAVAILABLE = 17
    HANDLER_FAILED = 18
    CAPACITY = 19
    NOT_ENTITLED = 20
    DRAINING = 21
    NO_LIQUIDITY = 22
    MASS_CANCEL = 23
    DISCONNECT = 24
    KILL = 25


class MassCancelScope(IntEnum):
    """What a mass cancel cancels."""

    SESSION = 1
    INSTRUMENT = 2
    SIDE = 3
    ACCOUNT = 4


class PeerState(IntEnum):
    """What the writer of a status line will take now."""

    OPEN = 1
    THROTTLED = 2
    HALTED = 3
    CLOSING = 4


class SessionEventKind(IntEnum):
    """What a session event tells."""

    NOT_APPLIED = 1
    HALTED = 2
    RESUMED = 3
    THROTTLED = 4
    TERMINATED = 5
    REPORTS_LOST = 6
    CANCELED = 7
    ESTABLISHED = 64
    SUSPECT = 65
    LIVE = 66
    DEAD = 67
    RESENT = 68


class Fate(IntEnum):
    """What the gateway's journal knows of an order."""

    #: Sent, without a report, and nobody was asked.
    UNKNOWN = 0
    #: Not taken by the gateway; on a live link it may yet be.
    NOT_TAKEN = 1
    #: Never arrived and never will be applied.
    NOT_APPLIED = 2
    #: Journalled and handed on, without a report so far. With Reason.JOURNAL_UNAVAILABLE: taken
    #: while the journal could not write.
    TAKEN = 3
    #: exec_type, ord_status and reason of its newest report say how it stands.
    ANSWERED = 4


class Status(IntEnum):
    """Result of a call on the order path. Negative: refused, nothing was written."""

    OK = 0
    EMPTY = -1
    FULL = -2
    NOT_CONNECTED = -3
    CLOSED = -4
    HALTED = -5
    THROTTLED = -6
    INVALID = -7
    TOO_LARGE = -8
    TORN = -9
    CORRUPT = -10
    LAPPED = -11
    TIMEOUT = -12
    IO = -13
    TRANSPORT = -14
