"""Compares what a strategy sent and received with what the gateway's journal holds, byte by byte.

The ledger of a replay is one side, the journal the other; neither is believed more than the other.
Everything is compared as arrays, so that a run of any length takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rdmaorder.flow.fates import FateTracker
from rdmaorder.flow.ledger import SessionLedger
from rdmaorder.messages import (
    MESSAGE_DTYPES,
    SLOT_BYTES,
    Reason,
    TemplateId,
    as_new_orders,
)

__all__ = ["JournalSession", "Verdict", "group_journal", "reconcile"]

Records = npt.NDArray[np.void]
Bytes = npt.NDArray[np.uint8]
Sequences = npt.NDArray[np.int64]

_COMMIT_BYTES = 8
_MESSAGE_BYTES = SLOT_BYTES - _COMMIT_BYTES
_HEADER_BYTES = 8
_SHOWN_MAX = 10

_SESSION_RECORD, _ORDER_RECORD, _REPORT_RECORD = 1, 2, 3
_REPORT_DTYPE = MESSAGE_DTYPES[TemplateId.EXECUTION_REPORT]


@dataclass(slots=True)
class JournalSession:
    """What the journal holds of one session, each in the order of the journal."""

    order_sequences: Sequences
    orders: Bytes  #: (n, 56): header and block
    report_sequences: Sequences
    reports: Bytes  #: (n, 56); execution reports only


@dataclass(slots=True)
class Verdict:
    """Counts over all sessions of the ledger, and what does not agree."""

    sent: int = 0
    journalled: int = 0  #: messages of this run in the journal
    orders_equal: int = 0  #: sent messages that the journal holds once with the same bytes
    received: int = 0
    reports_journalled: int = 0
    reports_equal: int = 0
    answered: int = 0  #: messages with exactly one answer
    earlier: int = 0  #: journalled messages of these sessions from before the run
    after_end: int = 0  #: reports on the session's own end, after its last poll
    other_sessions: int = 0  #: sessions of the journal that the ledger does not have
    difference_count: int = 0
    differences: list[str] = field(default_factory=list)  #: the first few, in words

    @property
    def agrees(self) -> bool:
        """Ledger and journal tell the same, and every message has exactly one answer."""
        return self.difference_count == 0

    def differ(self, count: int, text: str) -> None:
        """Notes ``count`` differences, told by ``text`` (if there are any)."""
        self.difference_count += count
        if count and len(self.differences) < _SHOWN_MAX:
            self.differences.append(text)

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": "PASS" if self.agrees else "FAIL",
            "messages": {
                "sent": self.sent,
                "journalled": self.journalled,
                "equal": self.orders_equal,
            },
            "reports": {
                "received": self.received,
                "journalled": self.reports_journalled,
                "equal": self.reports_equal,
            },
            "answered_once": self.answered,
            "earlier_messages": self.earlier,
            "reports_after_end": self.after_end,
            "other_sessions": self.other_sessions,
            "difference_count": self.difference_count,
            "differences": self.differences,
        }


def group_journal(batches: Iterable[Records]) -> dict[str, JournalSession]:
    """Sorts records (``rdmaorder.journal.RECORD``) by session name."""
    names: dict[int, str] = {}
    parts: dict[tuple[int, int], list[tuple[Sequences, Bytes]]] = {}
    for batch in batches:
        for record in batch[batch["kind"] == _SESSION_RECORD]:
            name = record["payload"].tobytes()[: int(record["payload_bytes"])]
            names[int(record["session_index"])] = name.decode(errors="backslashreplace")
        for kind in (_ORDER_RECORD, _REPORT_RECORD):
            chosen = batch[(batch["kind"] == kind) & (batch["payload_bytes"] == _MESSAGE_BYTES)]
            payloads = _bytes_of(np.ascontiguousarray(chosen["payload"]))[:, :_MESSAGE_BYTES]
            for index in np.unique(chosen["session_index"]).tolist():
                rows = chosen["session_index"] == index
                part = (chosen["sequence"][rows].astype(np.int64), payloads[rows])
                parts.setdefault((index, kind), []).append(part)
    return {name: _journal_session(parts, index) for index, name in names.items()}


def _bytes_of(records: npt.NDArray[Any]) -> Bytes:
    """The records as rows of bytes."""
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def _journal_session(
    parts: dict[tuple[int, int], list[tuple[Sequences, Bytes]]], index: int
) -> JournalSession:
    nothing = (np.zeros(0, np.int64), np.zeros((0, _MESSAGE_BYTES), np.uint8))

    def joined(kind: int) -> tuple[Sequences, Bytes]:
        found = [nothing, *parts.get((index, kind), [])]
        return np.concatenate([part[0] for part in found]), np.concatenate(
            [part[1] for part in found]
        )

    order_sequences, orders = joined(_ORDER_RECORD)
    report_sequences, reports = joined(_REPORT_RECORD)
    templates = reports[:, 2].astype(np.uint16) | (reports[:, 3].astype(np.uint16) << 8)
    execution = templates == TemplateId.EXECUTION_REPORT
    return JournalSession(order_sequences, orders, report_sequences[execution], reports[execution])


def _as_slots(rows: Bytes, dtype: np.dtype[np.void]) -> Records:
    """Header-and-block rows with the fields of ``dtype``; the commit words are zeros."""
    slots = np.zeros((len(rows), SLOT_BYTES), np.uint8)
    slots[:, :_MESSAGE_BYTES] = rows
    return slots.reshape(-1).view(dtype)


def _first_field(left: Bytes, right: Bytes, dtype: np.dtype[np.void], sides: str) -> str:
    """Which field two differing rows differ in first, with both values."""
    one, two = _as_slots(left[None], dtype)[0], _as_slots(right[None], dtype)[0]
    for name in dtype.names or ():
        if one[name].tobytes() != two[name].tobytes():
            return f"{name} is {one[name]} {sides.format(two[name])}"
    return "they differ"


def _message_dtype(row: Bytes) -> np.dtype[np.void]:
    template = int(row[2]) | int(row[3]) << 8
    known = template in set(map(int, TemplateId))
    return MESSAGE_DTYPES[TemplateId(template) if known else TemplateId.NEW_ORDER]


@dataclass(slots=True)
class _Match:
    """Rows of two sides paired by sequence."""

    left: npt.NDArray[np.intp]
    right: npt.NDArray[np.intp]
    left_only: Sequences
    right_only: Sequences
    repeated: Sequences  #: sequences that occur more than once on the right


def _match(left: Sequences, right: Sequences) -> _Match:
    """Pairs by sequence; of one that is repeated, the first occurrence."""
    left_once, left_rows = np.unique(left, return_index=True)
    right_once, right_rows, counts = np.unique(right, return_index=True, return_counts=True)
    both, in_left, in_right = np.intersect1d(left_once, right_once, return_indices=True)
    return _Match(
        left_rows[in_left],
        right_rows[in_right],
        np.setdiff1d(left_once, both),
        np.setdiff1d(right_once, both),
        right_once[counts > 1],
    )


def _some(sequences: Sequences) -> str:
    shown = ", ".join(map(str, sequences[:3].tolist()))
    return shown if len(sequences) <= 3 else f"{shown} and {len(sequences) - 3:,} more"


def _compare_orders(ledger: SessionLedger, journal: JournalSession, verdict: Verdict) -> None:
    in_run = journal.order_sequences >= ledger.first_sequence
    sequences, rows = journal.order_sequences[in_run], journal.orders[in_run]
    sent = _bytes_of(ledger.sent)[:, :_MESSAGE_BYTES]
    sent_sequences = np.arange(len(sent), dtype=np.int64) + ledger.first_sequence
    match = _match(sent_sequences, sequences)
    verdict.sent += len(sent)
    verdict.journalled += len(sequences)
    verdict.earlier += int(np.count_nonzero(~in_run))
    who = f"session {ledger.name}"
    verdict.differ(
        len(match.left_only), f"{who}: sent but not in the journal: order {_some(match.left_only)}"
    )
    verdict.differ(
        len(match.right_only), f"{who}: in the journal, never sent: order {_some(match.right_only)}"
    )
    verdict.differ(
        len(match.repeated), f"{who}: more than once in the journal: order {_some(match.repeated)}"
    )
    unequal = np.flatnonzero((sent[match.left] != rows[match.right]).any(axis=1))
    once = ~np.isin(sent_sequences[match.left], match.repeated)
    once[unequal] = False
    verdict.orders_equal += int(np.count_nonzero(once))
    for row in unequal[:_SHOWN_MAX].tolist():
        mine, theirs = sent[match.left[row]], rows[match.right[row]]
        what = _first_field(mine, theirs, _message_dtype(mine), "as sent, {} in the journal")
        verdict.differ(1, f"{who}, order {sent_sequences[match.left[row]]}: {what}")
    verdict.differ(max(0, len(unequal) - _SHOWN_MAX), f"{who}: further orders differ")


def _order_sequences(reports: Bytes, first_sequence: int) -> Sequences:
    """Full order sequences: those whose low 32 bits the reports carry, nearest to the run."""
    low = _as_slots(reports, _REPORT_DTYPE)["order_sequence_low"]
    delta = (low - np.uint32(first_sequence & 0xFFFFFFFF)).astype(np.int32)
    return np.asarray(delta.astype(np.int64) + first_sequence, np.int64)


def _compare_reports(ledger: SessionLedger, journal: JournalSession, verdict: Verdict) -> None:
    orders = _order_sequences(journal.reports, ledger.first_sequence)
    received = ledger.received
    in_run = (orders >= ledger.first_sequence) | np.isin(
        journal.report_sequences, received["sequence"].astype(np.int64)
    )
    # What the gateway does because the session ends comes after the strategy's last poll.
    last = int(received["sequence"].max()) if len(received) else 0
    reasons = _as_slots(journal.reports, _REPORT_DTYPE)["reason"]
    after_end = in_run & (journal.report_sequences > last) & (reasons == Reason.DISCONNECT)
    in_run &= ~after_end
    verdict.after_end += int(np.count_nonzero(after_end))
    sequences, rows, orders = (
        journal.report_sequences[in_run],
        journal.reports[in_run],
        orders[in_run],
    )
    match = _match(received["sequence"].astype(np.int64), sequences)
    verdict.received += len(received)
    verdict.reports_journalled += len(sequences)
    who = f"session {ledger.name}"
    verdict.differ(
        len(match.left_only),
        f"{who}: received but not in the journal: report {_some(match.left_only)}",
    )
    verdict.differ(
        len(match.right_only),
        f"{who}: in the journal, not received: report {_some(match.right_only)}",
    )
    verdict.differ(
        len(match.repeated), f"{who}: more than once in the journal: report {_some(match.repeated)}"
    )
    # The block is compared byte by byte; the rest of a received record is its two sequences.
    got = _bytes_of(received)[:, _HEADER_BYTES:_MESSAGE_BYTES][match.left]
    kept = rows[match.right][:, _HEADER_BYTES:]
    wrong_order = received["order_sequence"].astype(np.int64)[match.left] != orders[match.right]
    unequal = np.flatnonzero((got != kept).any(axis=1) | wrong_order)
    verdict.reports_equal += len(match.left) - len(unequal)
    for row in unequal[:_SHOWN_MAX].tolist():
        header = rows[match.right[row]][:_HEADER_BYTES]
        mine, theirs = np.concatenate([header, got[row]]), rows[match.right[row]]
        what = (
            "order_sequence is not the one in the journal"
            if (mine == theirs).all()
            else _first_field(mine, theirs, _REPORT_DTYPE, "as received, {} in the journal")
        )
        verdict.differ(1, f"{who}, report {sequences[match.right[row]]}: {what}")
    verdict.differ(max(0, len(unequal) - _SHOWN_MAX), f"{who}: further reports differ")


def _check_answers(ledger: SessionLedger, verdict: Verdict) -> None:
    tracker = FateTracker(as_new_orders(ledger.sent)["cl_ord_id"], ledger.first_sequence)
    tracker.add(ledger.received)
    unanswered = len(ledger.sent) - tracker.answered_count
    who = f"session {ledger.name}"
    verdict.answered += tracker.answered_count - tracker.duplicated_count
    verdict.differ(unanswered, f"{who}: {unanswered:,} messages have no answer")
    verdict.differ(
        tracker.duplicated_count, f"{who}: {tracker.duplicated_count:,} reports came twice"
    )
    verdict.differ(
        tracker.mismatched_count,
        f"{who}: {tracker.mismatched_count:,} answers carry another message's ClOrdID",
    )


def reconcile(ledgers: list[SessionLedger], journal: dict[str, JournalSession]) -> Verdict:
    """The verdict on all sessions of the ledger. Other sessions of the journal are counted only."""
    verdict = Verdict(other_sessions=len(journal.keys() - {ledger.name for ledger in ledgers}))
    for ledger in ledgers:
        found = journal.get(ledger.name)
        if found is None:
            if len(ledger.sent):
                verdict.sent += len(ledger.sent)
                verdict.differ(len(ledger.sent), f"session {ledger.name} is not in the journal")
            continue
        _compare_orders(ledger, found, verdict)
        _compare_reports(ledger, found, verdict)
        _check_answers(ledger, verdict)
    return verdict
