"""TCP with TLS 1.3 under the control plane of rdma:// links: listening, and frames inside TLS.

TLS works on memory (``ssl.MemoryBIO``) and the socket is read as any other channel's, so that
deadlines, interrupts and a shutdown hold during the TLS handshake too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from rdmaorder.errors import ConfigError, SystemFailure
from rdmaorder.gateway.address import Address
from rdmaorder.gateway.channel import Channel, PeerGoneError

__all__ = ["NotTlsError", "TcpChannel", "TlsFailedError", "listen", "make_tls_context"]

_BACKLOG = 512
_READ_BYTES = 16 * 1024
#: First byte of a TLS handshake record, and of its version. No control frame begins like this: it
#: would be longer than a frame may be.
_TLS_RECORD = b"\x16\x03"

# A host that falls silent is noticed after about four seconds: probes after one second of silence,
# one a second, three unanswered. Bytes sent may stay unacknowledged for as long.
_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000),
)


class TlsFailedError(PeerGoneError):
    """The TLS handshake failed, or TLS broke later. ``str()`` says how."""


class NotTlsError(TlsFailedError):
    """The peer speaks without TLS where it is demanded, and can be told so in plain frames."""


class TcpChannel(Channel):
    """Frames over TCP, inside TLS unless ``context`` is None."""

    transport = "rdma"

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext | None,
        options: dict[str, str | int] | None = None,
    ) -> None:
        super().__init__(sock)
        for level, name, value in _SOCKET_OPTIONS:
            sock.setsockopt(level, name, value)
        #: Link options of the address that was connected to.
        self.options = options or {}
        try:
            self.peer = _printed(sock.getpeername())
        except OSError:  # gone already; the first read says so
            self.peer = "a peer that left"
        #: IP address of this side, without port.
        self.local_address: str = sock.getsockname()[0].removeprefix("::ffff:")
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if context is not None:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def open(self, deadline_s: float) -> None:
        """The TLS handshake."""
        if self._tls is None:
            return
        while True:
            self._check_time(deadline_s)
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError as error:
                with contextlib.suppress(PeerGoneError):
                    self._flush()  # the alert that tells the peer why
                raise TlsFailedError(f"TLS handshake failed: {_reason(error)}") from error
            try:
                filled = self._fill()
            except (BlockingIOError, InterruptedError):
                await self._readable(deadline_s)
                continue
            except OSError as error:
                raise PeerGoneError(error.strerror or str(error)) from error
            if not filled:
                raise PeerGoneError("closed by the peer during the TLS handshake")
        self._flush()

    def binding(self) -> bytes:
        """The client's Finished message: a MAC over this very TLS handshake, which both sides know.
        Nothing is resumed and TLS is 1.3, so it belongs to this connection alone."""
        return (self._tls and self._tls.get_channel_binding("tls-unique")) or b""

    def _fill(self) -> bool:
        """From the socket to TLS, once. False at the end. Raises as recv."""
        if self.received_bytes == 0:
            start = self._socket.recv(len(_TLS_RECORD), socket.MSG_PEEK)
            if start and not _TLS_RECORD.startswith(start):
                self._tls = None  # the refusal goes out as the peer speaks
                raise NotTlsError("speaks without TLS")
        data = self._socket.recv(_READ_BYTES)
        self.received_bytes += len(data)
        self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._send_raw(data)

    def _send_raw(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise PeerGoneError(error.strerror or str(error)) from error
        if sent != len(data):
            raise PeerGoneError("does not read its socket")

    def _read_some(self, count: int) -> bytes:
        if self._tls is None:
            return self._socket.recv(count)
        data = self._decrypt(self._tls, count)
        if data is None:
            if not self._fill():
                return b""
            data = self._decrypt(self._tls, count)
        if data is None:  # a key update, say: more of them wait until others had their turn
            raise BlockingIOError
        return data

    def _decrypt(self, tls: ssl.SSLObject, count: int) -> bytes | None:
        """1 to ``count`` bytes of what was read from the socket, b"" at the end. None: there are
        none in it."""
        try:
            return tls.read(count)
        except ssl.SSLWantReadError:
            self._flush()  # what TLS itself has to say
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            raise TlsFailedError(f"TLS broke: {_reason(error)}") from error

    async def send(self, frame: bytes, descriptor: int | None = None) -> None:
        if descriptor is not None:
            raise ValueError("TCP carries no descriptors")
        if self._tls is None:
            self._send_raw(frame)
            return
        try:
            self._tls.write(frame)
        except ssl.SSLError as error:
            raise PeerGoneError(f"TLS broke: {_reason(error)}") from error
        self._flush()

    def close(self) -> None:
        """Says goodbye as far as that needs no waiting, and closes. Idempotent."""
        if self._socket.fileno() >= 0:
            with contextlib.suppress(OSError, PeerGoneError):
                if self._tls is not None:
                    with contextlib.suppress(ssl.SSLError, ValueError):
                        self._tls.unwrap()
                    self._flush()
                # Bytes that nobody read would turn this end into a reset, and a reset may overtake
                # the last message.
                self._socket.shutdown(socket.SHUT_WR)
                self._socket.recv(_READ_BYTES)
        super().close()


def _reason(error: ssl.SSLError) -> str:
    return str(error.reason or error.strerror or error).replace("_", " ").lower()


def _printed(address: tuple[Any, ...]) -> str:
    host = address[0].removeprefix("::ffff:")
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def make_tls_context(certificate: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """What TLS demands of a client: version 1.3, and with ``client_ca`` a certificate signed by it.
    Raises ConfigError naming the key of the config and the file at fault."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Nothing is resumed: each connection has a handshake, and so a binding, of its own.
    context.num_tickets = 0
    _check_readable("tls_certificate", certificate)
    _check_readable("tls_key", key)
    try:
        # Without this a key with a passphrase would make OpenSSL ask for it on the terminal.
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        why = _reason(error) if isinstance(error, ssl.SSLError) else str(error)
        raise ConfigError(
            f"[gateway] tls_certificate = {certificate!r} with tls_key = {key!r}: cannot be used "
            f"({why}); give PEM files of a certificate and its key, without a passphrase"
        ) from error
    if client_ca is not None:
        _check_readable("tls_client_ca", client_ca)
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            why = _reason(error) if isinstance(error, ssl.SSLError) else str(error)
            raise ConfigError(
                f"[gateway] tls_client_ca = {client_ca!r}: cannot be used ({why}); give a PEM file "
                "of the CA that signs the strategies' certificates"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _check_readable(setting: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"[gateway] {setting} = {path!r}: cannot be read ({error.strerror}); give the path of "
            "a PEM file this user may read"
        ) from error


def listen(address: Address) -> list[tuple[socket.socket, str]]:
    """Listening, non-blocking sockets for every IP address of ``address``, each with the URL that
    names it. Raises ConfigError or SystemFailure naming the address."""
    try:
        found = socket.getaddrinfo(
            address.host,
            address.port,
            type=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_PASSIVE,
        )
    except socket.gaierror as error:
        raise ConfigError(
            f"listen {address.url}: host {address.host}: {error.strerror}; give an address of this "
            "machine, or 0.0.0.0 for all"
        ) from error
    sockets: list[tuple[socket.socket, str]] = []
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            sock = _bind(address, family, where)
            sockets.append((sock, f"rdma://{_printed(sock.getsockname())}"))
    except BaseException:
        for sock, _ in sockets:
            sock.close()
        raise
    return sockets


def _bind(address: Address, family: int, where: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise SystemFailure(
            f"listen {address.url}: {os.strerror(error.errno or 0)}; choose an address of this "
            "machine and a port that is free and allowed to this user",
            error_number=error.errno or 0,
        ) from error
    return sock
