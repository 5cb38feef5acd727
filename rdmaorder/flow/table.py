"""Order flow as arrays: what every file format is turned into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rdmaorder.errors import InputError
from rdmaorder.flow.decimals import BadValue, Int64Array, first_row
from rdmaorder.flow.source import Chunk
from rdmaorder.messages import BUY, SELL

__all__ = ["CANCEL", "CLIENT_KINDS", "DELETE", "MODIFY", "NEW", "Events", "Flow", "assemble"]

NEW, MODIFY, CANCEL, DELETE = (ord(letter) for letter in "NMCD")
#: the messages a client sends, in the order of tables and JSON
CLIENT_KINDS = "NMCD"
_VENUE_KINDS = "ET"
_VENUE_NAMES = {"E": "execution", "T": "trade print"}
_SIDES = {"B": int(BUY), "S": int(SELL), "": 0}
_NOT_KNOWN = 255
_INT64_MAX = 2**63 - 1

_T = TypeVar("_T")


@dataclass(slots=True)
class Events:
    """One chunk of a file in common terms; all sequences have one entry per row."""

    chunk: Chunk
    kinds: Sequence[str]  #: letters N, M, C, D, E, T
    sides: Sequence[str]  #: B, S or empty
    order_ids: Sequence[str]
    symbols: Sequence[str] | None
    t_ns: Callable[[], Int64Array]
    prices: Callable[[Sequence[str]], Int64Array]
    quantities: Callable[[Sequence[str]], tuple[Int64Array, int]]
    price_texts: Sequence[str]
    quantity_texts: Sequence[str]
    #: rows left out before this, by why
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Flow:
    """The client messages of a file in time order, one array entry each."""

    path: str
    t_ns: Int64Array
    kind: npt.NDArray[np.uint8]  #: NEW, MODIFY, CANCEL or DELETE
    order: Int64Array  #: index into order_ids
    symbol: npt.NDArray[np.int32]  #: index into symbols
    side: npt.NDArray[np.uint8]  #: Side, 0 where the file has none
    price: Int64Array  #: mantissa 1e-9, NO_PRICE where the file has none
    quantity: Int64Array  #: in units of 10**quantity_exponent
    line: Int64Array
    order_ids: list[str]
    symbols: list[str]
    quantity_exponent: int
    row_count: int  #: rows of the file, the header aside
    skipped: dict[str, int]  #: rows that are no client message, by why
    steps_back: int  #: how often the clock of the file went backwards (rows were sorted stably)

    def __len__(self) -> int:
        return len(self.t_ns)

    def kinds(self, count: int | None = None) -> dict[str, int]:
        """Messages by letter among the first ``count``."""
        found = np.bincount(self.kind[:count], minlength=256)
        return {letter: int(found[ord(letter)]) for letter in CLIENT_KINDS}


class _Findings:
    """The problems of one chunk; the one that stands first in the file is raised."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._first: BadValue | None = None

    def add(self, row: int, message: str) -> None:
        if self._first is None or row < self._first.row:
            self._first = BadValue(row, message)

    def attempt(self, convert: Callable[[], _T]) -> _T | None:
        try:
            return convert()
        except BadValue as problem:
            self.add(problem.row, str(problem))
            return None

    def add_where(self, bad: npt.NDArray[np.bool_], message: Callable[[int], str]) -> None:
        rows = np.flatnonzero(bad)
        if rows.size:
            self.add(int(rows[0]), message(int(rows[0])))

    def raise_first(self) -> None:
        if self._first is not None:
            raise self._chunk.error(self._first.row, str(self._first))


def _lookup(
    column: Sequence[str], table: dict[str, int], what: str, findings: _Findings
) -> npt.NDArray[np.uint8]:
    unknown = set(column) - table.keys()
    if unknown:
        row = first_row(column, unknown)
        letters = ", ".join(key or "empty" for key in table)
        findings.add(row, f"{what} {column[row][:40]!r} is none of {letters}")
        table = table | dict.fromkeys(unknown, _NOT_KNOWN)
    return np.fromiter(map(table.__getitem__, column), np.uint8, len(column))


_KIND_CODES = {letter: ord(letter) for letter in CLIENT_KINDS + _VENUE_KINDS}


def _blank(texts: Sequence[str], keep: npt.NDArray[np.bool_]) -> Sequence[str]:
    """``texts`` with those of rows that are not looked at emptied."""
    if keep.all():
        return texts
    return [text if kept else "" for text, kept in zip(texts, keep.tolist(), strict=True)]


@dataclass(slots=True)
class _Part:
    """Client messages of one chunk."""

    t_ns: Int64Array
    kind: npt.NDArray[np.uint8]
    order: Int64Array
    symbol: npt.NDArray[np.int32]
    side: npt.NDArray[np.uint8]
    price: Int64Array
    quantity: Int64Array
    line: Int64Array
    quantity_exponent: int


def _check_rows(
    events: Events,
    kind: npt.NDArray[np.uint8],
    side: npt.NDArray[np.uint8],
    quantity: Int64Array | None,
    findings: _Findings,
) -> None:
    client = ~np.isin(kind, [ord(letter) for letter in _VENUE_KINDS])
    if "" in events.order_ids:
        no_id = np.fromiter((not text for text in events.order_ids), np.bool_, len(kind))
        findings.add_where(client & no_id, lambda _: "order_id is empty")
    findings.add_where(
        (kind == NEW) & (side == 0), lambda _: "a new order needs a side, B or S; it is empty"
    )
    if quantity is None:
        return

    def complaint(row: int) -> str:
        text = events.quantity_texts[row]
        return (
            f"quantity {text!r} is not above 0"
            if text
            else "quantity is empty; only D may leave it so"
        )

    # D takes the whole order off: its quantity says nothing, but a negative one is nonsense.
    findings.add_where(client & (kind != DELETE) & (quantity <= 0), complaint)
    findings.add_where((kind == DELETE) & (quantity < 0), complaint)


def _encode(events: Events, orders: dict[str, int], symbols: dict[str, int]) -> _Part:
    findings = _Findings(events.chunk)
    kind = _lookup(events.kinds, _KIND_CODES, "msg", findings)
    side = _lookup(events.sides, _SIDES, "side", findings)
    client = ~np.isin(kind, [ord(letter) for letter in _VENUE_KINDS])
    events.quantity_texts = _blank(events.quantity_texts, client)
    t_ns = findings.attempt(events.t_ns)
    price = findings.attempt(lambda: events.prices(_blank(events.price_texts, client)))
    amounts = findings.attempt(lambda: events.quantities(events.quantity_texts))
    _check_rows(events, kind, side, None if amounts is None else amounts[0], findings)
    findings.raise_first()
    assert t_ns is not None
    assert price is not None
    assert amounts is not None
    quantity, exponent = amounts
    ids = [text for text, kept in zip(events.order_ids, client.tolist(), strict=True) if kept]
    names: Sequence[str] = [""] * len(ids)
    if events.symbols is not None:
        names = [text for text, kept in zip(events.symbols, client.tolist(), strict=True) if kept]
    return _Part(
        t_ns=t_ns[client],
        kind=kind[client],
        order=np.array([orders.setdefault(text, len(orders)) for text in ids], np.int64),
        symbol=np.array([symbols.setdefault(text, len(symbols)) for text in names], np.int32),
        side=side[client],
        price=price[client],
        quantity=quantity[client],
        line=np.array(events.chunk.lines, np.int64)[client],
        quantity_exponent=exponent,
    )


def _count_skipped(events: Events, skipped: dict[str, int]) -> None:
    """Adds the rows of ``events`` that will not be sent to ``skipped``, by why."""
    kinds = list(events.kinds)
    venue = {name: kinds.count(letter) for letter, name in _VENUE_NAMES.items()}
    for why, count in (events.dropped | venue).items():
        if count:
            skipped[why] = skipped.get(why, 0) + count


def _to_common_exponent(path: str, parts: list[_Part]) -> int:
    """Brings the quantities of all parts to the finest exponent among them."""
    exponent = min((part.quantity_exponent for part in parts), default=0)
    for part in parts:
        factor = 10 ** (part.quantity_exponent - exponent)
        too_large = np.flatnonzero(part.quantity > _INT64_MAX // factor)
        if too_large.size:
            row = int(too_large[0])
            value = Decimal(int(part.quantity[row])).scaleb(part.quantity_exponent)
            raise InputError(
                f"quantity {value} does not fit 64 bits in units of 1e{exponent}, which the "
                "smallest quantities of the file need: give a greater --quantity-exponent",
                path=path,
                line=int(part.line[row]),
            )
        part.quantity *= factor
    return exponent


def _complete_symbols(flow: Flow) -> None:
    """Rows without a symbol, in a file that has symbols: the one last seen with the order's id."""
    if len(flow.symbols) < 2 or "" not in flow.symbols:
        return
    empty = flow.symbols.index("")
    last: dict[int, int] = {}
    orders, symbols = flow.order.tolist(), flow.symbol.tolist()
    for row, (order, symbol) in enumerate(zip(orders, symbols, strict=True)):
        if symbol != empty:
            last[order] = symbol
        else:
            symbols[row] = last.get(order, empty)
    flow.symbol = np.array(symbols, np.int32)


def assemble(path: str, chunks: Iterable[Events]) -> Flow:
    """All chunks of a file as one Flow, sorted stably by time. Raises InputError."""
    orders: dict[str, int] = {}
    symbols: dict[str, int] = {}
    skipped: dict[str, int] = {}
    parts: list[_Part] = []
    row_count = 0
    for events in chunks:
        row_count += len(events.kinds) + sum(events.dropped.values())
        _count_skipped(events, skipped)
        parts.append(_encode(events, orders, symbols))
    exponent = _to_common_exponent(path, parts)

    def joined(name: str, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
        arrays = [getattr(part, name) for part in parts]
        return np.concatenate(arrays) if arrays else np.zeros(0, dtype)

    t_ns = np.asarray(joined("t_ns", np.int64), np.int64)
    backwards = int(np.count_nonzero(t_ns[1:] < t_ns[:-1]))
    order = np.argsort(t_ns, kind="stable") if backwards else slice(None)
    flow = Flow(
        path=path,
        t_ns=t_ns[order],
        kind=np.asarray(joined("kind", np.uint8), np.uint8)[order],
        order=np.asarray(joined("order", np.int64), np.int64)[order],
        symbol=np.asarray(joined("symbol", np.int32), np.int32)[order],
        side=np.asarray(joined("side", np.uint8), np.uint8)[order],
        price=np.asarray(joined("price", np.int64), np.int64)[order],
        quantity=np.asarray(joined("quantity", np.int64), np.int64)[order],
        line=np.asarray(joined("line", np.int64), np.int64)[order],
        order_ids=list(orders),
        symbols=list(symbols),
        quantity_exponent=exponent,
        row_count=row_count,
        skipped=skipped,
        steps_back=backwards,
    )
    _complete_symbols(flow)
    return flow
