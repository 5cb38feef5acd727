"""What a peer may send inside TLS without end: it takes turns with everybody else."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from handshake_support import PATIENCE_S
from tls_support import make_certificates

from rdmaorder.gateway.protocol import encode_frame
from rdmaorder.gateway.tcp_socket import TcpChannel, make_tls_context

_NOT_REQUESTED = 0
_KEY_UPDATE_BYTES = 27
_LOOK_BYTES = 16 * 1024


class OpenSslClient:
    """A TLS client that can do what Python's cannot: say KeyUpdate, into memory."""

    def __init__(self, connection: socket.socket) -> None:
        self._ssl = ctypes.CDLL(ctypes.util.find_library("ssl") or "libssl.so.3")
        for name in ("TLS_client_method", "BIO_s_mem", "BIO_new", "SSL_CTX_new", "SSL_new"):
            getattr(self._ssl, name).restype = ctypes.c_void_p
        pointer = ctypes.c_void_p
        self._context = pointer(self._ssl.SSL_CTX_new(pointer(self._ssl.TLS_client_method())))
        self._made = pointer(self._ssl.SSL_new(self._context))
        self._socket = connection

    def handshake(self) -> None:
        assert self._ssl.SSL_set_fd(self._made, self._socket.fileno()) == 1
        assert self._ssl.SSL_connect(self._made) == 1
        self._out = ctypes.c_void_p(self._ssl.BIO_new(ctypes.c_void_p(self._ssl.BIO_s_mem())))
        self._ssl.SSL_set0_wbio(self._made, self._out)

    def update_keys(self, count: int) -> None:
        for _ in range(count):
            assert self._ssl.SSL_key_update(self._made, _NOT_REQUESTED) == 1
            assert self._ssl.SSL_do_handshake(self._made) == 1

    def write(self, data: bytes) -> None:
        assert self._ssl.SSL_write(self._made, data, len(data)) == len(data)

    def send(self) -> int:
        """All of it at once. Returns the number of bytes."""
        data = ctypes.create_string_buffer(1 << 20)
        count = int(self._ssl.BIO_read(self._out, data, len(data)))
        self._socket.sendall(data.raw[:count])
        return count

    def close(self) -> None:
        self._ssl.SSL_free(self._made)
        self._ssl.SSL_CTX_free(self._context)
        self._socket.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def pair(certificates: Path) -> Iterator[tuple[OpenSslClient, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = OpenSslClient(socket.create_connection(listener.getsockname()))
        accepted, _ = listener.accept()
        yield client, accepted
        accepted.close()
        client.close()


def test_key_updates_leave_others_their_turn(
    pair: tuple[OpenSslClient, socket.socket], certificates: Path
) -> None:
    client, accepted = pair
    frame = encode_frame({"type": "Terminate"})
    context = make_tls_context(
        str(certificates / "gateway.pem"), str(certificates / "gateway.key"), None
    )

    async def read_it_all() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + PATIENCE_S
        channel = TcpChannel(accepted, context)
        shaken = asyncio.create_task(asyncio.to_thread(client.handshake))
        await channel.open(deadline_s)
        await shaken
        client.update_keys(8 * _LOOK_BYTES // _KEY_UPDATE_BYTES)
        client.write(frame)
        sent = await asyncio.to_thread(client.send)
        turns = 0

        def take_turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(take_turn)

        take_turn()
        assert (await channel.receive(deadline_s)).body == frame[4:]
        channel.close()
        return sent, turns

    sent, turns = asyncio.run(read_it_all())
    assert turns >= sent // _LOOK_BYTES
