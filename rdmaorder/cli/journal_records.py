"""Journal records as named values, for ``rdmaorder journal cat``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rdmaorder.journal import RecordKind, SessionNames, widen_sequences
from rdmaorder.messages import (
    FLAG_POSS_RESEND,
    MESSAGE_DTYPES,
    NO_PRICE,
    SCHEMA_ID,
    SLOT_BYTES,
    ExecType,
    MassCancelScope,
    OrdStatus,
    OrdType,
    Reason,
    SessionEventKind,
    Side,
    TemplateId,
    TimeInForce,
    format_price,
)

Records = npt.NDArray[np.void]
Fields = dict[str, Any]

#: columns of the CSV form: every name a record can have, in the order they are printed
COLUMNS: Final = (
    *("position", "time", "session", "kind", "sequence", "refused", "detail", "template"),
    *("order_sequence", "exec_type", "ord_status", "reason", "event", "cl_ord_id"),
    *("orig_cl_ord_id", "order_id", "instrument", "account", "side", "ord_type", "time_in_force"),
    *("price", "quantity", "leaves_quantity", "stale_after", "smp_id", "scope", "flags"),
    *("name", "epoch", "first_order_sequence", "first_report_sequence", "from_sequence", "count"),
    *("event_time", "killed", "payload"),
)

_MESSAGE_BYTES: Final = SLOT_BYTES - 8
_HEADER: Final = np.dtype("<u2,<u2,<u2,<u2")


@lru_cache(maxsize=256)
def _second(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def iso_time(time_ns: int) -> str:
    """UTC with nanoseconds, ``2026-01-02T03:04:05.000000006Z``; beyond year 9999 ``time_ns``."""
    epoch_s, fraction_ns = divmod(time_ns, 1_000_000_000)
    try:
        return f"{_second(epoch_s)}.{fraction_ns:09d}Z"
    except (OverflowError, ValueError, OSError):
        return str(time_ns)


def _enum(members: type[IntEnum]) -> Callable[[int], Any]:
    names = {int(member): member.name.lower() for member in members}
    return lambda value: names.get(value, value)


def _price(mantissa: int) -> str | None:
    return None if mantissa == NO_PRICE else format_price(mantissa)


def _flags(flags: int) -> str | None:
    names = ["poss_resend"] if flags & FLAG_POSS_RESEND else []
    if unknown := flags & ~FLAG_POSS_RESEND:
        names.append(hex(unknown))
    return "|".join(names) or None


_reason = _enum(Reason)
_template = _enum(TemplateId)

#: how a field of a message block is shown: its printed name and the function that makes it
_SHOWN: Final[dict[str, tuple[str, Callable[[int], Any]]]] = {
    "price": ("price", _price),
    "side": ("side", _enum(Side)),
    "ord_type": ("ord_type", _enum(OrdType)),
    "time_in_force": ("time_in_force", _enum(TimeInForce)),
    "exec_type": ("exec_type", _enum(ExecType)),
    "ord_status": ("ord_status", _enum(OrdStatus)),
    "reason": ("reason", _reason),
    "scope": ("scope", _enum(MassCancelScope)),
    "kind": ("event", _enum(SessionEventKind)),
    "stale_after_ns": ("stale_after", lambda ns: iso_time(ns) if ns else None),
    "time_ns": ("event_time", iso_time),
    "flags": ("flags", _flags),
}
_NOT_SHOWN: Final = {
    "block_length",
    "template_id",
    "schema_id",
    "version",
    "crc32c",
    "sequence_low",
}


def _same(value: int) -> int:
    return value


def _plan(template: TemplateId) -> list[tuple[str, str, Callable[[int], Any]]]:
    """(field, printed name, how to show it) for each field that is shown."""
    plan = []
    for name in MESSAGE_DTYPES[template].names or ():
        if name not in _NOT_SHOWN and not name.startswith("reserved"):
            plan.append((name, *_SHOWN.get(name, (name, _same))))
    return plan


_PLANS: Final = {template: _plan(template) for template in TemplateId}


class Decoder:
    """Turns batches of ``rdmaorder.journal.read`` into dictionaries. Keeps what earlier records
    told: session names, and the last order sequence, which widens the one in a report."""

    def __init__(self) -> None:
        self._names = SessionNames()
        self._last_order: dict[int, int] = {}

    @property
    def sessions(self) -> list[str]:
        """Names introduced so far, sorted."""
        return sorted(set(self._names.by_index.values()))

    def records(self, batch: Records, wanted: Callable[[str, int], bool]) -> Iterator[Fields]:
        """Fields of each record for which ``wanted(session name, kind)``, in ``COLUMNS`` order."""
        for piece in self._names.split(batch):
            messages = self._messages(piece)
            columns = [
                piece[name].tolist()
                for name in (
                    *("position", "time_ns", "sequence", "session_index"),
                    *("kind", "detail", "payload_bytes", "payload"),
                )
            ]
            for row, (position, time_ns, sequence, index, kind, detail, size, raw) in enumerate(
                zip(*columns, strict=True)
            ):
                if kind == RecordKind.ORDER:
                    self._last_order[index] = max(sequence, self._last_order.get(index, 0))
                session = self._names.name(index)
                if not wanted(session, kind):
                    continue
                fields = {
                    "position": position,
                    "time": iso_time(time_ns),
                    "session": session,
                    "kind": _kind(kind),
                    "sequence": sequence,
                }
                if detail:
                    is_order = kind == RecordKind.ORDER
                    fields["refused" if is_order else "detail"] = (
                        _reason(detail) if is_order else detail
                    )
                if row in messages:
                    fields.update(messages[row])
                    self._widen(fields, index)
                else:
                    fields.update(_control(kind, bytes(raw)[:size]))
                yield fields

    def _widen(self, fields: Fields, index: int) -> None:
        if "order_sequence_low" not in fields:
            return
        low = np.array([fields.pop("order_sequence_low")], np.uint32)
        near = np.array([self._last_order.get(index, 0)], np.uint64)
        fields["order_sequence"] = int(widen_sequences(low, near)[0])

    def _messages(self, piece: Records) -> dict[int, Fields]:
        """Decoded messages of this schema, by row."""
        is_message = np.isin(piece["kind"], (RecordKind.ORDER, RecordKind.REPORT))
        is_message &= piece["payload_bytes"] == _MESSAGE_BYTES
        rows = np.flatnonzero(is_message)
        slots = np.zeros((len(rows), SLOT_BYTES), np.uint8)
        width = piece.dtype["payload"].itemsize
        raw = np.ascontiguousarray(piece["payload"][rows]).view(np.uint8).reshape(-1, width)
        slots[:, :_MESSAGE_BYTES] = raw[:, :_MESSAGE_BYTES]
        heads = slots.view("<u2")
        out: dict[int, Fields] = {}
        for template, plan in _PLANS.items():
            dtype = MESSAGE_DTYPES[template]
            mine = (heads[:, 1] == template) & (heads[:, 2] == SCHEMA_ID)
            values = slots[mine].view(dtype).reshape(-1)
            columns = [values[name].tolist() for name, _, _ in plan]
            for row, items in zip(rows[mine].tolist(), zip(*columns, strict=True), strict=True):
                fields: Fields = {"template": _template(int(template))}
                for (_, shown_name, show), item in zip(plan, items, strict=True):
                    fields[shown_name] = show(item)
                out[row] = fields
        return out


_kind = _enum(RecordKind)


def _control(kind: int, payload: bytes) -> Fields:
    """Fields of a record that is no message of this schema."""

    def word(i: int) -> int:
        return int.from_bytes(payload[8 * i : 8 * i + 8], "little")

    if kind == RecordKind.SESSION:
        return {"name": payload.decode("utf-8", errors="backslashreplace")}
    if kind == RecordKind.LINK and len(payload) == 24:
        return {
            "epoch": word(0),
            "first_order_sequence": word(1),
            "first_report_sequence": word(2),
        }
    if kind == RecordKind.NOT_APPLIED and len(payload) == 8:
        return {"count": word(0)}
    if kind == RecordKind.KILL and len(payload) == 8:
        return {"killed": word(0)}
    return {"payload": payload.hex()}
