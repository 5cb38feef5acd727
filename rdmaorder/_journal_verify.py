"""Checking a journal, bytes and sequences; import from ``rdmaorder.journal``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from rdmaorder._journal_records import (
    EVERY_SESSION,
    Directory,
    Reading,
    RecordKind,
    Records,
    ScanResult,
    SessionNames,
    payload_bytes,
    require_segments,
    u64_at,
)

#: ranges listed per session and direction; beyond that they are only counted
_LISTED_RANGES: Final = 1000


@dataclass
class Sequences:
    """Follows one numbering and notes what is missing or came twice."""

    next: int = 0  # 0: not known yet
    first: int = 0
    last: int = 0
    count: int = 0
    repeat_count: int = 0
    missing_count: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)  # (from, count)

    def begin(self, sequence: int) -> None:
        """A link starts here; only the first one sets where the numbering starts."""
        if self.next == 0:
            self.next = sequence

    def _gap(self, start: int, count: int) -> None:
        self.missing_count += count
        if len(self.gaps) < _LISTED_RANGES:
            self.gaps.append((start, count))

    def take(self, sequences: npt.NDArray[np.uint64]) -> None:
        """Sequences in the order they were journaled."""
        values = sequences.astype(np.int64)
        if len(values) == 0:
            return
        self.begin(1)
        highest = np.maximum.accumulate(np.concatenate(([self.next - 1], values)))
        step = values - highest[:-1]
        for i in np.flatnonzero(step > 1).tolist():
            self._gap(int(highest[i]) + 1, int(step[i]) - 1)
        self.repeat_count += int(np.count_nonzero(step <= 0))
        self.first = self.first or int(values[0])
        self.last = int(highest[-1])
        self.next = self.last + 1
        self.count += len(values)

    def skip(self, start: int, count: int) -> None:
        """Sequences the gateway declared not applied."""
        self.begin(start)
        if start > self.next:
            self._gap(self.next, start - self.next)
        else:  # the gateway declared a gap that was seen before it
            self.explain(start, count)
        self.next = max(self.next, start + count)

    def explain(self, start: int, count: int) -> None:
        """Takes a declared range out of the gaps."""
        left: list[tuple[int, int]] = []
        for gap_start, gap_count in self.gaps:
            low, high = max(gap_start, start), min(gap_start + gap_count, start + count)
            if low >= high:
                left.append((gap_start, gap_count))
                continue
            self.missing_count -= high - low
            if gap_start < low:
                left.append((gap_start, low - gap_start))
            if high < gap_start + gap_count:
                left.append((high, gap_start + gap_count - high))
        self.gaps = left


@dataclass
class SessionCheck:
    """What ``verify`` found about one session. Gaps exclude what was declared not applied."""

    name: str
    orders: Sequences = field(default_factory=Sequences)
    reports: Sequences = field(default_factory=Sequences)
    refused_count: int = 0
    not_applied_count: int = 0
    link_count: int = 0

    @property
    def consistent(self) -> bool:
        """No sequence missing without being declared, none journaled twice."""
        numberings = (self.orders, self.reports)
        return not any(n.missing_count or n.repeat_count for n in numberings)

    def take(self, records: Records) -> None:
        """Records of this session, in order."""
        kind = records["kind"]
        # Links and NotApplied are rare and change what is expected next, so they cut the rest.
        cuts = np.flatnonzero((kind == RecordKind.LINK) | (kind == RecordKind.NOT_APPLIED)).tolist()
        for start, stop in zip([0, *cuts], [*cuts, len(records)], strict=True):
            piece = records[start:stop]
            if len(piece) == 0:
                continue
            self._take_control(piece[:1])
            orders = piece[piece["kind"] == RecordKind.ORDER]
            self.orders.take(orders["sequence"])
            self.refused_count += int(np.count_nonzero(orders["detail"]))
            self.reports.take(piece[piece["kind"] == RecordKind.REPORT]["sequence"])

    def _take_control(self, record: Records) -> None:
        payload = payload_bytes(record)
        if record["kind"][0] == RecordKind.LINK:
            self.link_count += 1
            self.orders.begin(int(u64_at(payload, 8)[0]))
            self.reports.begin(int(u64_at(payload, 16)[0]))
        elif record["kind"][0] == RecordKind.NOT_APPLIED:
            count = int(u64_at(payload, 0)[0])
            self.not_applied_count += count
            self.orders.skip(int(record["sequence"][0]), count)


@dataclass(frozen=True)
class VerifyResult:
    """A journal read to its end: the files, and what they say about each session."""

    scan: ScanResult
    sessions: tuple[SessionCheck, ...]

    @property
    def ok(self) -> bool:
        """Undamaged, and no session with a sequence missing or repeated."""
        return self.scan.clean and all(session.consistent for session in self.sessions)


def verify(directory: Directory) -> VerifyResult:
    """Checks every record and every session's sequences; memory is bounded by one batch.

    Raises JournalError when the directory cannot be read or holds no journal; a segment header
    that cannot be read is damage, and what lies before it is still counted.
    """
    reading = Reading(directory)
    names = SessionNames()
    checks: dict[str, SessionCheck] = {}
    for batch in reading:
        for piece in names.split(batch):
            for index in np.unique(piece["session_index"]).tolist():
                if index == EVERY_SESSION:
                    continue
                name = names.name(index)
                check = checks.setdefault(name, SessionCheck(name))
                check.take(piece[piece["session_index"] == index])
    result = reading.result
    require_segments(directory, result)
    return VerifyResult(result, tuple(checks.values()))
