"""What a strategy under test writes down, in mapped files that outlive it at any instruction.

Each file is a fixed array of records behind a page with its count. The count moves after the
records, so whatever instruction the process dies at, the first ``count`` records are whole.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

from rdmaorder.errors import InputError
from rdmaorder.messages import REPORT_RECORD, Records

__all__ = ["ENTRY", "LINK", "MESSAGE_BYTES", "Board", "EntryState", "Log", "open_logs"]

#: header and block of a message: the slot without its commit word, as the journal keeps it
MESSAGE_BYTES: Final = 56
_HEAD_BYTES: Final = mmap.PAGESIZE
_REPORTS_PER_ORDER: Final = 4


class EntryState(IntEnum):
    """What the strategy knows of an order without any report."""

    INTENT = 1  #: about to be sent
    SENT = 2  #: the send returned its sequence
    REFUSED = 3  #: the send said that nothing was written
    NOT_APPLIED = 4  #: the gateway said so, or named a next sequence that is not above it


#: An order. Its ClOrdID is its place in the ledger, counted from 1.
ENTRY: Final = np.dtype(
    [("sequence", "<u8"), ("state", "<u4"), ("life", "<u4"), ("message", f"V{MESSAGE_BYTES}")]
)

#: A link of the session, or something the session told: ``kind`` is a SessionEventKind.
LINK: Final = np.dtype(
    [("time_ns", "<u8"), ("kind", "<u4"), ("life", "<u4"), ("first", "<u8"), ("count", "<u8")]
)


class Log:
    """An append-only array in a mapped file. One process writes, others may read."""

    def __init__(self, path: Path, dtype: np.dtype[Any], capacity: int = 0) -> None:
        """With a ``capacity`` the file is made anew; without one it must be there."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if capacity else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if capacity:
                os.ftruncate(descriptor, _HEAD_BYTES + capacity * dtype.itemsize)
            size = os.fstat(descriptor).st_size
            if size <= _HEAD_BYTES:
                raise InputError("is no file of a fault run: too short", path=str(path))
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._head: Any = np.frombuffer(self._map, "<u8", 1)
        self.capacity = (size - _HEAD_BYTES) // dtype.itemsize
        #: the whole file; rows from ``count`` on are not written yet
        self.rows: Records = np.frombuffer(self._map, dtype, self.capacity, _HEAD_BYTES)

    @property
    def count(self) -> int:
        return int(self._head[0])

    @property
    def written(self) -> Records:
        """The records there are: a view, not a copy."""
        return self.rows[: self.count]

    def append(self, records: Any) -> None:
        """``records``: an array of the log's dtype, or one record as a tuple."""
        start = self.count
        added = len(records) if isinstance(records, np.ndarray) else 1
        if start + added > self.capacity:
            raise InputError(f"a log of the fault run is full: {self.capacity} records")
        self.rows[start : start + added] = records
        self._head[0] = start + added  # stores are not reordered on the platforms served


class Board:
    """One page through which the supervisor directs the strategy and sees how far it is."""

    FIELDS: Final = (
        "limit",  # supervisor: orders that may be in the ledger
        "closing",  # supervisor: 1, end gracefully now
        "command",  # supervisor: number of the newest command
        "command_kind",  # … what to do, of hostile.Act
        "command_argument",
        "command_done",  # strategy: number of the last command done
        "answered",  # strategy: highest ClOrdID that a report named
        "unjournalled",  # strategy: refusals with Reason.JOURNAL_UNAVAILABLE seen
        "links",  # strategy: links made, over all its lives
    )

    def __init__(self, path: Path, *, create: bool = False) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        try:
            if create:
                os.ftruncate(descriptor, mmap.PAGESIZE)
            self._map = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)
        self._words: Any = np.frombuffer(self._map, "<u8", len(self.FIELDS))

    def get(self, field: str) -> int:
        return int(self._words[self.FIELDS.index(field)])

    def set(self, field: str, value: int) -> None:
        self._words[self.FIELDS.index(field)] = value


def open_logs(folder: Path, orders: int = 0) -> tuple[Log, Log, Log]:
    """Ledger, reports and links of a run; made anew for that many orders, or those that exist."""
    return (
        Log(folder / "ledger", ENTRY, orders),
        Log(folder / "reports", REPORT_RECORD, orders and _REPORTS_PER_ORDER * orders + 65_536),
        Log(folder / "links", LINK, orders and 1 << 20),
    )
