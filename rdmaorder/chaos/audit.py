"""Ledger against journal against the reports seen: what of each order is a fact, and what is wrong.

Nothing of the library's own bookkeeping is asked: the ledger was written before each send, the
journal holds what the gateway took and what the venue answered, the report log what arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rdmaorder.chaos.ledger import MESSAGE_BYTES, EntryState, open_logs
from rdmaorder.chaos.strategy import SESSION_NAME
from rdmaorder.errors import JournalError
from rdmaorder.journal import Journal, RecordKind
from rdmaorder.messages import (
    FLAG_POSS_RESEND,
    NEW_ORDER,
    REPORT_RECORD,
    ExecType,
    Reason,
    Records,
)

__all__ = ["KINDS", "Verdict", "audit"]

KINDS: Final = ("lost", "duplicated", "reordered", "corrupted", "unknown")
_SHOWN: Final = 5


@dataclass
class Verdict:
    """Counts of violations by kind, the first of each in words, and the fates of all orders."""

    orders: int = 0
    violations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    details: list[str] = field(default_factory=list)
    fates: dict[str, int] = field(default_factory=dict)
    journalled: int = 0
    reports: int = 0

    @property
    def clean(self) -> bool:
        return not any(self.violations.values())

    def damage(self, what: str) -> None:
        """The journal cannot be read, or not to its end."""
        self.violations["corrupted"] += 1
        self.details.append(f"corrupted: journal: {what}")

    def blame(self, kind: str, what: str, which: npt.NDArray[Any]) -> None:
        """``which``: numbers (orders or reports) that ``what`` is true of."""
        if not len(which):
            return
        self.violations[kind] += len(which)
        shown = ", ".join(map(str, which[:_SHOWN].tolist())) + (", …" * (len(which) > _SHOWN))
        self.details.append(f"{kind}: {what}: {shown}")


@dataclass(frozen=True)
class _Journalled:
    """Orders and reports of the session, as the journal has them."""

    payloads: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int64]
    reports: Records
    report_payloads: npt.NDArray[np.uint8]


def audit(folder: Path, unjournalled: Sequence[tuple[int, int]] = ()) -> Verdict:
    """The files of a run that has ended.

    ``unjournalled``: report sequences (from, to) of times in which the journal could not write.
    """
    ledger, reports, _ = open_logs(folder)
    entries, seen = ledger.written, reports.written
    verdict = Verdict(orders=len(entries), reports=len(seen))
    kept = _read(folder / "journal", verdict)
    verdict.journalled = len(kept.ids)
    exempt = _in_ranges(seen["sequence"].astype(np.int64), unjournalled)
    _check_orders(entries, kept, verdict)
    _check_reports(seen, kept, exempt, verdict)
    _check_fates(entries, seen, kept, exempt, verdict)
    return verdict


def _read(directory: Path, verdict: Verdict) -> _Journalled:
    none = np.zeros((0, MESSAGE_BYTES), np.uint8)
    nothing = _Journalled(none, np.zeros(0, np.int64), np.zeros(0, REPORT_RECORD), none[:, 8:])
    try:
        journal = Journal(directory)
    except JournalError as error:
        verdict.damage(str(error))
        return nothing
    if not journal.result.clean:
        verdict.damage(journal.result.damage)
    if SESSION_NAME not in journal.sessions.values():
        return nothing
    orders = journal.select(SESSION_NAME, RecordKind.ORDER)
    payloads = _bytes(orders["payload"])[:, :MESSAGE_BYTES]
    ids = np.ascontiguousarray(payloads[:, 8:16]).view("<i8").reshape(-1)
    reports = journal.reports(SESSION_NAME)
    return _Journalled(payloads, ids, reports, _bytes(reports)[:, 8:MESSAGE_BYTES])


def _bytes(records: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    packed = np.ascontiguousarray(records)
    return packed.view(np.uint8).reshape(len(packed), packed.dtype.itemsize)


def _in_ranges(
    sequences: npt.NDArray[np.int64], ranges: Sequence[tuple[int, int]]
) -> npt.NDArray[np.bool_]:
    inside = np.zeros(len(sequences), bool)
    for first, last in ranges:
        inside |= (sequences >= first) & (sequences <= last)
    return inside


def _check_orders(entries: Records, kept: _Journalled, verdict: Verdict) -> None:
    """What the journal has was in the ledger, the same, once, in the same order."""
    known = (kept.ids >= 1) & (kept.ids <= len(entries))
    verdict.blame("corrupted", "journalled and in no ledger, ClOrdID", kept.ids[~known])
    ids = kept.ids[known]
    sent = _bytes(entries["message"])[ids - 1]
    unequal = (sent != kept.payloads[known]).any(axis=1)
    verdict.blame("corrupted", "journalled otherwise than sent, order", ids[unequal])
    values, counts = np.unique(ids, return_counts=True)
    verdict.blame("duplicated", "applied more than once, order", values[counts > 1])
    backwards = np.flatnonzero(np.diff(ids) < 0) + 1
    verdict.blame("reordered", "applied after a later one, order", ids[backwards])


def _check_reports(
    seen: Records, kept: _Journalled, exempt: npt.NDArray[np.bool_], verdict: Verdict
) -> None:
    """Every journalled report was seen, once, in order and unchanged; one answer to a request."""
    sequences = seen["sequence"].astype(np.int64)
    step = np.diff(sequences)
    verdict.blame("duplicated", "delivered again, report", sequences[1:][step == 0])
    verdict.blame("reordered", "delivered after a later one, report", sequences[1:][step < 0])
    journalled = kept.reports["sequence"].astype(np.int64)
    missing = ~np.isin(journalled, sequences)
    verdict.blame("lost", "journalled and never seen, report", journalled[missing])
    at = np.searchsorted(journalled, sequences)
    at[at == len(journalled)] = 0
    found = journalled[at] == sequences if len(journalled) else np.zeros(len(seen), bool)
    strange = ~found & ~exempt
    verdict.blame("corrupted", "seen and not in the journal, report", sequences[strange])
    mine = _without_resend(_bytes(seen)[:, 8:MESSAGE_BYTES][found])
    theirs = _without_resend(kept.report_payloads[at[found]])
    unequal = (mine != theirs).any(axis=1)
    verdict.blame("corrupted", "seen otherwise than journalled, report", sequences[found][unequal])
    once = kept.reports[kept.reports["exec_type"] != ExecType.TRADE]
    keys = once["order_sequence"].astype(np.int64) * 256 + once["exec_type"]
    values, counts = np.unique(keys, return_counts=True)
    verdict.blame("duplicated", "answered twice, order sequence", values[counts > 1] >> 8)


def _without_resend(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    blocks = blocks.copy()
    blocks[:, -1] &= 0xFF ^ FLAG_POSS_RESEND  # the flags are a block's last byte
    return blocks


def _check_fates(
    entries: Records,
    seen: Records,
    kept: _Journalled,
    exempt: npt.NDArray[np.bool_],
    verdict: Verdict,
) -> None:
    """Each order has one fate, and the strategy knows it."""
    count = len(entries)
    number = np.arange(1, count + 1)

    def marked(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        flags = np.zeros(count + 1, bool)
        flags[ids[(ids >= 1) & (ids <= count)].astype(np.int64)] = True
        return flags[1:]

    journalled = marked(kept.ids)
    answered = marked(seen["cl_ord_id"])
    without_journal = (seen["reason"] == Reason.JOURNAL_UNAVAILABLE) | exempt
    answered_apart = marked(seen["cl_ord_id"][without_journal])
    refused = entries["state"] == EntryState.REFUSED
    not_applied = entries["state"] == EntryState.NOT_APPLIED
    told_no = refused | not_applied
    verdict.blame(
        "unknown", "applied although the strategy was told it was not", number[told_no & journalled]
    )
    verdict.blame(
        "lost", "answered and not in the journal", number[answered & ~journalled & ~answered_apart]
    )
    verdict.blame("lost", "no fate", number[~journalled & ~told_no & ~answered])
    verdict.blame("unknown", "journalled, and no report told so", number[journalled & ~answered])
    verdict.fates = {
        "answered": int(np.count_nonzero(journalled & answered)),
        "refused while the journal could not write": int(
            np.count_nonzero(answered & ~journalled & answered_apart)
        ),
        "not applied": int(np.count_nonzero(not_applied & ~journalled)),
        "refused at the sender": int(np.count_nonzero(refused & ~journalled)),
    }


#: where a ClOrdID stands in every order message
assert NEW_ORDER.fields is not None
assert NEW_ORDER.fields["cl_ord_id"][1] == 8
