"""gw.toml: one table ``[gateway]``, read into a checked, frozen ``GatewayConfig``.

Every key is optional and has its default here and nowhere else. A key nobody knows, a value of
another type or out of range is a ConfigError that names the file, the key, the value and what to
write instead.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rdmaorder.errors import ConfigError
from rdmaorder.gateway.protocol import SLOT_COUNT_MAX, SLOT_COUNT_MIN, is_session_name
from rdmaorder.gateway.unix_socket import MAX_PATH_BYTES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["GatewayConfig", "parse_shm_url"]

_U32_MAX = (1 << 32) - 1
_QUANTITY_MAX = (1 << 63) - 1


def parse_shm_url(url: str) -> str:
    """Path of the Unix socket that ``url`` names. ValueError says what is wrong and what is right.

    >>> parse_shm_url("shm:///run/gw.sock"), parse_shm_url("shm:gw.sock")
    ('/run/gw.sock', 'gw.sock')
    """
    scheme, colon, path = url.partition(":")
    forms = "write shm:///absolute/path.sock or shm:relative.sock"
    if not colon or scheme != "shm":
        raise ValueError(f"is not an address of shared memory; {forms}")
    path = path.removeprefix("//")
    if not path or path.endswith("/"):
        raise ValueError(f"names no socket file; {forms}")
    if "\0" in path or "?" in path:
        raise ValueError(f"holds a character that no address takes (NUL or '?'); {forms}")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise ValueError(f"is longer than the {MAX_PATH_BYTES} bytes a socket path may have")
    return path


# Checks: value as written -> value as kept. ValueError("<problem>; <remedy>").
_Check = Callable[[Any], Any]


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError('is not a string; write it in quotes, not ""')
    return value


def _url(value: Any) -> str:
    parse_shm_url(_string(value))
    return str(value)


def _integer(low: int, high: int) -> _Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"is not an integer; use {low} to {high}")
        if not low <= value <= high:
            raise ValueError(f"is out of range; use {low} to {high}")
        return value

    return check


def _slot_count(value: Any) -> int:
    count: int = _integer(SLOT_COUNT_MIN, SLOT_COUNT_MAX)(value)
    if count & (count - 1):
        below = 1 << (count.bit_length() - 1)
        raise ValueError(f"is not a power of two; use {below} or {below * 2}")
    return count


def _one_of(*choices: str) -> _Check:
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


def _sessions(value: Any) -> tuple[str, ...]:
    names = _items(value, '["alpha", "beta"]', "any session")
    for name in names:
        if not isinstance(name, str) or not is_session_name(name):
            raise ValueError(f"holds {name!r}; a name is 1 to 64 characters of A-Z a-z 0-9 _ . : -")
    if len(set(names)) != len(names):
        raise ValueError("holds a name twice; list each once")
    return tuple(names)


def _instruments(value: Any) -> tuple[tuple[int, int], ...]:
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


def _uids(value: Any) -> tuple[int, ...]:
    check = _integer(0, _U32_MAX - 1)
    return tuple(sorted({check(uid) for uid in _items(value, "[0, 1000]", "own uid and root")}))


def _key(check: _Check, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """Settings of a gateway. None means "not set"; each comment says what then holds."""

    #: Address: shm:///absolute/path.sock or shm:relative.sock. Unset: the command line must.
    listen: str | None = _key(_url, None)
    #: Directory of the journal. Unset: nothing is journalled, nothing survives the process.
    journal: str | None = _key(_string, None)
    #: When the journal reaches stable storage: never asked for, every interval, every batch.
    sync: str = _key(_one_of("none", "interval", "batch"), "interval")
    #: Time between syncs of sync = "interval", in milliseconds.
    sync_interval_ms: int = _key(_integer(1, 60_000), 10)
    #: Size of a journal segment, in MiB.
    segment_mib: int = _key(_integer(1, 65_536), 64)
    #: "accept", "venue", "null" or "package.module:Class".
    handler: str = _key(_string, "accept")
    #: Path of the counters file. Unset: the gateway chooses one and says so.
    counters: str | None = _key(_string, None)
    #: Names that may have a session. Unset: any.
    sessions: tuple[str, ...] | None = _key(_sessions, None)
    #: Instrument ids taken, as inclusive (first, last) pairs. Unset: every id.
    instruments: tuple[tuple[int, int], ...] | None = _key(_instruments, None)
    #: Largest quantity of one order, in the instrument's smallest unit. Unset: no limit.
    max_quantity: int | None = _key(_integer(1, _QUANTITY_MAX), None)
    #: Slots at the end of each order ring that only cancels may use.
    cancel_reserve: int = _key(_integer(0, SLOT_COUNT_MAX // 2), 16)
    #: Slots of each order ring, a power of two. Unset: what the strategy asks for.
    order_slots: int | None = _key(_slot_count, None)
    #: Slots of each report ring, a power of two. Unset: what the strategy asks for.
    report_slots: int | None = _key(_slot_count, None)
    #: Sessions this gateway holds at most, live or not.
    max_sessions: int = _key(_integer(1, 65_536), 1024)
    #: What the receiver does between empty passes: "spin" keeps its core, for the lowest latency,
    #: "yield" lets others run, "backoff" sleeps 50 us at a time after 1 ms (shared machines).
    idle: str = _key(_one_of("spin", "yield", "backoff"), "spin")
    #: Processor the receiver is pinned to. Unset: not pinned.
    cpu: int | None = _key(_integer(0, 8191), None)
    #: Interval of the receiver's heartbeat, in microseconds.
    heartbeat_us: int = _key(_integer(10, 1_000_000), 1000)
    #: Time a strategy has for the whole handshake, in milliseconds.
    handshake_timeout_ms: int = _key(_integer(10, 600_000), 5000)
    #: User ids that may connect. Unset: the gateway's own and root.
    allowed_uids: tuple[int, ...] | None = _key(_uids, None)
    #: Huge pages for the order windows: never, where there are some, or not without.
    huge_pages: str = _key(_one_of("off", "try", "require"), "try")
    #: ClOrdIDs the venue handler remembers.
    venue_max_orders: int = _key(_integer(1, 1 << 30), 1 << 20)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if value is None and entry.default is None:
                continue
            try:
                kept = entry.metadata["check"](value)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"[gateway] {entry.name} = {_shown(value)}: {error}") from None
            object.__setattr__(self, entry.name, kept)
        if self.order_slots is not None and self.cancel_reserve >= self.order_slots:
            raise ConfigError(
                f"[gateway] cancel_reserve = {self.cancel_reserve}: leaves no slot for orders; "
                f"use less than order_slots = {self.order_slots}"
            )
        if self.sessions is not None and len(self.sessions) > self.max_sessions:
            raise ConfigError(
                f"[gateway] max_sessions = {self.max_sessions}: fewer than the "
                f"{len(self.sessions)} names in sessions; raise it"
            )

    @property
    def listen_path(self) -> str | None:
        """Path of the Unix socket, None while ``listen`` is not set."""
        return None if self.listen is None else parse_shm_url(self.listen)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GatewayConfig:
        """Config from the keys of one ``[gateway]`` table."""
        for key in values:
            _known(key, _FIELD_NAMES, "key in [gateway]", values[key])
        return cls(**values)

    @classmethod
    def from_file(cls, path: str) -> GatewayConfig:
        """Reads ``path``. Every problem is a ConfigError that begins with it."""
        try:
            with Path(path).open("rb") as file:
                document = tomllib.load(file)
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}); check the path given to --config"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not TOML: {error}") from error
        try:
            for name in document:
                _known(name, ("gateway",), "table", document[name])
            table = document.get("gateway", {})
            if not isinstance(table, dict):
                raise ConfigError(f"gateway = {_shown(table)}: is not a table; write [gateway]")
            return cls.from_mapping(table)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def with_overrides(self, **values: Any) -> GatewayConfig:
        """A copy with ``values`` in place of what the file said; None leaves a key as it is."""
        given = {key: value for key, value in values.items() if value is not None}
        try:
            for key, value in given.items():
                _known(key, _FIELD_NAMES, "key in [gateway]", value)
            return dataclasses.replace(self, **given)
        except ConfigError as error:
            raise ConfigError(f"command line: {error}") from None


_FIELD_NAMES: Final = tuple(entry.name for entry in dataclasses.fields(GatewayConfig))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _known(key: str, names: tuple[str, ...], kind: str, value: Any) -> None:
    if key in names:
        return
    near = difflib.get_close_matches(key, names, 1)
    remedy = f"did you mean {near[0]}?" if near else "use one of " + ", ".join(names)
    raise ConfigError(f"{key} = {_shown(value)}: unknown {kind}; {remedy}")
