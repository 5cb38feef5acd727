"""Rows of a plain or gzip-compressed CSV file, with the line each stood on."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

from rdmaorder.errors import InputError

__all__ = ["Chunk", "CsvSource"]

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_CHUNK_ROWS = 1 << 17
_LINE_BYTES_MAX = 1 << 20


@dataclass(slots=True)
class Chunk:
    """Some consecutive rows of a file, by column."""

    path: str
    lines: list[int]  #: line (from 1) on which each row ends
    columns: dict[str, Sequence[str]]

    def error(self, row: int, message: str) -> InputError:
        """The error that ``message`` is about row ``row`` of this chunk."""
        return InputError(message, path=self.path, line=self.lines[row])


class CsvSource:
    """Reads a CSV file in chunks of bounded size.

    Comma-separated, double quotes, LF or CRLF, an UTF-8 byte order mark tolerated, blank lines
    skipped; gzip is recognised by its first bytes, not by the file's name. Each row must have as
    many fields as there are columns. Raises InputError with the path and the line.
    """

    def __init__(
        self,
        path: Path,
        header: Sequence[str] | None = None,
        remedy: Callable[[Sequence[str]], str] = lambda header: "",
    ) -> None:
        """``header``: names of the columns of a file without a header line.

        ``remedy``: what to add to the error of a header line that lacks columns.
        """
        self.path = str(path)
        self._file_path = path
        self._header = list(header) if header is not None else None
        self._remedy = remedy

    def _error(self, message: str, line: int | None = None) -> InputError:
        return InputError(message, path=self.path, line=line)

    def _open(self) -> IO[bytes]:
        try:
            with self._file_path.open("rb") as stream:
                magic = stream.read(len(_GZIP_MAGIC))
            if magic == _GZIP_MAGIC:
                return cast("IO[bytes]", gzip.open(self._file_path))
            return self._file_path.open("rb")
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from None

    def _lines(self, stream: IO[bytes]) -> Iterator[str]:
        number = 0
        try:
            for number, line in enumerate(iter(partial(stream.readline, _LINE_BYTES_MAX), b""), 1):
                if len(line) == _LINE_BYTES_MAX:
                    raise self._error(f"has a line of {_LINE_BYTES_MAX} bytes or more", number)
                if number == 1 and line.startswith(_UTF8_BOM):
                    yield line[len(_UTF8_BOM) :].decode()
                else:
                    yield line.decode()
        except UnicodeDecodeError as error:
            raise self._error(f"is not UTF-8 text: {error.reason}", number) from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._error(f"is a damaged or truncated gzip file: {error}", number + 1) from None

    def chunks(self, required: Sequence[str]) -> Iterator[Chunk]:
        """Every row. Refuses a file that lacks one of the ``required`` columns."""
        stream = self._open()
        with stream:
            reader = csv.reader(self._lines(stream), strict=True)
            try:
                yield from self._read(reader, required)
            except csv.Error as error:
                raise self._error(f"is not valid CSV: {error}", reader.line_num) from None

    def _read(self, reader: Iterator[list[str]], required: Sequence[str]) -> Iterator[Chunk]:
        header = self._header if self._header is not None else self._read_header(reader, required)
        rows: list[list[str]] = []
        lines: list[int] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise self._error(
                    f"has {len(row)} fields where {len(header)} columns are expected "
                    f"({','.join(header)})",
                    reader.line_num,  # type: ignore[attr-defined]
                )
            rows.append(row)
            lines.append(reader.line_num)  # type: ignore[attr-defined]
            if len(rows) == _CHUNK_ROWS:
                yield self._chunk(header, rows, lines)
                rows, lines = [], []
        if rows:
            yield self._chunk(header, rows, lines)

    def _chunk(self, header: list[str], rows: list[list[str]], lines: list[int]) -> Chunk:
        return Chunk(self.path, lines, dict(zip(header, zip(*rows, strict=True), strict=True)))

    def _read_header(self, reader: Iterator[list[str]], required: Sequence[str]) -> list[str]:
        header = next((row for row in reader if row), None)
        if header is None:
            raise self._error(f"is empty: expected a header line with {','.join(required)}")
        header = [name.strip() for name in header]
        missing = [name for name in required if name not in header]
        if missing:
            raise self._error(
                f"lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
                f"the header line has {', '.join(map(repr, header))}{self._remedy(header)}",
                reader.line_num,  # type: ignore[attr-defined]
            )
        repeated = [name for name in required if header.count(name) > 1]
        if repeated:
            raise self._error(
                f"has the column {repeated[0]} more than once",
                reader.line_num,  # type: ignore[attr-defined]
            )
        return header
