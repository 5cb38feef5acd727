"""Frames over a connected socket. unix_socket.py and tcp_socket.py have the kinds of sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar

from rdmaorder.gateway.protocol import FRAME_HEADER_BYTES, body_length_bytes

__all__ = ["Channel", "Frame", "PeerGoneError", "PeerTooSlowError"]


class PeerGoneError(Exception):
    """End of file or a connection error. ``str()`` says which."""


class PeerTooSlowError(Exception):
    """The deadline passed before the peer's frame was complete."""


@dataclass
class Frame:
    """One received frame and the descriptors that came with its bytes; close() what is not kept."""

    body: bytes
    descriptors: list[int] = field(default_factory=list)
    #: True when there were more descriptors than a frame may carry; those are closed already.
    excess: bool = False

    def __enter__(self) -> Frame:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


class Channel(ABC):
    """Frames over one connected socket, for one task. Interrupts may come from other callbacks."""

    #: How windows are reached over this kind of socket, as Negotiate names it.
    transport: ClassVar[str]
    #: The peer's user id, None where the kernel does not tell.
    peer_uid: int | None = None

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._interrupt: BaseException | None = None
        #: Bytes received so far; 0 tells a caller that only looked from one that broke off.
        self.received_bytes = 0
        #: The peer for log and messages, for example "pid 12 uid 0" or "10.1.0.2:40000".
        self.peer = "?"

    async def open(self, deadline_s: float) -> None:  # noqa: B027 - a plain socket needs nothing
        """What has to happen before frames; raises as receive()."""

    def binding(self) -> bytes:
        """Bytes that only the two ends of this very connection know alike; empty: none."""
        return b""

    def interrupt(self, error: BaseException) -> None:
        """Makes the receive() under way, or else the next one, raise ``error``."""
        self._interrupt = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def forget_interrupt(self) -> None:
        """Drops an interrupt that nobody has received yet."""
        self._interrupt = None

    async def receive(self, deadline_s: float | None) -> Frame:
        """Next frame; raises PeerGoneError, PeerTooSlowError (after loop time ``deadline_s``),
        ProtocolError (impossible length) or what interrupt() was given."""
        await asyncio.sleep(0)  # a peer that floods gets no more than its turn of the loop
        header = await self._read_exactly(FRAME_HEADER_BYTES, deadline_s)
        body = await self._read_exactly(body_length_bytes(header), deadline_s)
        return self._make_frame(body)

    @abstractmethod
    async def send(self, frame: bytes, descriptor: int | None = None) -> None:
        """Sends a whole frame or raises PeerGoneError. Control frames are far smaller than a socket
        buffer and answer one request each, so one that does not fit means a peer that reads
        nothing."""

    def close(self) -> None:
        """Closes the socket. Idempotent."""
        self._socket.close()

    def _make_frame(self, body: bytes) -> Frame:
        return Frame(body)

    @abstractmethod
    def _read_some(self, count: int) -> bytes:
        """1 to ``count`` bytes, b"" at the end. BlockingIOError when there are none now."""

    async def _read_exactly(self, count: int, deadline_s: float | None) -> bytes:
        """Never reads past ``count``: descriptors then belong to the frame being read."""
        data = bytearray()
        while len(data) < count:
            self._check_time(deadline_s)
            try:
                chunk = self._read_some(count - len(data))
            except (BlockingIOError, InterruptedError):
                await self._readable(deadline_s)
                continue
            except OSError as error:
                raise PeerGoneError(error.strerror or str(error)) from error
            if not chunk:
                raise PeerGoneError("closed by the peer")
            self.received_bytes += len(chunk)
            data += chunk
        return bytes(data)

    def _check_time(self, deadline_s: float | None) -> None:
        if self._interrupt is not None:
            error, self._interrupt = self._interrupt, None
            raise error
        if deadline_s is not None and self._loop.time() >= deadline_s:
            raise PeerTooSlowError

    async def _readable(self, deadline_s: float | None) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = None if deadline_s is None else self._loop.call_at(deadline_s, wake)
        self._waiter = waiter
        self._loop.add_reader(self._socket, wake)
        try:
            await waiter
        finally:
            self._waiter = None
            self._loop.remove_reader(self._socket)
            if timer is not None:
                timer.cancel()
