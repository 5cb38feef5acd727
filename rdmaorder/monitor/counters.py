"""Reads a counters file: a mapped file in which a running process counts what it does.

Reading costs the writer nothing, needs no permission but the file's, and works as well after the
process died. ``docs/counters.md`` has the bytes and the meaning of each counter.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from rdmaorder.errors import InputError, SystemFailure

__all__ = ["GAUGES", "CounterName", "Counters"]

MAGIC: Final = b"ROCNT001"
VERSION: Final = 1
LABEL_BYTES: Final = 128
COUNT_MAX: Final = 1 << 20
# magic, version, counter count, process id, start time, labels offset, values offset, label
HEADER: Final = struct.Struct("<8sIIQQQQ80s")

#: Names whose value is a level or a maximum; a rate of it would mean nothing.
GAUGES: Final = frozenset({"last_fence_ns", "max_fence_ns", "max_window_ns", "ring_high_water"})

_NAME: Final = re.compile(r"([A-Za-z0-9_]+)(?:\{([A-Za-z0-9_]+)=([A-Za-z0-9_.:-]+)\})?")


class CounterName(NamedTuple):
    """A counter's label taken apart: ``orders_applied{session=alpha}``."""

    base: str
    key: str | None
    value: str | None

    @classmethod
    def parse(cls, label: str) -> CounterName:
        """Raises ValueError when the label is neither ``name`` nor ``name{key=value}``."""
        match = _NAME.fullmatch(label)
        if match is None:
            raise ValueError(f"counter label {label!r} is neither name nor name{{key=value}}")
        return cls(*match.groups())


class Counters:
    """A counters file, open for reading. Close it, or use it in a ``with`` statement.

    It stays on the file it opened: when the process is started anew, it makes a new file under
    the same path, and this object goes on showing the old one. Open again to follow.
    """

    path: str
    #: what the process called itself
    label: str
    #: process id of the writer
    pid: int
    #: when the file was made, CLOCK_REALTIME nanoseconds
    start_time_ns: int
    #: counters the file has room for
    capacity: int

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Maps and checks the file.

        Raises SystemFailure when it cannot be opened, InputError when it is no counters file, one
        of another version, or damaged.
        """
        self.path = os.fspath(path)
        self._memory, self._inode = _map(self.path)
        self._words = memoryview(self._memory)[:0].cast("Q")
        self._names: list[str] = []
        try:
            self._labels_offset, values_offset = self._read_header()
        except BaseException:
            self.close()
            raise
        whole = memoryview(self._memory)
        self._words = whole[values_offset : values_offset + 8 * self.capacity].cast("Q")

    def _bad(self, what: str) -> InputError:
        return InputError(what, path=self.path)

    def _read_header(self) -> tuple[int, int]:
        size = len(self._memory)
        if size < HEADER.size or self._memory[:8] != MAGIC:
            raise self._bad(
                f"not a counters file: {size} bytes that begin with {bytes(self._memory[:8])!r}, "
                f"expected {HEADER.size} or more that begin with {MAGIC!r}"
            )
        _, version, count, pid, start_time_ns, labels, values, label = HEADER.unpack_from(
            self._memory
        )
        if version != VERSION:
            raise self._bad(
                f"counters file of version {version}; this rdmaorder reads version {VERSION}. "
                "Use the rdmaorder that wrote it"
            )
        if not 1 <= count <= COUNT_MAX:
            raise self._bad(f"damaged counters file: room for {count} counters, not 1..{COUNT_MAX}")
        if labels < HEADER.size or labels % 64 or values != labels + count * LABEL_BYTES:
            raise self._bad(
                f"damaged counters file: labels at {labels} and values at {values} do not fit "
                f"{count} counters"
            )
        if size < values + 8 * count:
            raise self._bad(
                f"truncated counters file: {size} bytes, {count} counters need {values + 8 * count}"
            )
        if not 0 < pid < 1 << 31:
            raise self._bad(f"damaged counters file: process id {pid}")
        self.capacity, self.pid, self.start_time_ns = count, pid, start_time_ns
        self.label = label.split(b"\0", 1)[0].decode("utf-8", "replace")
        return labels, values

    def _learn_names(self) -> None:
        """Takes in the labels made since last time. They are made in order and never change."""
        while len(self._names) < self.capacity:
            at = self._labels_offset + len(self._names) * LABEL_BYTES
            # The writer stores the first 8 bytes last: the rest is looked at only after them.
            if self._memory[at] == 0:
                return
            raw = self._memory[at : at + LABEL_BYTES].split(b"\0", 1)[0]
            label = raw.decode("ascii", "replace")
            if len(raw) == LABEL_BYTES or _NAME.fullmatch(label) is None:
                raise self._bad(
                    f"damaged counters file: label {len(self._names)} is {label!r}, which is "
                    "neither name nor name{key=value}"
                )
            self._names.append(label)

    def snapshot(self) -> dict[str, int]:
        """Every counter by its label, in the order in which they were made.

        Each value is read whole; two of them may be of slightly different moments.
        """
        if self._memory.closed:
            raise ValueError(f"counters file {self.path} is closed")
        self._learn_names()
        # Native 8-byte items are loaded by one instruction each: never half of a value.
        return {name: self._words[index] for index, name in enumerate(self._names)}

    def alive(self) -> bool:
        """Whether the process that made the file still runs.

        It is the one of that id that has this very file mapped for writing; another process that
        got the same id has not. Where the system does not tell what a process has mapped, the id
        has to do.
        """
        try:
            with Path(f"/proc/{self.pid}/maps").open(encoding="utf-8", errors="replace") as maps:
                # address perms offset device inode path; a device of an overlay differs from stat
                rows = (line.split(maxsplit=5) for line in maps)
                return any("w" in row[1] and int(row[4]) == self._inode for row in rows)
        except PermissionError:
            return True
        except OSError:  # no such process, or it ended while it was looked at
            return False

    def close(self) -> None:
        """Unmaps the file. May be called again."""
        self._words.release()
        self._memory.close()

    def __enter__(self) -> Counters:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Counters({self.path!r}, label={self.label!r}, pid={self.pid})"


def _map(path: str) -> tuple[mmap.mmap, int]:
    """The file's memory and its inode number."""
    try:
        # To open a named pipe waits for who writes into it.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            info = os.fstat(opened)
            if not stat.S_ISREG(info.st_mode):
                raise InputError("not a counters file: it is no regular file", path=path)
            if info.st_size == 0:
                raise InputError("not a counters file: it is empty", path=path)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), info.st_ino
    except OSError as error:
        remedy = (
            "it is its process's user's: read it as that user, or as root"
            if error.errno == errno.EACCES
            else "the process that writes it names the path when it starts"
        )
        raise SystemFailure(
            f"open counters file {path}: {error.strerror}; {remedy}",
            error_number=error.errno or 0,
        ) from error
