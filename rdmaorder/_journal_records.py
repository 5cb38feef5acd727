"""Records of a journal as numpy arrays; import from ``rdmaorder.journal``."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from rdmaorder import _core
from rdmaorder.errors import JournalError, SystemFailure

Records: TypeAlias = npt.NDArray[np.void]
Directory: TypeAlias = "str | os.PathLike[str]"

PAYLOAD_WIDTH: Final = 64
#: session_index of a kill or release of all sessions, those introduced later included
EVERY_SESSION: Final = 0xFFFF_FFFF
BATCH_RECORDS: Final = 65_536


class RecordKind(IntEnum):
    """What a record of the journal tells."""

    SESSION = 1
    ORDER = 2
    REPORT = 3
    LINK = 4
    NOT_APPLIED = 5
    KILL = 6


def record_dtype(payload_width: int = PAYLOAD_WIDTH) -> np.dtype[np.void]:
    """A record as ``read`` yields it, the payload padded with zeros to ``payload_width`` bytes."""
    fields = [
        *(("position", "<u8"), ("time_ns", "<u8"), ("sequence", "<u8")),
        *(("session_index", "<u4"), ("kind", "<u2"), ("detail", "<u2")),
        *(("payload_bytes", "<u8"), ("payload", f"V{payload_width}")),
    ]
    return np.dtype(fields)


#: ``time_ns`` is CLOCK_REALTIME; ``detail`` of an order is the Reason the gateway refused it for
RECORD: Final = record_dtype()


@dataclass(frozen=True)
class ScanResult:
    """How reading a journal ended. ``damage``: file, offset, position and cause; empty if clean."""

    record_count: int = 0
    last_position: int = 0
    clean: bool = True
    damage: str = ""
    segment_count: int = 0


def batches(reader: _core.JournalReader, batch_records: int) -> Iterator[Records]:
    while len(batch := _next_batch(reader, batch_records)) > 0:
        yield batch


def _next_batch(reader: _core.JournalReader, batch_records: int) -> Records:
    try:
        batch: Records = reader.next_batch(batch_records)
    except (JournalError, SystemFailure) as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        what = str(error).partition(";")[0]
        raise JournalError(
            f"{what}; run this as the gateway's user, or as root", error_number=error.errno
        ) from None
    return batch


def read(directory: Directory, *, batch_records: int = BATCH_RECORDS) -> Iterator[Records]:
    """Yields the records in order, in arrays of ``RECORD`` with up to ``batch_records`` each.

    A batch that holds a payload longer than 64 bytes has a wider ``payload`` field. Stops at the
    first damaged record; use ``verify`` to learn whether there was one. Memory is bounded by one
    batch. Raises JournalError when the directory or a segment header cannot be read.
    """
    return batches(_core.JournalReader(os.fspath(directory)), batch_records)


class Reading:
    """Batches of a journal to its end, where ``result`` says how that was: a segment header that
    cannot be read is damage like any other, what lies before it has been read."""

    def __init__(self, directory: Directory, batch_records: int = BATCH_RECORDS) -> None:
        self._reader = _core.JournalReader(os.fspath(directory))
        self._batch_records = batch_records
        self._header_damage = ""

    def __iter__(self) -> Iterator[Records]:
        try:
            yield from batches(self._reader, self._batch_records)
        except JournalError as error:
            if error.errno:  # a call that failed says nothing of the journal
                raise
            self._header_damage = str(error)

    @property
    def result(self) -> ScanResult:
        found = ScanResult(**self._reader.result)
        if self._header_damage:
            return replace(found, clean=False, damage=self._header_damage)
        return found


def require_segments(directory: Directory, result: ScanResult) -> None:
    if result.segment_count == 0 and result.clean:
        raise JournalError(
            f"no journal in {os.fspath(directory)}: it holds no segment files NNNNNNNNNN.rojl; "
            "name the directory given to the gateway as its journal"
        )


def payload_bytes(records: Records) -> npt.NDArray[np.uint8]:
    """The payloads as rows of bytes (a copy)."""
    width = records.dtype["payload"].itemsize
    return np.ascontiguousarray(records["payload"]).view(np.uint8).reshape(len(records), width)


def u64_at(payloads: npt.NDArray[np.uint8], offset: int) -> npt.NDArray[np.uint64]:
    column = np.ascontiguousarray(payloads[:, offset : offset + 8])
    return column.view("<u8").reshape(len(payloads))


def _name(record: np.void) -> str:
    raw: bytes = record["payload"].tobytes()[: int(record["payload_bytes"])]
    return raw.decode("utf-8", errors="backslashreplace")


def widen_sequences(
    low: npt.NDArray[np.uint32], reference: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """The 64-bit sequences nearest to ``reference`` whose low halves are ``low``."""
    delta = (low.astype(np.uint32) - reference.astype(np.uint32)).astype(np.int32)
    return reference + delta.astype(np.int64).astype(np.uint64)


class SessionNames:
    """Which name a session index stands for, while records go by in order."""

    def __init__(self) -> None:
        self.by_index: dict[int, str] = {}

    def split(self, batch: Records) -> Iterator[Records]:
        """Cuts a batch before each record that introduces a session, and learns from it.

        Within a piece, ``by_index`` holds.
        """
        starts = np.flatnonzero(batch["kind"] == RecordKind.SESSION).tolist()
        bounds = [0, *starts, len(batch)]
        for start, stop in itertools.pairwise(bounds):
            if start == stop:
                continue
            first = batch[start]
            if first["kind"] == RecordKind.SESSION:
                self.by_index[int(first["session_index"])] = _name(first)
            yield batch[start:stop]

    def name(self, session_index: int) -> str:
        """The name, ``"*"`` for EVERY_SESSION, or ``"#<index>"`` when no record introduced it."""
        if session_index == EVERY_SESSION:
            return "*"
        return self.by_index.get(session_index, f"#{session_index}")
