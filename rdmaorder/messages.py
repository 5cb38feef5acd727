"""The wire messages as numpy dtypes, their enumerations and exact decimal prices.

Names, offsets and values equal those of the C++ structs and of ``schema/orders.xml``; a test
compares them all. Every record is 64 bytes with the message block at offset 8, so a view with
another dtype of this module reinterprets the bytes without a copy:

=================  ========================  ============  ==========================
dtype              bytes 0 .. 8              8 .. 56       56 .. 64
=================  ========================  ============  ==========================
NEW_ORDER ...      message header            the block     crc32c, sequence_low
SLOT               message header            raw bytes     crc32c, sequence_low
ORDER_RECORD       length, template,         the block     sequence
                   session_index
REPORT_RECORD      order_sequence            the report    sequence
HANDLER_REPORT     order_sequence            the report    session_index, reserved
=================  ========================  ============  ==========================

Prices are integers counting 10**-9 (``price("1.5") == 1_500_000_000``), quantities integers in the
instrument's smallest unit, times nanoseconds of CLOCK_REALTIME.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from rdmaorder._decimals import format_price, price, scale_decimal
from rdmaorder._values import (
    BLOCK_BYTES,
    BUY,
    FLAG_POSS_RESEND,
    KNOWN_FLAGS,
    MAX_QUANTITY,
    NO_PRICE,
    PRICE_EXPONENT,
    PRICE_SCALE,
    SCHEMA_ID,
    SCHEMA_VERSION,
    SELL,
    SLOT_BYTES,
    ExecType,
    Fate,
    MassCancelScope,
    OrdStatus,
    OrdType,
    PeerState,
    Reason,
    SessionEventKind,
    Side,
    Status,
    TemplateId,
    TimeInForce,
)

__all__ = [
    "BATCH_DTYPES",
    "BLOCK_BYTES",
    "BUY",
    "CANCEL_ORDER",
    "CANCEL_RECORD",
    "EXECUTION_REPORT",
    "FATE_RECORD",
    "FLAG_POSS_RESEND",
    "HANDLER_REPORT",
    "KNOWN_FLAGS",
    "MASS_CANCEL",
    "MASS_CANCEL_RECORD",
    "MAX_QUANTITY",
    "MESSAGE_DTYPES",
    "NEW_ORDER",
    "NO_PRICE",
    "ORDER_RECORD",
    "PRICE_EXPONENT",
    "PRICE_SCALE",
    "REPLACE_ORDER",
    "REPLACE_RECORD",
    "REPORT_RECORD",
    "SCHEMA_ID",
    "SCHEMA_VERSION",
    "SELL",
    "SESSION_EVENT",
    "SLOT",
    "SLOT_BYTES",
    "STATUS_LINE",
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
    "as_cancels",
    "as_mass_cancels",
    "as_new_orders",
    "as_replaces",
    "cancel_orders",
    "execution_reports",
    "format_price",
    "mass_cancels",
    "new_orders",
    "price",
    "replace_orders",
    "scale_decimal",
]

Records: TypeAlias = npt.NDArray[np.void]

# --- layouts ------------------------------------------------------------------------------------
# One line per field, in wire order: "name code" or "name code*count". Every field is naturally
# aligned and nothing is padded, so offsets follow from the order.


def _fields(table: str) -> list[tuple[Any, ...]]:
    fields: list[tuple[Any, ...]] = []
    for line in table.split("\n"):
        if not line.strip():
            continue
        name, code = line.split()
        code, _, count = code.partition("*")
        kind = np.dtype(code).newbyteorder("<")
        fields.append((name, kind, (int(count),)) if count else (name, kind))
    return fields


_HEADER = _fields("block_length u2\n template_id u2\n schema_id u2\n version u2")
_COMMIT = _fields("crc32c u4\n sequence_low u4")

_BLOCKS: Final = {
    TemplateId.NEW_ORDER: _fields("""
        cl_ord_id u8
        price i8
        quantity i8
        stale_after_ns u8
        instrument u4
        account u4
        smp_id u4
        side u1
        ord_type u1
        time_in_force u1
        flags u1
    """),
    TemplateId.REPLACE_ORDER: _fields("""
        cl_ord_id u8
        orig_cl_ord_id u8
        price i8
        quantity i8
        stale_after_ns u8
        instrument u4
        side u1
        ord_type u1
        time_in_force u1
        flags u1
    """),
    TemplateId.CANCEL_ORDER: _fields("""
        cl_ord_id u8
        orig_cl_ord_id u8
        quantity i8
        stale_after_ns u8
        instrument u4
        account u4
        reserved u4
        side u1
        reserved2 u1*2
        flags u1
    """),
    TemplateId.MASS_CANCEL: _fields("""
        cl_ord_id u8
        reserved u8*3
        instrument u4
        account u4
        reserved2 u4
        side u1
        scope u1
        reserved3 u1
        flags u1
    """),
    TemplateId.EXECUTION_REPORT: _fields("""
        cl_ord_id u8
        order_id u8
        price i8
        quantity i8
        leaves_quantity i8
        order_sequence_low u4
        exec_type u1
        ord_status u1
        reason u1
        flags u1
    """),
    TemplateId.SESSION_EVENT: _fields("""
        from_sequence u8
        count u8
        time_ns u8
        reserved u8*2
        reserved2 u4
        kind u1
        reason u1
        reserved3 u1*2
    """),
}


def _order_record(template: TemplateId) -> np.dtype[np.void]:
    head = _fields("block_length u2\n template_id u2\n session_index u4")
    return np.dtype(head + _BLOCKS[template] + _fields("sequence u8"))


#: wire slot of each template
MESSAGE_DTYPES: Final[dict[TemplateId, np.dtype[np.void]]] = {
    template: np.dtype(_HEADER + block + _COMMIT) for template, block in _BLOCKS.items()
}
NEW_ORDER: Final = MESSAGE_DTYPES[TemplateId.NEW_ORDER]
REPLACE_ORDER: Final = MESSAGE_DTYPES[TemplateId.REPLACE_ORDER]
CANCEL_ORDER: Final = MESSAGE_DTYPES[TemplateId.CANCEL_ORDER]
MASS_CANCEL: Final = MESSAGE_DTYPES[TemplateId.MASS_CANCEL]
EXECUTION_REPORT: Final = MESSAGE_DTYPES[TemplateId.EXECUTION_REPORT]
SESSION_EVENT: Final = MESSAGE_DTYPES[TemplateId.SESSION_EVENT]
#: any message, the block left raw: the dtype for arrays that mix templates
SLOT: Final[np.dtype[np.void]] = np.dtype([*_HEADER, ("block", f"V{BLOCK_BYTES}"), *_COMMIT])

#: Dtypes of a batch (Session.send_batch).
BATCH_DTYPES: Final = (NEW_ORDER, REPLACE_ORDER, CANCEL_ORDER, MASS_CANCEL, SLOT)

#: What a handler is given: any order message, with the field names of a new order. Records of
#: another template_id are read through as_replaces, as_cancels and as_mass_cancels.
ORDER_RECORD: Final = _order_record(TemplateId.NEW_ORDER)
REPLACE_RECORD: Final = _order_record(TemplateId.REPLACE_ORDER)
CANCEL_RECORD: Final = _order_record(TemplateId.CANCEL_ORDER)
MASS_CANCEL_RECORD: Final = _order_record(TemplateId.MASS_CANCEL)

#: What Session.poll returns: order_sequence is the full sequence of the request answered,
#: sequence the report's own.
REPORT_RECORD: Final[np.dtype[np.void]] = np.dtype(
    _fields("order_sequence u8") + _BLOCKS[TemplateId.EXECUTION_REPORT] + _fields("sequence u8")
)
#: What Session.resolve and Session.orders return: ``fate`` is a Fate, ``sequence`` that of the
#: request (of an open order: the one that opened it), ``cl_ord_id`` the id it bears now,
#: ``report_sequence`` that of its newest report.
FATE_RECORD: Final[np.dtype[np.void]] = np.dtype(
    _fields("""
        sequence u8
        cl_ord_id u8
        order_id u8
        price i8
        leaves_quantity i8
        report_sequence u8
        instrument u4
        account u4
        template_id u2
        fate u1
        exec_type u1
        ord_status u1
        reason u1
        side u1
        reserved u1
    """)
)
#: What a handler returns: order_sequence and session_index are those of the order answered;
#: order_sequence_low is filled in when the report is sent.
HANDLER_REPORT: Final[np.dtype[np.void]] = np.dtype(
    _fields("order_sequence u8")
    + _BLOCKS[TemplateId.EXECUTION_REPORT]
    + _fields("session_index u4\n reserved u4")
)

STATUS_LINE: Final[np.dtype[np.void]] = np.dtype(
    _fields("""
        consumed u8
        applied u8
        durable u8
        next_sequence u8
        heartbeat u8
        time_ns u8
        state u1
        reason u1
        reserved u1*6
        crc32c u4
        version_low u4
    """)
)

# --- arrays -------------------------------------------------------------------------------------

_RECORD_OF: Final = {
    NEW_ORDER: ORDER_RECORD,
    REPLACE_ORDER: REPLACE_RECORD,
    CANCEL_ORDER: CANCEL_RECORD,
    MASS_CANCEL: MASS_CANCEL_RECORD,
}
_RECORDS: Final = frozenset(_RECORD_OF.values())
_SLOTS: Final = frozenset([*MESSAGE_DTYPES.values(), SLOT])


def _view(records: Records, slot_dtype: np.dtype[np.void]) -> Records:
    if records.dtype in _RECORDS:
        return records.view(_RECORD_OF[slot_dtype])
    if records.dtype in _SLOTS:
        return records.view(slot_dtype)
    raise TypeError(
        f"cannot view {records.dtype} as an order message: "
        "pass an array of ORDER_RECORD, SLOT or one of the order message dtypes"
    )


def as_new_orders(records: Records) -> Records:
    """The same bytes with the fields of a new order. No copy; template_id is not looked at."""
    return _view(records, NEW_ORDER)


def as_replaces(records: Records) -> Records:
    """The same bytes with the fields of a replace request. No copy; template_id is not looked at.

    To have only the replaces, select first: ``as_replaces(records[records["template_id"] ==
    TemplateId.REPLACE_ORDER])`` (the selection copies, the view does not).
    """
    return _view(records, REPLACE_ORDER)


def as_cancels(records: Records) -> Records:
    """The same bytes with the fields of a cancel request. No copy; template_id is not looked at."""
    return _view(records, CANCEL_ORDER)


def as_mass_cancels(records: Records) -> Records:
    """The same bytes with the fields of a mass cancel. No copy; template_id is not looked at."""
    return _view(records, MASS_CANCEL)


def _messages(template: TemplateId, count: int) -> Records:
    messages = np.zeros(count, MESSAGE_DTYPES[template])
    messages["block_length"] = BLOCK_BYTES
    messages["template_id"] = template
    messages["schema_id"] = SCHEMA_ID
    messages["version"] = SCHEMA_VERSION
    return messages


def new_orders(count: int) -> Records:
    """``count`` NEW_ORDER messages with the header filled and everything else 0.

    Fill cl_ord_id, price, quantity, instrument, side, ord_type and time_in_force (0 is DAY) and
    pass the array to ``Session.send_batch``, which writes the commit words. To mix templates in one
    batch, ``numpy.concatenate`` the arrays viewed as SLOT.
    """
    return _messages(TemplateId.NEW_ORDER, count)


def replace_orders(count: int) -> Records:
    """``count`` REPLACE_ORDER messages with the header filled and everything else 0."""
    return _messages(TemplateId.REPLACE_ORDER, count)


def cancel_orders(count: int) -> Records:
    """``count`` CANCEL_ORDER messages with the header filled; quantity 0 cancels all of it."""
    return _messages(TemplateId.CANCEL_ORDER, count)


def mass_cancels(count: int) -> Records:
    """``count`` MASS_CANCEL messages with the header filled; scope must be set."""
    return _messages(TemplateId.MASS_CANCEL, count)


def execution_reports(count: int) -> Records:
    """``count`` HANDLER_REPORT records of zeros, for a handler to fill and return.

    Fill order_sequence (the ``sequence`` of the order answered), session_index, cl_ord_id,
    exec_type, ord_status and what else the event has.
    """
    return np.zeros(count, HANDLER_REPORT)
