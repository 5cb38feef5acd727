"""Negotiate and Establish on the gateway's side: from a connection to a link, or to a refusal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from rdmaorder.errors import ConfigError, HandshakeError, RdmaOrderError, Refused, TransportError
from rdmaorder.gateway import authenticate, protocol
from rdmaorder.gateway.channel import Channel, Frame
from rdmaorder.gateway.config import GatewayConfig
from rdmaorder.gateway.operations import OPERATOR_REQUESTS, OperatorRequestError
from rdmaorder.gateway.protocol import (
    Authenticate,
    Endpoint,
    Establish,
    Established,
    Negotiate,
    ProtocolError,
    RemoteWindow,
    WindowGeometry,
)
from rdmaorder.gateway.tcp_socket import TcpChannel
from rdmaorder.gateway.unix_socket import window_problem

__all__ = ["HALF_OPEN_MAX", "ControlCore", "Handshake", "Link", "Session"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
#: Connections that have not established yet; a further one waits, or takes a laggard's place.
HALF_OPEN_MAX = 64
_DETACH_THREADS = 16


class ControlCore(Protocol):
    """What the control plane needs of the core. Every method may block. ``attach_*`` and ``detach``
    are called from several threads and beside the others, of one session one at a time; the others
    from one thread."""

    def open_session(
        self,
        name: str,
        slot_bytes: int,
        order_slot_count: int,
        report_slot_count: int,
        schema_id: int,
        schema_version: int,
    ) -> dict[str, Any]:
        """Makes or finds the session. Keys: session_index, live, next_order_sequence,
        next_report_sequence, slot_bytes, order_slot_count, report_slot_count,
        cancel_reserve_count, heartbeat_interval_ns, and undelivered_report_sequence where the core
        can replay reports. Raises Refused or ConfigError."""
        ...

    def attach_shm(
        self,
        session_index: int,
        report_fd: int,
        report_window: dict[str, int],
        next_order_sequence: int,
        next_report_sequence: int,
    ) -> dict[str, Any]:
        """Begins a link; duplicates ``report_fd``. Keys: epoch, fd (the caller's, who closes it),
        window, next_order_sequence, next_report_sequence, not_applied_count. Raises Refused, or
        HandshakeError for a window it cannot map."""
        ...

    def attach_rdma(
        self,
        session_index: int,
        endpoint: dict[str, Any],
        window: dict[str, int],
        next_order_sequence: int,
        next_report_sequence: int,
        local_address: str,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Makes an endpoint on the device of ``local_address`` (IP of the control connection) or of
        ``options`` (those of the URL listened on), connects it to ``endpoint`` (qp_number,
        packet_sequence, gid of 16 bytes, lid, mtu_bytes) and begins a link that reads the order
        ring but writes nothing into ``window`` (bytes, offset_bytes, slot_bytes, slot_count,
        address, key) until activate(). Keys: epoch, endpoint, data_in_order, window,
        next_order_sequence, next_report_sequence, not_applied_count. Raises Refused, TransportError
        or HandshakeError for an endpoint that cannot be connected, or ConfigError."""
        ...

    def activate(self, session_index: int, epoch: int, data_in_order: bool) -> None:
        """The strategy is ready to receive: the link may be written to. ``data_in_order``: its
        device makes the bytes of a WRITE visible in ascending order."""
        ...

    def detach(self, session_index: int, epoch: int, drain: bool) -> dict[str, Any]:
        """Ends a link, with ``drain`` after all that is in the order ring was taken. Keys:
        last_order_sequence, last_report_sequence. Its wait is bounded by the core."""
        ...


@dataclass
class Session:
    """A session the core knows, and the connection that has its link now (None: nobody)."""

    name: str
    owner: Channel | None = None
    #: The link is being taken down; ``released`` is set when that is done.
    ending: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def claim(self, channel: Channel) -> None:
        self.owner = channel
        self.released.clear()

    def free(self) -> None:
        self.owner, self.ending = None, False
        self.released.set()


@dataclass
class Link:
    session: Session
    session_index: int
    epoch: int
    #: Last order sequence applied, once the link was detached.
    last_sequence: int = 0


class Handshake:
    """The two steps, and the end of what they began. Knows every session; one event loop."""

    def __init__(self, core: ControlCore, config: GatewayConfig, gateway_version: str) -> None:
        self._core = core
        self._config = config
        self._version = gateway_version
        self._sessions: dict[str, Session] = {}
        self._opening: set[str] = set()
        self._setup_pool = ThreadPoolExecutor(1, "rdmaorder-setup")
        # To connect to an address that nobody answers for takes seconds: a thread for each.
        self._attach_pool = ThreadPoolExecutor(HALF_OPEN_MAX, "rdmaorder-attach")
        self._detach_pool = ThreadPoolExecutor(_DETACH_THREADS, "rdmaorder-detach")

    def close(self) -> None:
        """Ends the worker threads; nothing may be under way."""
        self._setup_pool.shutdown(wait=False)
        self._attach_pool.shutdown(wait=False)
        self._detach_pool.shutdown(wait=False)

    # -- Negotiate -----------------------------------------------------------------------------

    async def negotiate(
        self, channel: Channel, deadline_s: float, allowed: bool
    ) -> tuple[Session, int]:
        """Reads Negotiate and answers it. Returns the session and its index in the core. Without
        ``allowed`` the peer may ask as an operator, and have no session."""
        message = await self._receive_plain(channel, deadline_s, "Negotiate")
        if channel.transport == "shm" and protocol.message_type(message) in OPERATOR_REQUESTS:
            raise OperatorRequestError(message)
        if not allowed:
            raise ProtocolError("Credentials", f"uid {channel.peer_uid} is not allowed here")
        asked = Negotiate.from_message(message, self._version, channel.transport)
        self._check_known(asked.session)
        proof = await self._authenticate(channel, asked.session, deadline_s)
        await self._check_free(asked.session, deadline_s)
        granted = await self._open_session(asked)
        answer = {"type": "NegotiationResponse", "gateway_version": self._version}
        answer |= {key: granted[key] for key in _RESPONSE_KEYS} | {"pid": os.getpid()} | proof
        if "undelivered_report_sequence" in granted:
            answer["undelivered_report_sequence"] = granted["undelivered_report_sequence"]
        await channel.send(protocol.encode_frame(answer))
        return self._sessions[asked.session], int(granted["session_index"])

    @staticmethod
    async def _receive_plain(channel: Channel, deadline_s: float, kind: str) -> dict[str, Any]:
        """The next message, which carries no descriptor."""
        with await channel.receive(deadline_s) as frame:
            if frame.descriptors or frame.excess:
                raise ProtocolError("BadRequest", f"{kind} carries no descriptor")
            return protocol.decode_body(frame.body)

    def _check_known(self, name: str) -> None:
        known = self._config.known_sessions
        if known is not None and name not in known:
            raise ProtocolError("UnknownSession", f"session {name!r} is not configured here")

    async def _authenticate(
        self, channel: Channel, name: str, deadline_s: float
    ) -> dict[str, bytes]:
        """Demands proof of the session's key, if it has one. Returns the gateway's own proof, as
        keys of the answer. Before it nothing is said about the session."""
        key = self._config.key_of(name)
        if key is None:
            return {}
        nonce = authenticate.new_nonce()
        await channel.send(protocol.encode_frame({"type": "Challenge", "nonce": nonce}))
        message = await self._receive_plain(channel, deadline_s, "Authenticate")
        answer = Authenticate.from_message(message)
        over = authenticate.ProofInput(name, nonce, answer.client_nonce, channel.binding())
        if not authenticate.is_same(answer.mac, authenticate.client_proof(key, over)):
            raise ProtocolError(
                "Credentials",
                f"the proof for session {name!r} is wrong: its key differs from the one in "
                f"[sessions.{name}]",
            )
        return {"mac": authenticate.gateway_proof(key, over)}

    async def _check_free(self, name: str, deadline_s: float) -> None:
        """Raises unless ``name`` may have a link now. A link that is just ending is waited for."""
        session = self._sessions.get(name)
        if session is None:
            if len(self._sessions.keys() | self._opening | {name}) > self._config.max_sessions:
                raise ProtocolError(
                    "TooManySessions", f"this gateway holds {self._config.max_sessions} sessions"
                )
            return
        if session.ending:
            remaining_s = deadline_s - asyncio.get_running_loop().time()
            with contextlib.suppress(asyncio.TimeoutError):  # still draining: the answer is true
                await asyncio.wait_for(session.released.wait(), max(remaining_s, 0))
        if session.owner is not None:
            raise ProtocolError(
                "DuplicateId",
                f"session {name!r} is live on another connection ({session.owner.peer})",
            )

    async def _open_session(self, asked: Negotiate) -> dict[str, Any]:
        self._opening.add(asked.session)
        try:
            granted = await self._ask_core(
                "Negotiate",
                lambda: self._core.open_session(
                    asked.session,
                    asked.slot_bytes,
                    self._config.order_slots or asked.order_slot_count,
                    self._config.report_slots or asked.report_slot_count,
                    asked.schema_id,
                    asked.schema_version,
                ),
            )
            self._sessions.setdefault(asked.session, Session(asked.session))
        finally:
            self._opening.discard(asked.session)
        if granted["live"]:
            raise ProtocolError("DuplicateId", f"session {asked.session!r} is live already")
        return granted

    # -- Establish -----------------------------------------------------------------------------

    async def establish(
        self, channel: Channel, session: Session, session_index: int, deadline_s: float
    ) -> Link:
        """Reads Establish, attaches the window and answers. The session is then ``channel``'s."""
        with await channel.receive(deadline_s) as frame:
            asked = self._check_establish(channel, frame, session)
            session.claim(channel)
            try:
                unattached = Link(session, session_index, 0)
                if isinstance(channel, TcpChannel):
                    return await self._attach_rdma(channel, unattached, asked)
                return await self._attach_shm(channel, unattached, asked, frame)
            except BaseException:
                session.free()
                raise

    @staticmethod
    def _check_establish(channel: Channel, frame: Frame, session: Session) -> Establish:
        asked = Establish.from_message(protocol.decode_body(frame.body), channel.transport)
        if asked.session != session.name:
            raise ProtocolError(
                "Unnegotiated", f"{session.name!r} was negotiated, not {asked.session!r}"
            )
        if channel.transport == "shm":
            if len(frame.descriptors) != 1 or frame.excess:
                raise ProtocolError(
                    "BadRequest", "Establish carries exactly one descriptor, that of its window"
                )
            problem = window_problem(frame.descriptors[0], asked.window)
            if problem is not None:
                raise ProtocolError("BadWindow", problem)
        if session.owner is not None:
            raise ProtocolError(
                "AlreadyEstablished",
                f"session {session.name!r} was established by {session.owner.peer}",
            )
        return asked

    async def _attach_shm(
        self, channel: Channel, unattached: Link, asked: Establish, frame: Frame
    ) -> Link:
        session, session_index = unattached.session, unattached.session_index
        attached = await self._ask_core(
            "Establish",
            lambda: self._core.attach_shm(
                session_index,
                frame.descriptors[0],
                asked.window.as_map(),
                asked.next_order_sequence,
                asked.next_report_sequence,
            ),
            self._attach_pool,
        )
        link = Link(session, session_index, int(attached["epoch"]))
        try:
            window = WindowGeometry(**attached["window"]).as_map()
            answer = {"type": "EstablishmentAck"} | {key: attached[key] for key in _ACK_KEYS}
            await channel.send(
                protocol.encode_frame(answer | {"window": window}), int(attached["fd"])
            )
        except BaseException:
            await self.detach(link, drain=True)
            raise
        finally:
            os.close(int(attached["fd"]))
        return link

    async def _attach_rdma(self, channel: TcpChannel, unattached: Link, asked: Establish) -> Link:
        session, session_index = unattached.session, unattached.session_index
        endpoint, window = asked.endpoint, asked.remote_window
        assert endpoint is not None
        assert window is not None
        attached = await self._ask_core(
            "Establish",
            lambda: self._core.attach_rdma(
                session_index,
                endpoint.as_map(),
                window.as_map(),
                asked.next_order_sequence,
                asked.next_report_sequence,
                channel.local_address,
                dict(channel.options),
            ),
            self._attach_pool,
        )
        link = Link(session, session_index, int(attached["epoch"]))
        try:
            answer = {"type": "EstablishmentAck"} | {key: attached[key] for key in _ACK_KEYS}
            answer["window"] = RemoteWindow.from_map(attached["window"]).as_map()
            answer["endpoint"] = Endpoint.from_map(attached["endpoint"]).as_map()
            answer["data_in_order"] = int(attached["data_in_order"])
            await channel.send(protocol.encode_frame(answer))
        except BaseException:
            await self.detach(link, drain=True)
            raise
        return link

    async def activate(self, channel: Channel, link: Link, deadline_s: float) -> None:
        """Over RDMA: waits until the strategy says Established, and lets the link be written to.
        What it raises has ended the link."""
        if channel.transport != "rdma":
            return
        try:
            message = await self._receive_plain(channel, deadline_s, "Established")
            said = Established.from_message(message)
            if said.epoch != link.epoch:
                text = f"epoch {said.epoch} is not this link's, {link.epoch}"
                raise ProtocolError("BadRequest", text)
            await self._ask_core(
                "Establish",
                lambda: self._core.activate(link.session_index, link.epoch, said.data_in_order),
            )
        except BaseException:
            # With what is in the ring: the strategy may have written before it was lost.
            link.last_sequence = await self.detach(link, drain=True)
            link.session.free()
            raise

    async def _ask_core(
        self, step: str, call: Callable[[], _T], pool: ThreadPoolExecutor | None = None
    ) -> _T:
        """Runs ``call`` in ``pool``, else in the set-up thread, which no peer's network holds up;
        what it raises becomes a refusal of ``step``."""
        establishing = step == "Establish"
        codes = (
            protocol.ESTABLISHMENT_REJECT_CODES
            if establishing
            else protocol.NEGOTIATION_REJECT_CODES
        )
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool or self._setup_pool, call)
        except Refused as error:
            code = error.code if error.code in codes else "Unspecified"
            raise ProtocolError(code, str(error)) from error
        except ConfigError as error:
            raise ProtocolError("BadRequest", str(error)) from error
        except TransportError as error:
            raise ProtocolError(
                "BadEndpoint" if establishing else "Unspecified", str(error)
            ) from error
        except HandshakeError as error:
            raise ProtocolError(
                "BadWindow" if establishing else "Unspecified", str(error)
            ) from error
        except (RdmaOrderError, OSError, MemoryError) as error:
            raise ProtocolError("Unspecified", str(error)) from error

    # -- the end of a link ---------------------------------------------------------------------

    async def detach(self, link: Link, drain: bool) -> int:
        """Takes the link out of the core. Returns the last order sequence it applied, 0 if the
        core failed (logged); the session stays claimed until ``session.free()``."""
        link.session.ending = True
        loop = asyncio.get_running_loop()
        try:
            positions = await loop.run_in_executor(
                self._detach_pool,
                lambda: self._core.detach(link.session_index, link.epoch, drain),
            )
        except Exception:
            _log.exception("control: session %s: detach failed", link.session.name)
            return 0
        return int(positions["last_order_sequence"])


_RESPONSE_KEYS = (
    "session_index",
    "next_order_sequence",
    "next_report_sequence",
    "slot_bytes",
    "order_slot_count",
    "report_slot_count",
    "cancel_reserve_count",
    "heartbeat_interval_ns",
)
_ACK_KEYS = ("epoch", "next_order_sequence", "next_report_sequence", "not_applied_count")
