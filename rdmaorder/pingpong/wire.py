"""How the two ends of a measurement talk before and between runs: one JSON object a line.

The measured traffic does not pass here; it has its own session or windows.
"""

from __future__ import annotations

import contextlib
import json
import socket
from types import TracebackType
from typing import Any

from rdmaorder.errors import ConnectTimeout, HandshakeError, SystemFailure
from rdmaorder.gateway.address import Address
from rdmaorder.gateway.unix_socket import peer_process

__all__ = ["HELLO", "PROTOCOL", "Channel", "PeerGone", "dial"]

HELLO = "rdmaorder-pingpong"
PROTOCOL = 3
_LINE_MAX = 1 << 26
#: A silent host is asked whether it is there, and given up when it has not answered for so long.
_ALIVE_EVERY_S, _GONE_AFTER_S = 5, 30


class PeerGone(Exception):
    """The other end closed the connection."""


def _keep_alive(connection: socket.socket) -> None:
    """A host that vanishes closes nothing: its end would be waited for without end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ALIVE_EVERY_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ALIVE_EVERY_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_AFTER_S * 1000)


class Channel:
    """Lines of JSON over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        if connection.family != socket.AF_UNIX:
            _keep_alive(connection)
        self._socket = connection
        self._rest = b""

    def send(self, message: dict[str, Any]) -> None:
        """Raises PeerGone."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise PeerGone from None

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Raises PeerGone, TimeoutError, or ValueError for anything but a JSON object."""
        self._socket.settimeout(timeout_s)
        while b"\n" not in self._rest:
            if len(self._rest) > _LINE_MAX:
                raise ValueError("a line without an end")
            try:
                got = self._socket.recv(1 << 20)
            except TimeoutError:
                raise
            except OSError:
                raise PeerGone from None
            if not got:
                raise PeerGone
            self._rest += got
        line, self._rest = self._rest.split(b"\n", 1)
        try:
            message = json.loads(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(message, dict):
            raise ValueError("not an object")
        return message

    def holds_line(self) -> bool:
        """Whether ``receive`` has one without waiting."""
        return b"\n" in self._rest

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    def local_address(self) -> str:
        """Own IP address of this connection, empty for a Unix socket."""
        return "" if self._socket.family == socket.AF_UNIX else str(self._socket.getsockname()[0])

    def peer_address(self) -> str:
        """IP address of the other end, empty for a Unix socket."""
        return "" if self._socket.family == socket.AF_UNIX else str(self._socket.getpeername()[0])

    def peer(self) -> str:
        """Who is at the other end, for people."""
        if self._socket.family == socket.AF_UNIX:
            return f"process {peer_process(self._socket)[0]}"
        with contextlib.suppress(OSError):  # it has left already
            return "{}:{}".format(*self._socket.getpeername()[:2])
        return "gone"

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def dial(address: Address, timeout_s: float = 5.0) -> Channel:
    """Connects to a ping-pong server's address."""
    try:
        if address.scheme == "shm":
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(timeout_s)
            connection.connect(address.path)
        else:
            connection = socket.create_connection((address.host, address.port), timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except TimeoutError:
        raise ConnectTimeout(f"{address.url}: no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise SystemFailure(
            f"{address.url}: {error.strerror}; start the other end first: rdmaorder pingpong "
            f"--listen {address.url}",
            error_number=error.errno or 0,
        ) from None
    return Channel(connection)


def first_answer(channel: Channel, address: Address, timeout_s: float = 5.0) -> dict[str, Any]:
    """The server's answer to our first line; says so when what answers is no ping-pong server."""
    wrong = f"{address.url} is no ping-pong server"
    remedy = f"start one there: rdmaorder pingpong --listen {address.url}"
    try:
        answer = channel.receive(timeout_s)
    except PeerGone:
        raise HandshakeError(f"{wrong}: it closed the connection; {remedy}") from None
    except TimeoutError:
        raise HandshakeError(
            f"{wrong}, or busy just now: no answer within {timeout_s:g} s; {remedy}, or try again"
        ) from None
    except ValueError:
        raise HandshakeError(f"{wrong}: it speaks another protocol; {remedy}") from None
    if HELLO not in answer:
        with contextlib.suppress(OSError):
            channel.close()
        raise HandshakeError(f"{wrong}: it speaks another protocol; {remedy}")
    if answer[HELLO] != PROTOCOL:
        raise HandshakeError(
            f"{address.url} speaks ping-pong protocol {answer[HELLO]}, this end {PROTOCOL}; "
            "install one version of rdmaorder on both hosts"
        )
    return answer
