"""Strategy side of a session."""

from __future__ import annotations

import asyncio
import operator
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from rdmaorder import _core
from rdmaorder.errors import ConfigError, RdmaOrderError, Refused, SessionClosed
from rdmaorder.messages import (
    FATE_RECORD,
    SCHEMA_ID,
    SCHEMA_VERSION,
    Fate,
    Reason,
    Records,
    SessionEventKind,
)

__all__ = ["Session", "SessionEvent", "connect"]

_NS = 1_000_000_000
_SLOTS_MIN, _SLOTS_MAX = 8, 1 << 20
#: Code of the refusal to ask the gateway without a link.
_NO_LINK = "NotConnected"
_DEBUG_TIMEOUT_S = 3600.0
_DEBUG_BANNER = """\
************************************************************************
* rdmaorder: session {session} runs with DEBUG TIMEOUTS (hours): a
* gateway that is gone or hangs will NOT be noticed. Never trade like this.
************************************************************************"""
#: Sequences stay below this, so that no sum of two of them wraps.
_SEQUENCE_MAX = (1 << 63) - 1


@dataclass(frozen=True)
class SessionEvent:
    """Something that concerns the session and not one order."""

    kind: SessionEventKind
    reason: Reason
    from_sequence: int
    count: int
    time_ns: int


class Positions(NamedTuple):
    """How far the gateway is (order sequences): copied from the ring, taken, on stable storage."""

    consumed: int
    applied: int
    durable: int


class Session(_core.SessionCore):
    """An authenticated, sequenced flow to one gateway. Made by :func:`connect`.

    One thread at a time; a call from a second thread while one waits raises RuntimeError. The order
    calls (``new_order``, ``replace_order``, ``cancel_order``, ``mass_cancel``, their ``try_``
    forms, ``send_batch``, ``try_send_batch``) and ``poll`` are builtins of the native base class:
    ``help(Session.new_order)``. A call that raises has written nothing, but for a batch of which
    the exception's ``sent`` messages went.

    A session belongs to the process that made it. In a forked child it is dead: everything raises
    SessionClosed, and closing or dropping it leaves the parent's link alone.

    A context manager: leaving it closes the session.
    """

    _on_event: Callable[[SessionEvent], None] | None = None
    _clock: tuple[int, int] | None = None

    @property
    def next_sequence(self) -> int:
        """The sequence the next message gets. Sequences start at 1 and outlive the link."""
        return _core.session_next_sequence(self)

    @property
    def positions(self) -> Positions:
        """The gateway's newest positions."""
        return Positions(*_core.session_positions(self))

    def status(self) -> dict[str, Any]:
        """Facts: ``state`` (live, suspect, dead, closed) and its ``cause``, ``send_status``,
        transport, what was granted, positions, credits, counts. Over RDMA ``verbs`` has the device
        and what was granted, in it ``asked`` what was asked for."""
        offset_ns, bound_ns = self._clock or (None, None)
        clock = {"clock_offset_ns": offset_ns, "clock_bound_ns": bound_ns}
        return _core.session_status(self) | clock

    def measure_clock(self, timeout_s: float = 1.0) -> tuple[int, int]:
        """The gateway's CLOCK_REALTIME minus this one's and the bound of the error, in ns, by round
        trips over the control connection. A ``ttl_ns`` is as good as that. ``status()`` repeats the
        last result as ``clock_offset_ns`` and ``clock_bound_ns``."""
        self._clock = _core.session_measure_clock(self, _to_ns("timeout_s", timeout_s))
        return self._clock

    def events(self) -> list[SessionEvent]:
        """Session events that arrived since the last call, oldest first."""
        return [
            SessionEvent(SessionEventKind(kind), Reason(reason), from_sequence, count, time_ns)
            for kind, reason, from_sequence, count, time_ns in _core.session_events(self)
        ]

    def maintain(self, timeout_s: float = 0.05) -> bool:
        """One look at the session, for a strategy's loop: a dead link is replaced (reconnect, tried
        for ``timeout_s``), and each event is given to the ``on_event`` of :func:`connect`. True
        when the session can send. Never raises for a gateway that is not there; SessionClosed for a
        session that :meth:`close` ended."""
        if self.status()["state"] in ("dead", "closed"):
            try:
                self.reconnect(timeout_s)
            except SessionClosed:
                raise
            except RdmaOrderError:  # its cause is in status(); the next call tries again
                self.dispatch_events()
                return False
        self.dispatch_events()
        return bool(self.status()["send_status"] == "ok")

    def dispatch_events(self) -> int:
        """Gives each waiting event to ``on_event``; without one they stay for :meth:`events`."""
        if self._on_event is None:
            return 0
        waiting = self.events()
        for event in waiting:
            self._on_event(event)
        return len(waiting)

    async def event_stream(self, interval_s: float = 0.01) -> AsyncIterator[SessionEvent]:
        """Events as they come, looked for every ``interval_s``; ends when the session is closed.
        The session stays with the thread of the event loop."""
        while True:
            state = self.status()["state"]
            for event in self.events():
                yield event
            if state == "closed":
                return
            await asyncio.sleep(interval_s)

    def resolve(self, timeout_s: float = 5.0) -> Records:
        """The fate of every message sent without a report so far, of the last 65,536: FATE_RECORD
        array by sequence.

        The facts are those of the gateway's journal; a dead link is replaced first. NOT_APPLIED and
        ANSWERED are final answers; TAKEN means journalled and handed on, without a report yet.
        Raises what :meth:`reconnect` raises, and Refused when the gateway has no journal.
        """
        timeout_ns = _to_ns("timeout_s", timeout_s)
        try:
            raw = _core.session_resolve(self, timeout_ns)
        except Refused as error:
            if error.code != _NO_LINK:
                raise
            self.reconnect(timeout_s)
            raw = _core.session_resolve(self, timeout_ns)
        fates: Records = np.frombuffer(raw, FATE_RECORD).copy()
        return fates

    def orders(self, timeout_s: float = 5.0) -> Records:
        """The session's open orders and those whose outcome is not known: FATE_RECORD array.

        On a live link the gateway's journal is asked (whoever sent the orders: a strategy started
        anew gets those of the one before), and what it has not taken yet stands as NOT_TAKEN. On a
        dead one only the sequences without a report are known, as UNKNOWN.
        """
        timeout_ns = _to_ns("timeout_s", timeout_s)
        try:
            known = np.frombuffer(_core.session_open_orders(self, timeout_ns), FATE_RECORD)
            resolved = np.frombuffer(_core.session_resolve(self, timeout_ns), FATE_RECORD)
            waiting = resolved[resolved["fate"] == Fate.NOT_TAKEN]
            return np.concatenate([known, waiting])
        except Refused as error:
            if error.code != _NO_LINK:
                raise
        sequences = _core.session_unknown(self)
        unknown = np.zeros(len(sequences), FATE_RECORD)
        unknown["sequence"] = sequences
        return unknown

    def kill(self, timeout_s: float = 1.0) -> int:
        """Kill switch of the strategy: the gateway fences this link, cancels every order of the
        session and takes no link of it until an operator releases it (``rdmaorder kill
        --release``). Returns how many orders were cancelled."""
        return _core.session_kill(self, _to_ns("timeout_s", timeout_s))

    def wait(self, timeout_s: float) -> bool:
        """Waits until a report can be polled. False after the timeout, or when the link is over."""
        return _core.session_wait_readable(self, _to_ns("timeout_s", timeout_s))

    def wait_applied(self, sequence: int, timeout_s: float = 1.0, *, durable: bool = False) -> bool:
        """Waits until the gateway has taken order ``sequence`` (``durable``: has it on disk)."""
        return _core.session_wait_applied(
            self,
            _integer("sequence", sequence, 0, _SEQUENCE_MAX),
            _to_ns("timeout_s", timeout_s),
            durable,
        )

    def reconnect(self, timeout_s: float = 5.0) -> None:
        """Gives the session a new link (new epoch, windows and keys) and goes on where it was.

        Tries until the gateway takes it. Poll what has arrived first: without a journal the gateway
        cannot repeat it. Then: messages that were written and never applied are told by an event
        NOT_APPLIED; reports from the first one not yet polled on are replayed, their ``flags`` with
        FLAG_POSS_RESEND. Raises what :func:`connect` raises; the session is then dead and may try
        again. SessionClosed after :meth:`close`: make a new session.
        """
        _core.session_reconnect(self, _to_ns("timeout_s", timeout_s))

    def latency(self, *, reset: bool = False) -> _core.Histogram:
        """Times in ns from a send call to the poll that delivered the request's first report."""
        return _core.session_latency(self, reset)

    def close(self, timeout_s: float = 1.0) -> bool:
        """Ends the session's link for good. True when the gateway confirmed every message sent.

        Reports that have not been polled stay in the gateway's journal. Idempotent.
        """
        return _core.session_close(self, _to_ns("timeout_s", timeout_s))

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    url: str,
    session: str,
    *,
    order_slots: int = 256,
    report_slots: int = 1024,
    slot_bytes: int = 64,
    next_sequence: int = 0,
    next_report_sequence: int = 0,
    resume: bool = False,
    on_gap: str = "report",
    on_event: Callable[[SessionEvent], None] | None = None,
    debug: bool = False,
    connect_timeout_s: float = 5.0,
    send_timeout_s: float = 1.0,
    suspect_after_s: float = 0.02,
    dead_after_s: float = 2.0,
    huge_pages: str = "try",
    session_key: str = "",
    tls_ca: str = "",
    tls_certificate: str = "",
    tls_key: str = "",
    tls_name: str = "",
) -> Session:
    """Connects to the gateway at ``url`` and establishes ``session``.

    ``url``: ``shm:///path/to/socket``, or ``rdma://HOST:PORT`` with options after ``?``
    (``device``, ``port``, ``gid_index``, ``mtu`` …).

    ``session``: 1 to 64 characters of ``[A-Za-z0-9_.:-]``; its sequences continue where the gateway
    stands. ``order_slots``, ``report_slots``: ring sizes asked for, powers of two (``status()`` has
    those granted).
    ``next_sequence``: the sequence this strategy writes next if it knows, 0 to take the gateway's
    word. ``next_report_sequence``: the first report wanted; those made before are replayed from the
    gateway's journal, marked FLAG_POSS_RESEND, and those before it count as delivered. 0 takes only
    what comes, or with ``resume`` (for a strategy that was started anew) everything that no earlier
    link is known to have delivered.
    ``on_gap``: what :meth:`Session.reconnect` does about messages that were written and never
    applied: ``"report"`` tells, ``"resend"`` also sends them again under new sequences, marked
    FLAG_POSS_RESEND and with the staleness limit they had. ``on_event``: see
    :meth:`Session.maintain`. ``debug``: timeouts of an hour and more, for stepping through either
    side with a debugger, and a banner that says so.
    ``send_timeout_s``: how long a send waits while the ring is full. ``suspect_after_s``,
    ``dead_after_s``: silence of the gateway's heartbeat after which sends are refused, and after
    which the link is given up.

    ``session_key``: hex of the key shared with the gateway, 32 bytes or more; with one, the gateway
    has to prove that it knows it too. ``tls_ca``, ``tls_certificate``, ``tls_key``: PEM files for
    ``rdma://``: who signs the gateway's certificate, and the own certificate where the gateway asks
    for one. ``tls_name``: the name in the gateway's certificate if it is not the host.

    Raises ConfigError, SystemFailure (no such socket), ConnectTimeout, HandshakeError, Refused,
    TransportError (no RDMA device, no libibverbs …).
    """
    if on_gap not in ("report", "resend"):
        raise ConfigError(f'on_gap must be "report" or "resend", not {on_gap!r}')
    if on_event is not None and not callable(on_event):
        raise ConfigError(f"on_event must be a function of one SessionEvent, not {on_event!r}")
    if _flag("debug", debug):
        connect_timeout_s = send_timeout_s = suspect_after_s = _DEBUG_TIMEOUT_S
        dead_after_s = 2 * _DEBUG_TIMEOUT_S
        print(_DEBUG_BANNER.format(session=session), file=sys.stderr, flush=True)
    made = Session()
    made._on_event = on_event
    _core.session_connect(
        made,
        url=_text("url", url),
        session=_text("session", session),
        order_slots=_slot_count("order_slots", order_slots),
        report_slots=_slot_count("report_slots", report_slots),
        slot_bytes=_integer("slot_bytes", slot_bytes, 64, 4096),
        schema_id=SCHEMA_ID,
        schema_version=SCHEMA_VERSION,
        next_sequence=_integer("next_sequence", next_sequence, 0, _SEQUENCE_MAX),
        next_report_sequence=_integer(
            "next_report_sequence", next_report_sequence, 0, _SEQUENCE_MAX
        ),
        undelivered_reports=_flag("resume", resume),
        connect_timeout_ns=_to_ns("connect_timeout_s", connect_timeout_s),
        send_timeout_ns=_to_ns("send_timeout_s", send_timeout_s),
        suspect_after_ns=_to_ns("suspect_after_s", suspect_after_s),
        dead_after_ns=_to_ns("dead_after_s", dead_after_s),
        huge_pages=_text("huge_pages", huge_pages),
        session_key=_text("session_key", session_key),
        tls_ca=_text("tls_ca", tls_ca),
        tls_certificate=_text("tls_certificate", tls_certificate),
        tls_key=_text("tls_key", tls_key),
        tls_name=_text("tls_name", tls_name),
        resend_on_gap=on_gap == "resend",
    )
    return made


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, not {value!r}")
    return value


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {value!r}")
    return value


def _to_ns(name: str, seconds: float) -> int:
    try:
        good = 0 <= seconds <= 86_400  # False for NaN
    except TypeError:
        good = False
    if not good:
        raise ConfigError(f"{name} must be 0 .. 86400 seconds, not {seconds!r}")
    return int(seconds * _NS)


def _integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be an integer, not {value!r}") from None
    if not low <= number <= high:
        raise ConfigError(f"{name} must be {low} .. {high}, not {value!r}")
    return number


def _slot_count(name: str, value: SupportsIndex) -> int:
    count = _integer(name, value, _SLOTS_MIN, _SLOTS_MAX)
    if count & (count - 1):
        below = 1 << (count.bit_length() - 1)
        raise ConfigError(
            f"{name} must be a power of two, such as {below} or {below * 2}, not {value!r}"
        )
    return count
