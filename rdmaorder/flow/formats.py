"""The file formats order flow comes in, each turned into ``Events``.

``csv`` is this project's own; ``ob-analytics`` and ``lobster`` are recordings of others, whose rows
mean something else and are mapped here. docs/replay.md has the tables and the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import chain, compress
from pathlib import Path

import numpy as np

from rdmaorder.errors import InputError
from rdmaorder.flow import FORMATS, decimals
from rdmaorder.flow.decimals import BadValue, Int64Array
from rdmaorder.flow.source import Chunk, CsvSource
from rdmaorder.flow.table import Events, Flow, assemble

__all__ = ["FORMATS", "read_flow"]

_CSV_COLUMNS = ("t_ns", "msg", "order_id", "side", "price", "qty")
_OB_COLUMNS = ("id", "exchange_timestamp", "price", "volume", "action", "direction", "timestamp")
_TRADE_COLUMNS = ("buy_order_id", "sell_order_id")
_LOBSTER_COLUMNS = ("time", "type", "order_id", "size", "price", "direction")


def read_flow(
    path: Path,
    *,
    file_format: str = "csv",
    trades: Path | None = None,
    quantity_exponent: int | None = None,
) -> Flow:
    """Reads a whole recording.

    ``quantity_exponent``: unit of the quantities sent, 1 for 10**quantity_exponent; None takes the
    greatest (at most 0) that represents every quantity of the file. ``trades`` is for
    ob-analytics: the file of trades, by default ``trades.csv`` in the same folder. Raises
    InputError with path and line.
    """
    lowest = -decimals.QUANTITY_DECIMALS_MAX
    if quantity_exponent is not None and not lowest <= quantity_exponent <= 0:
        raise InputError(f"quantity exponent {quantity_exponent} is outside {lowest} .. 0")
    if trades is not None and file_format != "ob-analytics":
        raise InputError(f"a file of trades is for the ob-analytics format, not {file_format}")
    amounts = partial(decimals.quantities, exponent=quantity_exponent)
    if file_format == "csv":
        source = CsvSource(path, remedy=_remedy)
        chunks = source.chunks(_CSV_COLUMNS)
        return assemble(source.path, (_csv(chunk, amounts) for chunk in chunks))
    if file_format == "lobster":
        source = CsvSource(path, header=_LOBSTER_COLUMNS)
        chunks = source.chunks(_LOBSTER_COLUMNS)
        return assemble(source.path, (_lobster(chunk, amounts) for chunk in chunks))
    if file_format == "ob-analytics":
        source = CsvSource(path)
        return assemble(source.path, _ob_analytics(source, _executed(path, trades), amounts))
    raise InputError(f"order flow format {file_format!r} is none of {', '.join(FORMATS)}")


def _remedy(header: Sequence[str]) -> str:
    """Where a header line that is not ``csv``'s looks like that of another format: which."""
    if set(_OB_COLUMNS) <= set(header):
        return "; they are those of --format ob-analytics"
    numbers = [re.fullmatch(r"-?\d+(\.\d+)?", each) for each in header]
    if len(header) == len(_LOBSTER_COLUMNS) and all(numbers):
        return ": a row of --format lobster, which has no header line?"
    return ""


Amounts = Callable[[Sequence[str]], tuple[Int64Array, int]]


def _csv(chunk: Chunk, amounts: Amounts) -> Events:
    columns = chunk.columns
    return Events(
        chunk=chunk,
        kinds=columns["msg"],
        sides=columns["side"],
        order_ids=columns["order_id"],
        symbols=columns.get("sym"),
        t_ns=partial(decimals.integers, columns["t_ns"], "t_ns"),
        prices=decimals.prices,
        quantities=amounts,
        price_texts=columns["price"],
        quantity_texts=columns["qty"],
    )


# --- LOBSTER ------------------------------------------------------------------------------------

#: submission, partial cancel, deletion, execution of a visible and of a hidden order, cross trade
_LOBSTER_KINDS = {"1": "N", "2": "C", "3": "D", "4": "E", "5": "T", "6": "T"}
_LOBSTER_HALT = "7"
_LOBSTER_SIDES = {"1": "B", "-1": "S"}
_LOBSTER_PRICE_UNIT = 10**5  # 1e-4 dollars in units of 1e-9


def _lobster(chunk: Chunk, amounts: Amounts) -> Events:
    halts = chunk.columns["type"].count(_LOBSTER_HALT)
    if halts:
        chunk = _select(chunk, [kind != _LOBSTER_HALT for kind in chunk.columns["type"]])
    columns = chunk.columns
    return Events(
        chunk=chunk,
        kinds=_translate(chunk, "type", _LOBSTER_KINDS),
        sides=_translate(chunk, "direction", _LOBSTER_SIDES),
        order_ids=columns["order_id"],
        symbols=None,
        t_ns=partial(decimals.scaled, columns["time"], -9, "time"),
        prices=_lobster_prices,
        quantities=amounts,
        price_texts=columns["price"],
        quantity_texts=columns["size"],
        dropped={"trading halt": halts},
    )


def _times(numbers: Int64Array, factor: int, what: str) -> Int64Array:
    """``numbers * factor``, or BadValue where that does not fit 64 bits."""
    outside = np.flatnonzero(np.abs(numbers) > (2**63 - 1) // factor)
    if outside.size:
        row = int(outside[0])
        raise BadValue(row, f"{what} {int(numbers[row])} does not fit 64 bits times {factor}")
    return numbers * factor


def _lobster_prices(column: Sequence[str]) -> Int64Array:
    # A row that is not sent has an empty price here, and what it becomes is not looked at.
    numbers = decimals.integers([text or "0" for text in column], "price")
    return _times(numbers, _LOBSTER_PRICE_UNIT, "price")


# --- ob-analytics -------------------------------------------------------------------------------

_OB_KINDS = {"created": "N", "changed": "M", "deleted": "D"}
_OB_SIDES = {"bid": "B", "ask": "S"}
#: Rows in one millisecond that no exchange sends (the busiest real one of Bitstamp's has 35): the
#: recorder's own, which write down the book at the start and clear it at the end.
_SNAPSHOT_ROWS_MIN = 256


def _executed(path: Path, trades: Path | None) -> set[str]:
    """Ids of the orders that took part in a trade."""
    source = CsvSource(trades if trades is not None else path.parent / "trades.csv")
    executed: set[str] = set()
    for chunk in source.chunks(_TRADE_COLUMNS):
        executed.update(*(chunk.columns[name] for name in _TRADE_COLUMNS))
    return executed


def _ob_analytics(source: CsvSource, executed: set[str], amounts: Amounts) -> Iterator[Events]:
    chunk = _whole(source)
    if chunk is None:
        return
    first, last = _snapshot_bounds(chunk)
    row_count = len(chunk.lines)
    snapshot = row_count - (last - first)
    if snapshot:
        chunk = _select(chunk, [first <= row < last for row in range(row_count)])
    kinds = _ob_kinds(chunk, executed)
    unsendable = kinds.count("")
    if unsendable:
        chunk = _select(chunk, [kind != "" for kind in kinds])
        kinds = [kind for kind in kinds if kind]
    columns = chunk.columns
    yield Events(
        chunk=chunk,
        kinds=kinds,
        sides=_translate(chunk, "direction", _OB_SIDES),
        order_ids=columns["id"],
        symbols=None,
        t_ns=partial(_milliseconds, columns["exchange_timestamp"]),
        prices=decimals.prices,
        quantities=amounts,
        price_texts=columns["price"],
        quantity_texts=columns["volume"],
        dropped={"snapshot row": snapshot, "order by value, without a quantity": unsendable},
    )


def _whole(source: CsvSource) -> Chunk | None:
    """All rows at once: which of them are the recorder's is only known at the end of the file."""
    chunks = list(source.chunks(_OB_COLUMNS))
    if not chunks:
        return None
    return Chunk(
        source.path,
        list(chain.from_iterable(chunk.lines for chunk in chunks)),
        {
            name: list(chain.from_iterable(chunk.columns[name] for chunk in chunks))
            for name in _OB_COLUMNS
        },
    )


def _snapshot_bounds(chunk: Chunk) -> tuple[int, int]:
    """First row after the opening snapshot and first row of the closing one."""
    actions = chunk.columns["action"]
    received, happened = chunk.columns["timestamp"], chunk.columns["exchange_timestamp"]
    row_count = len(actions)
    first = 0
    while first < row_count and (actions[first], received[first], happened[first]) == (
        "created",
        received[0],
        happened[0],
    ):
        first += 1
    if first < _SNAPSHOT_ROWS_MIN:
        first = 0
    # The recorder ends every order by its own clock; a real event arrives later than it happened.
    last = row_count
    while last > first and (actions[last - 1], received[last - 1], happened[last - 1]) == (
        "deleted",
        happened[-1],
        happened[-1],
    ):
        last -= 1
    return first, last if row_count - last >= _SNAPSHOT_ROWS_MIN else row_count


def _milliseconds(column: Sequence[str]) -> Int64Array:
    return _times(decimals.integers(column, "exchange_timestamp"), 10**6, "exchange_timestamp")


def _ob_kinds(chunk: Chunk, executed: set[str]) -> list[str]:
    """Letter of every row; an empty one is a row that cannot be sent."""
    kinds = list(_translate(chunk, "action", _OB_KINDS))
    columns = chunk.columns
    for row, order_id in enumerate(columns["id"]):
        if order_id not in executed:
            continue
        if kinds[row] == "M":
            kinds[row] = "E"
        elif _is_zero(columns["volume"][row]):
            # Deleted with nothing left: filled. New with nothing: a market order by value.
            kinds[row] = "E" if kinds[row] == "D" else ""
    return kinds


def _is_zero(text: str) -> bool:
    try:
        return Decimal(text.strip()) == 0
    except InvalidOperation:  # not a number: the column's conversion reports it
        return False


# --- rows ---------------------------------------------------------------------------------------


def _select(chunk: Chunk, keep: Sequence[bool]) -> Chunk:
    return Chunk(
        chunk.path,
        list(compress(chunk.lines, keep)),
        {name: list(compress(column, keep)) for name, column in chunk.columns.items()},
    )


def _translate(chunk: Chunk, name: str, table: dict[str, str]) -> list[str]:
    """A column in this project's letters; a value outside ``table`` is an error."""
    column = chunk.columns[name]
    unknown = set(column) - table.keys()
    if unknown:
        row = decimals.first_row(column, unknown)
        raise chunk.error(row, f"{name} {column[row][:40]!r} is none of {', '.join(table)}")
    return [table[text] for text in column]
