"""Server half of the control plane: listening, accepting, and watching links until they end.

One asyncio task per connection. It talks to the peer under the handshake deadline and to the core
in worker threads, so that neither a slow peer nor a draining ring holds up anybody else. After
establishment the socket is only watched: it is the sign of life of the strategy's process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdmaorder.errors import ConfigError
from rdmaorder.gateway import protocol
from rdmaorder.gateway.channel import Channel, PeerGoneError, PeerTooSlowError
from rdmaorder.gateway.config import GatewayConfig
from rdmaorder.gateway.handshake import HALF_OPEN_MAX, ControlCore, Handshake, Link
from rdmaorder.gateway.listener import Listener, open_listeners
from rdmaorder.gateway.operations import Operations, OperatorRequestError
from rdmaorder.gateway.protocol import ProtocolError, Terminate
from rdmaorder.gateway.tcp_socket import NotTlsError, TlsFailedError

__all__ = ["HALF_OPEN_MAX", "ControlCore", "ControlServer"]

_log = logging.getLogger(__name__)

#: A handshake takes milliseconds. One older than this gives way when all places are taken.
_LAGGARD_AGE_S = 0.25
_ACCEPTS_PER_TURN = 16
_ACCEPT_RETRY_S = 0.1


def _is_operator(channel: Channel) -> bool:
    return channel.peer_uid in (os.geteuid(), 0)


class _LinkFailedError(Exception):
    """The core gave a link up. ``str()`` says why."""


class _ShuttingDownError(Exception):
    def __init__(self) -> None:
        super().__init__("the gateway is shutting down")


class ControlServer:
    """Listens on the addresses of ``config`` and hands sessions to ``core``. One event loop's.

    ``counters`` (name to count) tells how connections went: ``connections``, ``established``,
    ``refused.<code>``, ``looked`` (closed without a byte), ``abandoned``, ``timed_out``,
    ``evicted``, ``operated`` (requests of an operator), ``terminated``, ``lost`` (end of file on a
    live link), ``violated``, ``shut_down``, ``failed_links`` (given up by the core), ``tls_failed``
    (a TLS handshake that came to nothing),
    ``failed`` (an error of the gateway's own).
    """

    def __init__(self, core: ControlCore, config: GatewayConfig) -> None:
        if not config.addresses:
            raise ConfigError("[gateway] listen is not set; give --listen shm:///PATH")
        #: What strategies connect to, once started: the port in them is the real one.
        self.urls: tuple[str, ...] = ()
        self.counters: Counter[str] = Counter()
        self._config = config
        self._timeout_ms = config.handshake_timeout_ms
        self._allowed_uids = frozenset(config.allowed_uids or (os.geteuid(), 0))
        version_file = Path(__file__).parents[1] / "VERSION"
        self._version = version_file.read_text(encoding="ascii").strip()
        self._handshake = Handshake(core, config, self._version)
        self._operations = Operations(core, config, self.end_link)
        self._half_open: dict[Channel, float] = {}
        self._live: dict[Channel, Link] = {}
        #: By session: epoch of a link that ended before its connection was among the live ones (or
        #: after), and why.
        self._ended_early: dict[int, tuple[int, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: tuple[Listener, ...] = ()
        self._accepting = False
        self._closing = False
        self._drain = True
        self._closed = asyncio.Event()

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listens. Raises ConfigError or SystemFailure naming the address; nothing runs then."""
        if self._listeners or self._closing:
            raise RuntimeError("a ControlServer is started once")
        self._listeners = open_listeners(self._config, self._allowed_uids)
        self.urls = tuple(listener.url for listener in self._listeners)
        self._resume_accepting()
        await self._operations.gateway_started()

    async def serve(self) -> None:
        """Starts unless started, then returns when close() is done."""
        if not self._listeners:
            await self.start()
        await self._closed.wait()

    async def close(self, drain: bool = True) -> None:
        """Refuses handshakes under way (Draining) and ends every link; with ``drain`` after its
        order ring was taken. Each strategy gets Terminate "GatewayShutdown". Idempotent."""
        if not self._closing:
            self._closing, self._drain = True, drain
            self._stop_listening()
            for channel in (*self._half_open, *self._live):
                channel.interrupt(_ShuttingDownError())
            while self._tasks:
                await asyncio.wait(self._tasks)
            self._handshake.close()
            self._operations.close()
            self._closed.set()
        await self._closed.wait()

    def end_link(self, session_index: int, epoch: int, reason: str) -> None:
        """Ends a link that the core cannot go on with (a ring full of garbage): the strategy gets
        Terminate "LinkFailed" with ``reason`` and may connect anew. Nothing happens when the link
        with that ``epoch`` is gone. Call it in the server's loop."""
        for channel, link in self._live.items():
            if (link.session_index, link.epoch) == (session_index, epoch):
                channel.interrupt(_LinkFailedError(reason))
                return
        self._ended_early[session_index] = (epoch, reason)

    def _stop_listening(self) -> None:
        self._pause_accepting()
        for listener in self._listeners:
            listener.close()

    # -- accepting -----------------------------------------------------------------------------

    def _resume_accepting(self) -> None:
        if not self._accepting and not self._closing and self._listeners:
            self._accepting = True
            for listener in self._listeners:
                asyncio.get_running_loop().add_reader(listener.socket, self._accept, listener)

    def _pause_accepting(self, resume_after_s: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        if self._accepting:
            self._accepting = False
            for listener in self._listeners:
                loop.remove_reader(listener.socket)
        if resume_after_s is not None:
            loop.call_later(resume_after_s, self._resume_accepting)

    def _accept(self, listener: Listener) -> None:
        for turn in range(_ACCEPTS_PER_TURN):
            crowded = len(self._half_open) >= HALF_OPEN_MAX
            # Only the first accept of a turn is sure to find somebody to make room for.
            if crowded and (turn > 0 or not self._make_room()):
                return
            try:
                connection, _ = listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors or memory: try again, do not spin
                _log.error("control: cannot accept on %s: %s", listener.url, error.strerror)
                self._pause_accepting(_ACCEPT_RETRY_S)
                return
            self._begin(listener, connection)

    def _begin(self, listener: Listener, connection: socket.socket) -> None:
        self.counters["connections"] += 1
        try:
            channel = listener.make_channel(connection)
        except OSError as error:  # reset before it was looked at
            connection.close()
            self.counters["abandoned"] += 1
            _log.warning("control: a connection to %s was lost: %s", listener.url, error.strerror)
            return
        self._half_open[channel] = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._serve_connection(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_room(self) -> bool:
        """All places are taken: True when the oldest is a laggard and gave way. Else accepting
        pauses until it is one, or until a handshake ends."""
        oldest, since_s = next(iter(self._half_open.items()))
        age_s = asyncio.get_running_loop().time() - since_s
        if age_s < _LAGGARD_AGE_S:
            self._pause_accepting(_LAGGARD_AGE_S - age_s)
            return False
        del self._half_open[oldest]
        self.counters["evicted"] += 1
        reason = f"{HALF_OPEN_MAX} handshakes are under way and this one is slow; try again"
        oldest.interrupt(ProtocolError("TooSlow", reason))
        return True

    # -- one connection ------------------------------------------------------------------------

    async def _serve_connection(self, channel: Channel) -> None:
        try:
            link = await self._shake_hands(channel)
            if link is not None:
                channel.forget_interrupt()  # a late eviction; a shutdown is seen below
                self._live[channel] = link
                epoch, reason = self._ended_early.pop(link.session_index, (0, ""))
                if epoch == link.epoch:
                    channel.interrupt(_LinkFailedError(reason))
                self._operations.link_began(link.session.name)
                self._end_half_open(channel)
                await self._watch(channel, link)
        except Exception:
            self.counters["failed"] += 1
            _log.exception("control: %s: internal error", channel.peer)
        finally:
            self._live.pop(channel, None)
            self._end_half_open(channel)
            channel.close()

    def _end_half_open(self, channel: Channel) -> None:
        self._half_open.pop(channel, None)
        self._resume_accepting()

    async def _shake_hands(self, channel: Channel) -> Link | None:
        """Returns the link, or None after it told the peer and the log why there is none."""
        deadline_s = asyncio.get_running_loop().time() + self._timeout_ms / 1000
        step, link = "Negotiate", None
        try:
            allowed = channel.peer_uid is None or channel.peer_uid in self._allowed_uids
            if not allowed and not _is_operator(channel):
                raise ProtocolError("Credentials", f"uid {channel.peer_uid} is not allowed here")
            await channel.open(deadline_s)
            session, index = await self._handshake.negotiate(channel, deadline_s, allowed)
            step = "Establish"
            link = await self._handshake.establish(channel, session, index, deadline_s)
            step = "Established"
            await self._handshake.activate(channel, link, deadline_s)
            self.counters["established"] += 1
            _log.info("control: %s: session %s established", channel.peer, session.name)
            return link
        except OperatorRequestError as request:
            await self._operate(channel, request.message)
        except ProtocolError as error:
            await self._refuse(channel, step, error.code, str(error), link)
        except _ShuttingDownError as error:
            await self._refuse(channel, step, "Draining", str(error), link)
        except PeerTooSlowError:
            self.counters["timed_out"] += 1
            text = f"no whole {step} frame within {self._timeout_ms} ms"
            await self._refuse(channel, step, "TooSlow", text, link)
        except NotTlsError:
            text = "this gateway speaks TLS only; leave tls=off out of the URL and give tls_ca"
            await self._refuse(channel, step, "Credentials", text)
        except TlsFailedError as error:
            self.counters["tls_failed"] += 1
            _log.warning("control: %s: %s", channel.peer, error)
        except PeerGoneError as error:
            if channel.received_bytes == 0:
                self.counters["looked"] += 1
                _log.debug("control: %s looked and left", channel.peer)
            else:
                self.counters["abandoned"] += 1
                _log.warning("control: %s: abandoned at %s: %s", channel.peer, step, error)
        return None

    async def _operate(self, channel: Channel, message: dict[str, Any]) -> None:
        """Only the gateway's own user and root are operators, whoever may connect."""
        if not _is_operator(channel):
            text = f"uid {channel.peer_uid} is no operator here"
            await self._refuse(channel, "Negotiate", "Credentials", text)
            return
        self.counters["operated"] += 1
        _log.warning("control: %s: %s %r", channel.peer, message["type"], message.get("session"))
        try:
            answer = await self._operations.operate(message)
        except ProtocolError as error:
            answer = {"type": "Refused", "code": error.code, "text": str(error)}
        await self._try_send(channel, answer)

    async def _refuse(
        self, channel: Channel, step: str, code: str, text: str, link: Link | None = None
    ) -> None:
        """``link``: one that was acknowledged and has ended; the strategy may be using it."""
        self.counters[f"refused.{code}"] += 1
        _log.warning("control: %s: %s refused, %s: %s", channel.peer, step, code, text)
        reason = {"code": code, "text": text[: protocol.MAX_TEXT_CHARS]}
        if link is not None:
            code = "GatewayShutdown" if code == "Draining" else code
            end = Terminate(code, link.last_sequence, reason["text"])
            await self._try_send(channel, end.as_message())
            return
        if step == "Establish":
            await self._try_send(channel, {"type": "EstablishmentReject"} | reason)
            return
        versions = {
            "protocol_version": protocol.PROTOCOL_VERSION,
            "layout_version": protocol.LAYOUT_VERSION,
            "gateway_version": self._version,
        }
        await self._try_send(channel, {"type": "NegotiationReject"} | reason | versions)

    async def _try_send(self, channel: Channel, message: Mapping[str, Any]) -> None:
        try:
            await channel.send(protocol.encode_frame(message))
        except PeerGoneError as error:
            _log.debug("control: %s: last message not sent: %s", channel.peer, error)

    # -- a live link ---------------------------------------------------------------------------

    async def _watch(self, channel: Channel, link: Link) -> None:
        """Returns when the link has ended and the peer, if it is there, was told."""
        name, drain, code, text = link.session.name, True, "Finished", ""
        ended = "disconnect"
        try:
            await self._await_end(channel, link)
            ended = "logout"
            self.counters["terminated"] += 1
        except _ShuttingDownError as error:
            drain, code, text = self._drain, "GatewayShutdown", str(error)
            ended = "shutdown"
            self.counters["shut_down"] += 1
        except _LinkFailedError as error:
            drain, code, text = False, "LinkFailed", str(error)
            self.counters["failed_links"] += 1
            _log.warning("control: %s: session %s given up: %s", channel.peer, name, error)
        except ProtocolError as error:
            code, text = "BadRequest", str(error)
            self.counters["violated"] += 1
            _log.warning("control: %s: session %s: %s", channel.peer, name, error)
        except PeerGoneError as error:
            self.counters["lost"] += 1
            _log.warning("control: %s: session %s lost: %s", channel.peer, name, error)
        last = await self._handshake.detach(link, drain)
        link.session.free()
        self._operations.link_ended(name, link.session_index, ended)
        text = text[: protocol.MAX_TEXT_CHARS]
        await self._try_send(channel, Terminate(code, last, text).as_message())

    async def _await_end(self, channel: Channel, link: Link) -> None:
        """Returns after a Terminate. Questions are answered meanwhile. A second Establish is
        refused once and changes nothing."""
        inquiries: list[asyncio.Task[None]] = []
        try:
            await self._read_messages(channel, link, inquiries)
        finally:
            for each in inquiries:
                each.cancel()

    async def _read_messages(
        self, channel: Channel, link: Link, inquiries: list[asyncio.Task[None]]
    ) -> None:
        told = False
        while not self._closing:
            frame = await channel.receive(None)
            frame.close()
            message = protocol.decode_body(frame.body)
            kind = protocol.message_type(message)
            if kind == "Terminate":
                Terminate.from_message(message)
                return
            if kind == "Resolve":
                # Beside the reading of the socket, which may say meanwhile that the strategy is
                # gone. Who asks again no longer waits for the first answer.
                while inquiries:
                    inquiries.pop().cancel()
                inquiries.append(asyncio.create_task(self._inquire(channel, link, message)))
                continue
            answer = await self._operations.answer(link.session_index, message)
            if answer is not None:
                await channel.send(protocol.encode_frame(answer))
                if answer["type"] == "Killed":
                    raise _LinkFailedError("killed by the strategy")
                continue
            if kind != "Establish" or told:
                raise ProtocolError("BadRequest", f"{kind[:40]!r} on an established link")
            told = True
            text = "this connection has its link"
            await self._refuse(channel, "Establish", "AlreadyEstablished", text)
        raise _ShuttingDownError

    async def _inquire(self, channel: Channel, link: Link, message: dict[str, Any]) -> None:
        try:
            answer = await self._operations.answer(link.session_index, message)
            if answer is not None:
                await channel.send(protocol.encode_frame(answer))
        except Exception as error:
            channel.interrupt(error)  # the reader's to handle, as if it had asked itself
