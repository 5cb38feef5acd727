"""Columns of decimal text to integer arrays, exactly and fast.

Each distinct text of a column is converted once; nothing passes through binary floating point.
Everything here raises BadValue with the row of the first text that cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from rdmaorder.errors import InputError
from rdmaorder.messages import NO_PRICE, PRICE_EXPONENT, price, scale_decimal

__all__ = [
    "QUANTITY_DECIMALS_MAX",
    "BadValue",
    "Int64Array",
    "first_row",
    "integers",
    "prices",
    "quantities",
    "scaled",
]

Int64Array = npt.NDArray[np.int64]

#: an exponent below -18 leaves no room for the number 10 in 64 bits
QUANTITY_DECIMALS_MAX = 18

_INT64_MAX = 2**63 - 1
_PLAIN = re.compile(r"([+-]?\d{1,20})(?:\.(\d{0,20}))?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)


class BadValue(Exception):
    """``row`` of a column (counted from 0) holds something unusable.

    A finding that the caller, who knows file and line, turns into an InputError.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def first_row(column: Sequence[str], texts: set[str] | dict[str, str]) -> int:
    """Row of the first entry of ``column`` that is one of ``texts``."""
    return next(row for row, text in enumerate(column) if text in texts)


def _convert(column: Sequence[str], convert: Callable[[str], int]) -> Int64Array:
    """``convert`` applied to each distinct text; ValueErrors become one BadValue."""
    table: dict[str, int] = {}
    problems: dict[str, str] = {}
    for text in set(column):
        try:
            table[text] = convert(text)
        except ValueError as error:
            problems[text] = str(error)
    if problems:
        row = first_row(column, problems)
        raise BadValue(row, problems[column[row]])
    return np.fromiter(map(table.__getitem__, column), np.int64, len(column))


def integers(column: Sequence[str], what: str) -> Int64Array:
    """A column of integers, each within 64 bits."""

    def convert(text: str) -> int:
        stripped = text.strip()
        if not _INTEGER.fullmatch(stripped):
            raise ValueError(f"{what} {text[:40]!r} is not an integer")
        number = int(stripped)
        if not -_INT64_MAX <= number <= _INT64_MAX:
            raise ValueError(f"{what} {text[:40]!r} does not fit 64 bits")
        return number

    joined = "".join(column)
    if joined.isascii() and joined.isdigit():  # the usual case: nothing to find
        try:
            return np.fromiter(map(int, column), np.int64, len(column))
        except (ValueError, OverflowError):  # an empty text, or one beyond 64 bits: say where
            pass
    return _convert(column, convert)


def _plain(text: str, exponent: int) -> int | None:
    """Value of plain decimal text in units of 10**exponent; None: let the slow path judge."""
    match = _PLAIN.fullmatch(text)
    if match is None:
        return None
    whole, fraction = match.group(1), match.group(2) or ""
    if len(fraction) > -exponent:
        if fraction[-exponent:].strip("0"):
            return None
        fraction = fraction[:-exponent]
    number = int(whole + fraction.ljust(-exponent, "0"))
    return number if -_INT64_MAX <= number <= _INT64_MAX else None


def scaled(column: Sequence[str], exponent: int, what: str) -> Int64Array:
    """A column of decimals in units of 10**exponent (at most 0); each must be representable."""

    def convert(text: str) -> int:
        number = _plain(text, exponent)
        if number is not None:
            return number
        try:
            return scale_decimal(text, exponent)
        except InputError as error:
            raise ValueError(str(error).replace("value", what, 1)) from None

    return _convert(column, convert)


def prices(column: Sequence[str]) -> Int64Array:
    """A column of prices as wire mantissas; an empty one is NO_PRICE."""

    def convert(text: str) -> int:
        number = _plain(text, PRICE_EXPONENT)
        if number is not None:
            return number
        return price(text) if text.strip() else NO_PRICE

    return _convert(column, convert)


def _decimals(text: str) -> int:
    """How many decimals the number needs, zeros at the end aside."""
    match = _PLAIN.fullmatch(text)
    if match is not None:
        return len((match.group(2) or "").rstrip("0"))
    try:
        power = Decimal(text.strip()).normalize().as_tuple().exponent
    except ArithmeticError:  # not a number: scaling will say so
        return 0
    return max(0, -power) if isinstance(power, int) else 0


def quantities(column: Sequence[str], exponent: int | None) -> tuple[Int64Array, int]:
    """A column of quantities and the exponent they are in.

    ``exponent`` None: the greatest one (at most 0) that represents every quantity of the column.
    Empty text is 0.
    """
    filled = [text or "0" for text in column]
    if exponent is None:
        needed = {text: _decimals(text) for text in set(filled)}
        decimals = max(needed.values(), default=0)
        if decimals > QUANTITY_DECIMALS_MAX:
            too_fine = {text for text, count in needed.items() if count > QUANTITY_DECIMALS_MAX}
            row = first_row(filled, too_fine)
            raise BadValue(
                row,
                f"quantity {filled[row][:40]!r} has more than {QUANTITY_DECIMALS_MAX} decimals",
            )
        exponent = -decimals
    return scaled(filled, exponent, "quantity"), exponent
