"""Exact decimal numbers to scaled integers and back; import from ``rdmaorder.messages``."""

from __future__ import annotations

import operator
import re
from decimal import Decimal
from typing import Final, SupportsIndex

from rdmaorder._values import NO_PRICE, PRICE_EXPONENT
from rdmaorder.errors import InputError

__all__ = ["format_price", "price", "scale_decimal"]

_DECIMAL_TEXT: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_TEXT_LENGTH_MAX: Final = 128
_INT64_MAX: Final = 2**63 - 1
_EXPONENT_MAX: Final = 18


def _parse_decimal(value: str | SupportsIndex | Decimal, what: str) -> tuple[int, int]:
    """The value as (integer, power of ten), exactly."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _TEXT_LENGTH_MAX or not _DECIMAL_TEXT.fullmatch(text):
            raise InputError(f"{what} {value[:40]!r} is not a decimal number such as '101.25'")
        value = Decimal(text)
    if isinstance(value, Decimal):
        sign, digits, power = value.as_tuple()
        if not isinstance(power, int) or len(digits) > _TEXT_LENGTH_MAX:
            raise InputError(f"{what} {str(value)[:40]!r} is not a finite decimal number")
        magnitude = int("".join(map(str, digits)))
        return (-magnitude if sign else magnitude), power
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            f"{what} {value!r} is a {type(value).__name__}: pass a string or a Decimal, "
            "for example '101.25' (binary floating point cannot hold most decimal fractions)"
        )
    return operator.index(value), 0


def _scale(value: str | SupportsIndex | Decimal, exponent: int, what: str) -> int:
    if not isinstance(exponent, int):
        raise TypeError(f"exponent must be an integer such as -8, not {exponent!r}")
    if not -_EXPONENT_MAX <= exponent <= _EXPONENT_MAX:
        raise InputError(f"exponent {exponent} is outside -{_EXPONENT_MAX} .. {_EXPONENT_MAX}")
    number, power = _parse_decimal(value, what)
    shift = power - exponent
    scaled: int
    if number == 0:
        return 0
    if shift >= 0:
        # 10**19 is out of range by itself: no need to build larger powers.
        scaled = number * 10 ** min(shift, 19)
    else:
        divisor = 10 ** min(-shift, _TEXT_LENGTH_MAX + 1)  # longer than any accepted number
        scaled, remainder = divmod(number, divisor)
        if remainder:
            raise InputError(
                f"{what} {str(value)!r} is not a whole multiple of 1e{exponent}: "
                "round it to the instrument's precision first"
            )
    if not -_INT64_MAX <= scaled <= _INT64_MAX:
        low, high = (_plain(bound, exponent) for bound in (-_INT64_MAX, _INT64_MAX))
        raise InputError(f"{what} {str(value)[:40]!r} is outside {low} .. {high}")
    return scaled


def _plain(number: int, exponent: int) -> str:
    """``number * 10**exponent`` without an exponent and without needless zeros."""
    if exponent >= 0:
        return str(number * 10**exponent)
    whole, fraction = divmod(abs(number), 10**-exponent)
    digits = f"{fraction:0{-exponent}d}".rstrip("0")
    return f"{'-' if number < 0 else ''}{whole}{'.' if digits else ''}{digits}"


def scale_decimal(value: str | SupportsIndex | Decimal, exponent: int) -> int:
    """The integer that counts 10**exponent units in ``value``, exactly.

    ``scale_decimal("0.5", -8) == 50_000_000``. For quantities of instruments that trade in decimal
    fractions. Raises InputError for text that is no decimal number, for more decimals than the
    exponent allows (zeros aside) and for results beyond int64; TypeError for a float.
    """
    return _scale(value, exponent, "value")


def price(value: str | SupportsIndex | Decimal) -> int:
    """The wire mantissa (units of 10**-9) of a price given as text, Decimal or whole number.

    ``price("101.25") == 101_250_000_000`` and ``price(101) == 101_000_000_000``. Never goes through
    binary floating point: a float is refused with TypeError. Raises InputError for text that is no
    decimal number, for more than 9 decimals (zeros aside) and beyond +-9223372036.854775807.
    """
    return _scale(value, PRICE_EXPONENT, "price")


def format_price(mantissa: SupportsIndex) -> str:
    """The shortest exact text of a mantissa: ``price(format_price(m)) == m``.

    NO_PRICE, which is no number, gives ``"none"`` (and ``price("none")`` is refused).
    """
    number: int = operator.index(mantissa)
    if number == NO_PRICE:
        return "none"
    if not -_INT64_MAX <= number <= _INT64_MAX:
        raise InputError(f"price mantissa {number} does not fit 64 bits")
    return _plain(number, PRICE_EXPONENT)
