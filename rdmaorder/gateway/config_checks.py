"""Checks of settings: value as written -> value as kept, or ValueError("<problem>; <remedy>")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rdmaorder.gateway.address import parse_address
from rdmaorder.gateway.authenticate import KEY_MIN_BYTES
from rdmaorder.gateway.protocol import SLOT_COUNT_MAX, SLOT_COUNT_MIN, is_session_name

__all__ = [
    "CANCEL_ON",
    "QUANTITY_MAX",
    "Check",
    "instruments",
    "integer",
    "one_of",
    "session_cancel",
    "session_key",
    "session_keys",
    "session_name",
    "sessions",
    "slot_count",
    "string",
    "uids",
    "urls",
]

_U32_MAX = (1 << 32) - 1
QUANTITY_MAX = (1 << 63) - 1
CANCEL_ON = ("never", "logout", "disconnect", "both")


Check = Callable[[Any], Any]


def string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError('is not a string; write it in quotes, not ""')
    if "\0" in value:
        raise ValueError("holds a NUL, which no name has; take it out")
    return value


def urls(value: Any) -> tuple[str, ...]:
    """One URL or a list of them."""
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError('is no URL; write "shm:///run/gw.sock" or ["shm:...", "rdma://..."]')
    for url in given:
        if url == "":
            raise ValueError('holds an empty address; write "shm:///run/gw.sock"')
        try:
            parse_address(string(url))
        except ValueError as error:
            shown = "" if len(given) == 1 else f"holds {url!r}, which "
            raise ValueError(f"{shown}{error}") from None
    if len(set(given)) != len(given):
        raise ValueError("holds an address twice; list each once")
    return tuple(given)


def integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"is not an integer; use {low} to {high}")
        if not low <= value <= high:
            raise ValueError(f"is out of range; use {low} to {high}")
        return value

    return check


def slot_count(value: Any) -> int:
    count: int = integer(SLOT_COUNT_MIN, SLOT_COUNT_MAX)(value)
    if count & (count - 1):
        below = 1 << (count.bit_length() - 1)
        raise ValueError(f"is not a power of two; use {below} or {below * 2}")
    return count


def one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError("is none of the choices; use " + ", ".join(map(repr, choices)))
        return str(value)

    return check


def _items(value: Any, example: str, absent: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"is not a list; write {example}")
    if not value:
        raise ValueError(f"is empty; leave the key out for {absent}, or write {example}")
    return list(value)


def session_name(value: Any) -> str:
    if not isinstance(value, str) or not is_session_name(value):
        raise ValueError(f"holds {value!r}; a name is 1 to 64 characters of A-Z a-z 0-9 _ . : -")
    return value


def sessions(value: Any) -> tuple[str, ...]:
    names = _items(value, '["alpha", "beta"]', "any session")
    for name in names:
        session_name(name)
    if len(set(names)) != len(names):
        raise ValueError("holds a name twice; list each once")
    return tuple(names)


def instruments(value: Any) -> tuple[tuple[int, int], ...]:
    """Ids and ranges to inclusive (first, last) pairs: sorted, overlaps and neighbours merged."""
    example = '[7, "100-200"]'
    pairs = []
    for item in _items(value, example, "every instrument"):
        if isinstance(item, int) and not isinstance(item, bool):
            first = last = item
        elif isinstance(item, (tuple, list)) and len(item) == 2:
            first, last = item
        else:
            parts = str(item).split("-")
            if not isinstance(item, str) or len(parts) > 2 or not all(map(_is_digits, parts)):
                raise ValueError(f"holds {item!r}; write {example}")
            first, last = int(parts[0]), int(parts[-1])
        if not 0 <= first <= last <= _U32_MAX:
            raise ValueError(f"holds {item!r}; ids are 0 to {_U32_MAX}, the lower one first")
        pairs.append((first, last))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(pairs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _is_digits(text: str) -> bool:
    text = text.strip()
    return text.isascii() and text.isdigit()


def uids(value: Any) -> tuple[int, ...]:
    check = integer(0, _U32_MAX - 1)
    return tuple(sorted({check(uid) for uid in _items(value, "[0, 1000]", "own uid and root")}))


def session_keys(value: Any) -> Mapping[str, bytes]:
    """Keys by session name, as bytes or hex. What is said about a bad one never repeats it."""
    if not isinstance(value, Mapping):
        raise ValueError("is not a mapping of session names to keys")
    return {session_name(name): session_key(key) for name, key in value.items()}


def session_cancel(value: Any) -> dict[str, tuple[str, int]]:
    if not isinstance(value, Mapping):
        raise ValueError('is no mapping; write {"alpha": ("disconnect", 1000)}')
    kept = {}
    for name, given in value.items():
        session_name(name)
        if not isinstance(given, (list, tuple)) or len(given) != 2:
            raise ValueError(f'holds {given!r} for {name!r}; write ("disconnect", 1000)')
        try:
            cancel_on = one_of(*CANCEL_ON)(given[0])
            kept[name] = (cancel_on, integer(0, 3_600_000)(given[1]))
        except ValueError as error:
            raise ValueError(f"holds {given!r} for {name!r}, which {error}") from None
    return kept


def session_key(value: Any) -> bytes:
    """Bytes of a key. The ValueError never repeats what was given."""
    if not isinstance(value, (str, bytes)):
        raise ValueError("is not a string; write it in quotes, in hex: openssl rand -hex 32")
    try:
        key = value if isinstance(value, bytes) else bytes.fromhex(value)
    except ValueError:
        raise ValueError("is not written in hex; make one with: openssl rand -hex 32") from None
    if len(key) < KEY_MIN_BYTES:
        raise ValueError(
            f"has {len(key)} bytes; a key has at least {KEY_MIN_BYTES}: openssl rand -hex 32"
        )
    return key
