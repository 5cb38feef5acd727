"""Reading the gateway's journal: what each session sent and what it was answered, in one order.

``read`` streams the records as numpy arrays, ``Journal`` holds a whole journal and picks out the
orders and reports of a session, ``verify`` checks a journal without holding it. All three are safe
beside a gateway that is writing: they see a prefix. ``Writer`` appends; a gateway has its own.

docs/journal.md has the file format and what an operator does with a damaged journal.
"""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rdmaorder import _core
from rdmaorder._journal_records import (
    BATCH_RECORDS,
    PAYLOAD_WIDTH,
    RECORD,
    Directory,
    RecordKind,
    Records,
    ScanResult,
    SessionNames,
    batches,
    payload_bytes,
    read,
    record_dtype,
    require_segments,
    widen_sequences,
)
from rdmaorder._journal_verify import Sequences, SessionCheck, VerifyResult, verify
from rdmaorder.errors import JournalError
from rdmaorder.messages import ORDER_RECORD, REPORT_RECORD, SESSION_EVENT, SLOT_BYTES, TemplateId

__all__ = [
    "RECORD",
    "Journal",
    "RecordKind",
    "ScanResult",
    "Sequences",
    "SessionCheck",
    "SessionNames",
    "VerifyResult",
    "Writer",
    "read",
    "record_dtype",
    "verify",
    "widen_sequences",
]

#: The gateway's own writer: ``Writer(directory, segment_bytes=..., sync="interval", ...)``.
Writer = _core.JournalWriter

#: header and block of a message in the default slot: the slot without its commit word
_MESSAGE_BYTES: Final = SLOT_BYTES - 8


class Journal:
    """A whole journal in memory (about 104 bytes a record).

    ``records``: everything, as ``RECORD``. ``sessions``: session index to name, as last introduced.
    ``result``: how reading ended; a damaged journal is loaded up to the damage.
    """

    def __init__(self, directory: Directory) -> None:
        reader = _core.JournalReader(os.fspath(directory))
        loaded = list(batches(reader, BATCH_RECORDS))
        self.result: Final = ScanResult(**reader.result)
        require_segments(directory, self.result)
        width = max((b.dtype["payload"].itemsize for b in loaded), default=PAYLOAD_WIDTH)
        self.records: Final[Records] = np.zeros(sum(map(len, loaded)), record_dtype(width))
        row = 0
        for batch in loaded:
            into = self.records[row : row + len(batch)]
            if batch.dtype == into.dtype:
                into[:] = batch
            else:
                for name in RECORD.names or ():
                    into[name] = batch[name]
            row += len(batch)

        names = SessionNames()
        self._names: list[str] = []  # by owner number
        self._owner: npt.NDArray[np.int32] = self._find_owners(names)
        self.sessions: Final[dict[int, str]] = dict(names.by_index)

    def _find_owners(self, names: SessionNames) -> npt.NDArray[np.int32]:
        """Number of the session name each record belongs to."""
        numbers: dict[str, int] = {}
        indices = self.records["session_index"]
        owner = np.empty(len(self.records), np.int32)
        row = 0
        for piece in names.split(self.records):
            present, inverse = np.unique(indices[row : row + len(piece)], return_inverse=True)
            table = [numbers.setdefault(names.name(int(i)), len(numbers)) for i in present]
            owner[row : row + len(piece)] = np.array(table, np.int32)[inverse]
            row += len(piece)
        self._names = list(numbers)
        return owner

    def select(self, session: str | None = None, kind: RecordKind | None = None) -> Records:
        """Records of one session (by name), of one kind, or both, in journal order."""
        return self.records[self._rows(session, kind)]

    def _rows(self, session: str | None, kind: RecordKind | None) -> npt.NDArray[np.intp]:
        wanted = np.ones(len(self.records), bool)
        if session is not None:
            if session not in self._names:
                known = ", ".join(sorted(self._names)) or "none"
                raise JournalError(f"no session {session!r} in this journal; it has: {known}")
            wanted &= self._owner == self._names.index(session)
        if kind is not None:
            wanted &= self.records["kind"] == kind
        return np.flatnonzero(wanted)

    def _messages(self, session: str | None, kind: RecordKind) -> tuple[Records, Any, Any]:
        """Records that hold a message, their payload bytes, and their rows."""
        rows = self._rows(session, kind)
        records = self.records[rows]
        odd = records["payload_bytes"] != _MESSAGE_BYTES
        if odd.any():
            size = int(records["payload_bytes"][odd][0]) + 8
            owner = self._names[int(self._owner[rows[odd]][0])]
            raise JournalError(
                f"session {owner!r} has {kind.name.lower()}s in slots of {size} bytes, which are "
                f"not told apart here; name another session, or use select({owner!r}) and decode "
                "the payload"
            )
        return records, payload_bytes(records)[:, :_MESSAGE_BYTES], rows

    def orders(self, session: str | None = None) -> Records:
        """Orders taken from the ring, as ``messages.ORDER_RECORD``, in journal order.

        Those the gateway refused are among them; row for row, ``select(session,
        RecordKind.ORDER)["detail"]`` is the Reason, 0 for an order that went to the handler.
        """
        records, payloads, _ = self._messages(session, RecordKind.ORDER)
        out = np.zeros(len(records), ORDER_RECORD)
        out.view(np.uint8).reshape(len(out), SLOT_BYTES)[:, :_MESSAGE_BYTES] = payloads
        out["session_index"] = records["session_index"]
        out["sequence"] = records["sequence"]
        return out

    def reports(self, session: str | None = None) -> Records:
        """Execution reports, as ``messages.REPORT_RECORD``, in journal order."""
        records, payloads, rows = self._messages(session, RecordKind.REPORT)
        wanted = self._template(payloads) == TemplateId.EXECUTION_REPORT
        records, payloads, rows = records[wanted], payloads[wanted], rows[wanted]
        out = np.zeros(len(records), REPORT_RECORD)
        out.view(np.uint8).reshape(len(out), SLOT_BYTES)[:, 8:_MESSAGE_BYTES] = payloads[:, 8:]
        out["sequence"] = records["sequence"]
        owners = self._owner[rows]
        for owner in np.unique(owners):
            mine = owners == owner
            is_order = (self._owner == owner) & (self.records["kind"] == RecordKind.ORDER)
            order_rows = np.flatnonzero(is_order)
            seen = np.concatenate(([np.uint64(0)], self.records["sequence"][order_rows]))
            reference = np.maximum.accumulate(seen)[np.searchsorted(order_rows, rows[mine])]
            low = out["order_sequence_low"][mine]
            out["order_sequence"][mine] = widen_sequences(low, reference)
        return out

    def session_events(self, session: str | None = None) -> Records:
        """Session events sent to strategies, as ``messages.SESSION_EVENT`` (commit word zero)."""
        _, payloads, _ = self._messages(session, RecordKind.REPORT)
        payloads = payloads[self._template(payloads) == TemplateId.SESSION_EVENT]
        out = np.zeros(len(payloads), SESSION_EVENT)
        out.view(np.uint8).reshape(len(out), SLOT_BYTES)[:, :_MESSAGE_BYTES] = payloads
        return out

    @staticmethod
    def _template(payloads: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        column = np.ascontiguousarray(payloads[:, 2:4])
        return column.view("<u2").reshape(len(payloads))
