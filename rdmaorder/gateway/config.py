"""gw.toml: the table ``[gateway]``, and ``[sessions.NAME]`` for sessions with a key of their own,
read into a checked, frozen ``GatewayConfig``.

Every key is optional and has its default here and nowhere else. A key nobody knows, a value of
another type or out of range is a ConfigError that names the file, the key, the value and what to
write instead.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rdmaorder.errors import ConfigError
from rdmaorder.gateway import config_checks as checks
from rdmaorder.gateway import protocol
from rdmaorder.gateway.address import Address, parse_address, parse_shm_url

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["GatewayConfig", "parse_shm_url"]

_log = logging.getLogger(__name__)


def _key(check: checks.Check, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """Settings of a gateway. None means "not set"; each comment says what then holds."""

    #: Address or list of them: shm:///absolute/path.sock, shm:relative.sock or
    #: rdma://HOST:PORT[?options]. Kept as a tuple. Unset: the command line must.
    listen: str | Sequence[str] | None = _key(checks.urls, None)
    #: TLS on rdma addresses: "on", or "off" for test networks.
    tls: str = _key(checks.one_of("on", "off"), "on")
    #: PEM file of the gateway's certificate, with the chain up to its CA. Needed for rdma with TLS.
    tls_certificate: str | None = _key(checks.string, None)
    #: PEM file of its private key, without a passphrase.
    tls_key: str | None = _key(checks.string, None)
    #: PEM file of the CA that signs strategies' certificates. Unset: none is asked for.
    tls_client_ca: str | None = _key(checks.string, None)
    #: Directory of the journal. Unset: nothing is journalled, nothing survives the process.
    journal: str | None = _key(checks.string, None)
    #: When the journal reaches stable storage: never asked for, every interval, every batch.
    sync: str = _key(checks.one_of("none", "interval", "batch"), "interval")
    #: Time between syncs of sync = "interval", in milliseconds.
    sync_interval_ms: int = _key(checks.integer(1, 60_000), 10)
    #: Size of a journal segment, in MiB.
    segment_mib: int = _key(checks.integer(1, 65_536), 64)
    #: "accept", "venue", "null" or "package.module:Class".
    handler: str = _key(checks.string, "accept")
    #: Path of the counters file. Unset: the gateway chooses one and says so.
    counters: str | None = _key(checks.string, None)
    #: Names that may have a session. Unset: any.
    sessions: tuple[str, ...] | None = _key(checks.sessions, None)
    #: Keys of sessions by name, bytes or hex of 32 bytes or more. In a file: [sessions.NAME].
    session_keys: Mapping[str, bytes] = dataclasses.field(
        default_factory=dict, repr=False, metadata={"check": checks.session_keys, "secret": True}
    )
    #: Instrument ids taken, as inclusive (first, last) pairs. Unset: every id.
    instruments: tuple[tuple[int, int], ...] | None = _key(checks.instruments, None)
    #: Largest quantity of one order, in the instrument's smallest unit. Unset: no limit.
    max_quantity: int | None = _key(checks.integer(1, checks.QUANTITY_MAX), None)
    #: New orders and replaces a session may send a second. Unset: no limit. Those above it are
    #: refused (throttled); cancels never are.
    max_orders_per_s: int | None = _key(checks.integer(1, 1_000_000_000), None)
    #: Orders that a session may send at once after a pause. Unset: a tenth of a second's.
    orders_burst: int | None = _key(checks.integer(1, 1_000_000_000), None)
    #: So many orders refused for their rate within a second end the link. Unset: never.
    throttle_disconnect: int | None = _key(checks.integer(1, 1 << 40), None)
    #: Slots at the end of each order ring that only cancels may use.
    cancel_reserve: int = _key(checks.integer(0, protocol.SLOT_COUNT_MAX // 2), 16)
    #: Slots of each order ring, a power of two. Unset: what the strategy asks for.
    order_slots: int | None = _key(checks.slot_count, None)
    #: Slots of each report ring, a power of two. Unset: what the strategy asks for.
    report_slots: int | None = _key(checks.slot_count, None)
    #: Sessions this gateway holds at most, live or not.
    max_sessions: int = _key(checks.integer(1, 65_536), 1024)
    #: What the receiver does between empty passes: "spin" keeps its core, for the lowest latency,
    #: "yield" lets others run, "backoff" sleeps 50 us at a time after 1 ms (shared machines).
    idle: str = _key(checks.one_of("spin", "yield", "backoff"), "spin")
    #: Processor the receiver is pinned to. Unset: not pinned.
    cpu: int | None = _key(checks.integer(0, 8191), None)
    #: Interval of the receiver's heartbeat, in microseconds.
    heartbeat_us: int = _key(checks.integer(10, 1_000_000), 1000)
    #: Time a strategy has for the whole handshake, in milliseconds.
    handshake_timeout_ms: int = _key(checks.integer(10, 600_000), 5000)
    #: User ids that may connect. Unset: the gateway's own and root.
    allowed_uids: tuple[int, ...] | None = _key(checks.uids, None)
    #: Huge pages for the order windows: never, where there are some, or not without.
    huge_pages: str = _key(checks.one_of("off", "try", "require"), "try")
    #: When a session's live orders are cancelled because its link ended: never, on "logout"
    #: (Terminate), on "disconnect" (the strategy or its host is gone), or "both".
    cancel_on: str = _key(checks.one_of(*checks.CANCEL_ON), "never")
    #: Time that a session has to come back before they are, in milliseconds.
    cancel_grace_ms: int = _key(checks.integer(0, 3_600_000), 1000)
    #: The same by session: (cancel_on, cancel_grace_ms). In a file: [sessions.NAME].
    session_cancel: Mapping[str, tuple[str, int]] = dataclasses.field(
        default_factory=dict, metadata={"check": checks.session_cancel}
    )
    #: ClOrdIDs the venue handler remembers.
    venue_max_orders: int = _key(checks.integer(1, 1 << 30), 1 << 20)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if value is None and entry.default is None:
                continue
            try:
                kept = entry.metadata["check"](value)
            except (ValueError, TypeError) as error:
                if entry.metadata.get("secret"):
                    raise ConfigError(f"[gateway] {entry.name}: {error}") from None
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
        if self.max_orders_per_s is None:
            for name in ("orders_burst", "throttle_disconnect"):
                if (value := getattr(self, name)) is not None:
                    raise ConfigError(
                        f"[gateway] {name} = {value}: limits nothing without max_orders_per_s; "
                        "set that too, or take it out"
                    )
        self._check_access()

    def _check_access(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError(
                "[gateway] tls_certificate and tls_key belong together; give both or none"
            )
        if self.tls == "off" and self.tls_client_ca is not None:
            raise ConfigError(
                f"[gateway] tls_client_ca = {self.tls_client_ca!r}: no certificate is asked for "
                'while tls = "off"; take one of them out'
            )
        known = self.known_sessions
        named = self.session_keys.keys() | self.session_cancel.keys()
        strangers = sorted(named - known) if known is not None else []
        if strangers and self.sessions is not None:
            raise ConfigError(
                f"[sessions.{strangers[0]}]: is not in sessions = {_shown(self.sessions)}; add it"
            )
        if strangers:
            raise ConfigError(
                f"[sessions.{strangers[0]}]: has no key, and without a list of sessions only those "
                "with a key may connect; give it one, or list the names: sessions = [...]"
            )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What to listen on, in the order given."""
        return tuple(parse_address(url) for url in self.listen or ())

    @property
    def known_sessions(self) -> frozenset[str] | None:
        """Names that may have a session, None: any. Without ``sessions``, keys name them."""
        if self.sessions is not None:
            return frozenset(self.sessions)
        return frozenset(self.session_keys) or None

    @property
    def all_keyed(self) -> bool:
        """No session can be had without a key."""
        known = self.known_sessions
        return known is not None and known <= self.session_keys.keys()

    def key_of(self, session: str) -> bytes | None:
        """Key of a session, None if it has none."""
        return self.session_keys.get(session)

    def cancel_of(self, session: str) -> tuple[str, int]:
        """When a session's orders are cancelled, and its grace time in milliseconds."""
        return self.session_cancel.get(session, (self.cancel_on, self.cancel_grace_ms))

    @property
    def listen_path(self) -> str | None:
        """Path of the first Unix socket, None if there is none."""
        return next((each.path for each in self.addresses if each.scheme == "shm"), None)

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
        except ValueError as error:  # also of text that is no UTF-8, and of Python's limits
            raise ConfigError(f"{path}: is not TOML: {error}") from error
        except RecursionError:
            raise ConfigError(f"{path}: is not TOML: nested too deeply") from None
        try:
            for name in document:
                _known(name, ("gateway", "sessions"), "table", document[name])
            table = document.get("gateway", {})
            if not isinstance(table, dict):
                raise ConfigError(f"gateway = {_shown(table)}: is not a table; write [gateway]")
            if "session_keys" in table:
                raise ConfigError(
                    "session_keys: keys stand in tables of their own; write "
                    '[sessions.NAME] and under it key = "..."'
                )
            tables = document.get("sessions", {})
            keys = _keys_of(tables)
            cancel = _cancel_of(tables, table)
            if keys and Path(path).stat().st_mode & 0o077:
                _log.warning("%s holds session keys and others may read it: chmod 600", path)
            extra: dict[str, Any] = {"session_keys": keys, "session_cancel": cancel}
            given = {name: value for name, value in extra.items() if value}
            return cls.from_mapping({**table, **given})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def with_overrides(self, **values: Any) -> GatewayConfig:
        """A copy with ``values`` in place of what the file said; None leaves a key as it is."""
        given = {key: value for key, value in values.items() if value is not None}
        for key, value in given.items():
            _known(key, _FIELD_NAMES, "key in [gateway]", value)
        return dataclasses.replace(self, **given)


_SESSION_KEYS: Final = frozenset({"key", "cancel_on", "cancel_grace_ms"})
_CHECKS: Final = {each.name: each.metadata["check"] for each in dataclasses.fields(GatewayConfig)}
_FIELD_NAMES: Final = tuple(_CHECKS)


def _keys_of(tables: Any) -> dict[str, bytes]:
    """Keys of the tables [sessions.NAME]. No message repeats a key."""
    if not isinstance(tables, dict):
        raise ConfigError("sessions: is not a table; write [sessions.NAME]")
    keys = {}
    for name, table in tables.items():
        if not isinstance(table, dict) or not table or set(table) - _SESSION_KEYS:
            raise ConfigError(
                f'[sessions.{name}]: holds something else than key = "...", cancel_on and '
                'cancel_grace_ms; a name with a dot goes into quotes: [sessions."a.b"]'
            )
        try:
            checks.session_name(name)
        except ValueError as error:
            raise ConfigError(f"[sessions]: {error}") from None
        if "key" not in table:
            continue
        try:
            keys[name] = checks.session_key(table["key"])
        except ValueError as error:
            raise ConfigError(f"[sessions.{name}] key: {error}") from None
    return keys


def _cancel_of(tables: Any, defaults: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """What the tables [sessions.NAME] say of cancels; what one leaves out is the gateway's."""
    cancel = {}
    for name, table in tables.items():
        for key in ("cancel_on", "cancel_grace_ms"):
            try:
                _CHECKS[key](table.get(key, getattr(GatewayConfig, key)))
            except ValueError as error:
                shown = _shown(table[key])
                raise ConfigError(f"[sessions.{name}] {key} = {shown}: {error}") from None
        if "cancel_on" in table or "cancel_grace_ms" in table:
            cancel[name] = (
                table.get("cancel_on", defaults.get("cancel_on", GatewayConfig.cancel_on)),
                table.get(
                    "cancel_grace_ms",
                    defaults.get("cancel_grace_ms", GatewayConfig.cancel_grace_ms),
                ),
            )
    return cancel


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # written in hex, TOML's integers have no limit; in decimal Python's do
        return "(a number of too many digits)"
    return text if len(text) <= 80 else text[:77] + "..."


def _known(key: str, names: tuple[str, ...], kind: str, value: Any) -> None:
    if key in names:
        return
    near = difflib.get_close_matches(key, names, 1)
    remedy = f"did you mean {near[0]}?" if near else "use one of " + ", ".join(names)
    # A misspelt table or key may hold a session's key, which no message repeats.
    secret = isinstance(value, Mapping) or "key" in key
    shown = key if secret else f"{key} = {_shown(value)}"
    raise ConfigError(f"{shown}: unknown {kind}; {remedy}")
