"""Which message was answered how: one ``FateTracker`` per session, fed with what poll returned."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from rdmaorder.messages import ExecType, Reason

__all__ = ["FateTracker", "fate_name"]

Records = npt.NDArray[np.void]

#: events that a request has at most once; fills may be many
_ONCE = np.zeros(256, np.uint8)
for _bit, _exec_type in enumerate(kind for kind in ExecType if kind != ExecType.TRADE):
    _ONCE[_exec_type] = 1 << _bit

_NAMES = {
    ExecType.NEW: "accepted",
    ExecType.CANCELED: "canceled",
    ExecType.REPLACED: "replaced",
    ExecType.REJECTED: "rejected",
    ExecType.EXPIRED: "expired",
    ExecType.TRADE: "filled",
}
_UNANSWERED = 0


def fate_name(exec_type: int, reason: int) -> str:
    """For example ``accepted`` or ``rejected:unknown_order``; numbers for values not known."""
    kinds, reasons = set(map(int, ExecType)), set(map(int, Reason))
    name = _NAMES[ExecType(exec_type)] if exec_type in kinds else f"exec_type_{exec_type}"
    if reason == Reason.NONE:
        return name
    why = Reason(reason).name.lower() if reason in reasons else f"reason_{reason}"
    return f"{name}:{why}"


class FateTracker:
    """Takes the reports of one session in the order in which they came.

    The first report that carries a message's sequence is its answer; later ones with it are events
    of the order it opened. Twice the same kind of event (fills aside), or a report sequence that
    does not grow, is a duplicate. Each answer must carry the ClOrdID of its message.
    """

    def __init__(self, cl_ord_ids: npt.NDArray[np.uint64], first_sequence: int) -> None:
        """``cl_ord_ids``: of the messages with ``first_sequence`` and the sequences after it."""
        self._cl_ord_ids = cl_ord_ids
        self._first_sequence = first_sequence
        count = len(cl_ord_ids)
        # exec_type in the high byte, so that no answer is 0
        self._answers = np.full(count, _UNANSWERED, np.uint16)
        self._seen = np.zeros(count, np.uint8)
        self._last_report_sequence = 0
        self.answered_count = 0
        self.duplicated_count = 0
        #: reports for messages that this run did not send
        self.foreign_count = 0
        #: answers with the ClOrdID of another message
        self.mismatched_count = 0
        self.events: Counter[str] = Counter()

    def add(self, reports: Records) -> None:
        """Takes in one batch. No Python work per report unless something is out of the ordinary."""
        reports = self._without_repeats(reports)
        index = reports["order_sequence"].astype(np.int64) - self._first_sequence
        mine = (index >= 0) & (index < len(self._answers))
        if not mine.all():
            self.foreign_count += int(np.count_nonzero(~mine))
            reports, index = reports[mine], index[mine]
        if not len(index):
            return
        self._count_duplicates(index, _ONCE[reports["exec_type"]])
        rows, first = np.unique(index, return_index=True)
        is_answer = self._answers[rows] == _UNANSWERED
        self._count_events(reports, first[is_answer])
        rows, answers = rows[is_answer], reports[first[is_answer]]
        self._answers[rows] = (answers["exec_type"].astype(np.uint16) << 8) | answers["reason"]
        self.answered_count += len(rows)
        self.mismatched_count += int(
            np.count_nonzero(answers["cl_ord_id"] != self._cl_ord_ids[rows])
        )

    def _without_repeats(self, reports: Records) -> Records:
        sequences = reports["sequence"].astype(np.int64)
        if not len(sequences):
            return reports
        highest = np.maximum.accumulate(np.concatenate(([self._last_report_sequence], sequences)))
        fresh = sequences > highest[:-1]
        self._last_report_sequence = int(highest[-1])
        if fresh.all():
            return reports
        self.duplicated_count += int(np.count_nonzero(~fresh))
        return reports[fresh]

    def _count_duplicates(self, index: npt.NDArray[np.int64], bits: npt.NDArray[np.uint8]) -> None:
        once = bits != 0
        index, bits = index[once], bits[once]
        events, counts = np.unique(index * 256 + bits, return_counts=True)
        rows, kinds = events // 256, (events % 256).astype(np.uint8)
        repeats = int(counts.sum()) - len(events)
        self.duplicated_count += repeats + int(np.count_nonzero(self._seen[rows] & kinds))
        np.bitwise_or.at(self._seen, rows, kinds)

    def _count_events(self, reports: Records, answers: npt.NDArray[np.intp]) -> None:
        if len(answers) == len(reports):
            return
        is_event = np.ones(len(reports), np.bool_)
        is_event[answers] = False
        later = reports[is_event]
        for exec_type, reason in zip(
            later["exec_type"].tolist(), later["reason"].tolist(), strict=True
        ):
            self.events[fate_name(exec_type, reason)] += 1

    def fates(self, sent_count: int) -> Counter[str]:
        """Answers among the first ``sent_count`` messages, by name."""
        found, counts = np.unique(self._answers[:sent_count], return_counts=True)
        return Counter(
            {
                fate_name(code >> 8, code & 0xFF): count
                for code, count in zip(found.tolist(), counts.tolist(), strict=True)
                if code != _UNANSWERED
            }
        )

    def unanswered(self, sent_count: int, applied_sequence: int | None) -> tuple[int, int]:
        """Messages without an answer: (taken by the gateway, not known to be taken).

        ``applied_sequence``: up to which the gateway says it took messages; None: not known.
        """
        open_rows = np.flatnonzero(self._answers[:sent_count] == _UNANSWERED)
        if applied_sequence is None:
            return 0, len(open_rows)
        taken = int(np.count_nonzero(open_rows + self._first_sequence <= applied_sequence))
        return taken, len(open_rows) - taken
