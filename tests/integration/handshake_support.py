"""A strategy's half of the handshake made of a raw socket, and a core that only keeps books."""

from __future__ import annotations

import array
import asyncio
import fcntl
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rdmaorder.errors import Refused
from rdmaorder.gateway.config import GatewayConfig
from rdmaorder.gateway.protocol import decode_body, encode_frame
from rdmaorder.gateway.server import ControlServer
from rdmaorder.messages import FATE_RECORD

F_ADD_SEALS = 1033
F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 2, 4, 8
#: Long enough that only a hang gets there; no test waits for it to pass.
PATIENCE_S = 20.0

NEGOTIATE: dict[str, Any] = {
    "type": "Negotiate",
    "protocol": "rdmaorder",
    "protocol_version": 1,
    "layout_version": 1,
    "client_version": "1.2.3",
    "session": "alpha",
    "transport": "shm",
    "schema_id": 1,
    "schema_version": 0,
    "slot_bytes": 64,
    "order_slot_count": 64,
    "report_slot_count": 64,
    "flow": "Idempotent",
    "timestamp_ns": 1,
    "pid": os.getpid(),
}
WINDOW = {"bytes": 8192, "offset_bytes": 4096, "slot_bytes": 64, "slot_count": 64}
ESTABLISH: dict[str, Any] = {
    "type": "Establish",
    "session": "alpha",
    "next_order_sequence": 0,
    "next_report_sequence": 1,
    "window": WINDOW,
}
REMOTE_WINDOW = WINDOW | {"address": 0x7F00_0000_1000, "key": 0x1234}
ENDPOINT: dict[str, Any] = {
    "qp_number": 17,
    "packet_sequence": 0xABCDEF,
    "gid": bytes(range(16)),
    "lid": 0,
    "mtu_bytes": 1024,
}
TERMINATE: dict[str, Any] = {
    "type": "Terminate",
    "code": "Finished",
    "last_sequence": 41,
    "text": "",
}


def memfd(size_bytes: int = 8192, seals: int = F_SEAL_SHRINK | F_SEAL_GROW) -> int:
    descriptor = os.memfd_create("window", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size_bytes)
    fcntl.fcntl(descriptor, F_ADD_SEALS, seals)
    return descriptor


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def eventually(condition: Callable[[], Any], what: str) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"never came true: {what}"
        time.sleep(0.002)


class FakeCore:
    """Keeps sessions in a dict. Tests set ``refuse_*`` and clear ``may_*`` to steer it."""

    def __init__(self) -> None:
        self.indices: dict[str, int] = {}
        self.live: set[int] = set()
        self.windows: dict[int, int] = {}
        self.report_fds: dict[int, int] = {}
        self.detached: list[tuple[int, int, bool]] = []
        self.asked: list[tuple[Any, ...]] = []
        self.offered: list[tuple[dict[str, Any], dict[str, int], str, dict[str, Any]]] = []
        self.activated: list[tuple[int, int, bool]] = []
        #: Of the newest link, by session.
        self.epochs: dict[int, int] = {}
        self._epochs = itertools.count(101)
        self.refuse_open: BaseException | None = None
        self.refuse_attach: BaseException | None = None
        self.refuse_activate: BaseException | None = None
        self.refuse_detach: BaseException | None = None
        self.attaching = threading.Event()
        self.may_attach = threading.Event()
        self.may_detach = threading.Event()
        self.may_attach.set()
        self.may_detach.set()
        #: Sessions whose attach waits for ``may_attach``; None: all.
        self.slow: set[int] | None = None
        self.inquiries: list[int] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        #: What open_orders() gives, and the sequence from which each call asked.
        self.open_sequences = np.arange(0)
        self.scans: list[int] = []
        self.kills: list[list[int] | None] = []
        self.refuse_kill: dict[int, str] = {}
        #: Sessions whose kill waits for ``may_answer``: the disk takes its time.
        self.slow_kills: set[int] = set()
        #: What cancel_gone() gives, one after the other; then 0.
        self.cancelled: list[int | None] = []
        self.cancels: list[tuple[int, int]] = []

    def open_session(
        self,
        name: str,
        slot_bytes: int,
        order_slot_count: int,
        report_slot_count: int,
        schema_id: int,
        schema_version: int,
    ) -> dict[str, Any]:
        if self.refuse_open is not None:
            raise self.refuse_open
        self.asked.append((name, slot_bytes, order_slot_count, report_slot_count))
        index = self.indices.setdefault(name, len(self.indices))
        return {
            "session_index": index,
            "live": index in self.live,
            "next_order_sequence": 7,
            "next_report_sequence": 3,
            "slot_bytes": slot_bytes,
            "order_slot_count": order_slot_count,
            "report_slot_count": report_slot_count,
            "cancel_reserve_count": 8,
            "heartbeat_interval_ns": 1_000_000,
        }

    def attach_shm(
        self,
        session_index: int,
        report_fd: int,
        report_window: dict[str, int],
        next_order_sequence: int,
        next_report_sequence: int,
    ) -> dict[str, Any]:
        self.attaching.set()
        if self.slow is None or session_index in self.slow:
            assert self.may_attach.wait(PATIENCE_S)
        if self.refuse_attach is not None:
            raise self.refuse_attach
        if session_index in self.live:
            raise Refused("live", code="AlreadyEstablished")
        self.live.add(session_index)
        self.report_fds[session_index] = os.dup(report_fd)
        if session_index not in self.windows:
            self.windows[session_index] = memfd()
        self.epochs[session_index] = next(self._epochs)
        return {
            "epoch": self.epochs[session_index],
            "fd": os.dup(self.windows[session_index]),
            "window": dict(WINDOW),
            "next_order_sequence": max(7, next_order_sequence),
            "next_report_sequence": next_report_sequence,
            "not_applied_count": max(0, next_order_sequence - 7),
        }

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
        self.attaching.set()
        if self.slow is None or session_index in self.slow:
            assert self.may_attach.wait(PATIENCE_S)
        if self.refuse_attach is not None:
            raise self.refuse_attach
        if session_index in self.live:
            raise Refused("live", code="AlreadyEstablished")
        self.live.add(session_index)
        self.offered.append((endpoint, window, local_address, options))
        self.epochs[session_index] = next(self._epochs)
        return {
            "epoch": self.epochs[session_index],
            "endpoint": dict(ENDPOINT, qp_number=77),
            "data_in_order": True,
            "window": dict(REMOTE_WINDOW, address=1 << 47, key=0xFFFF_FFFE),
            "next_order_sequence": max(7, next_order_sequence),
            "next_report_sequence": next_report_sequence,
            "not_applied_count": max(0, next_order_sequence - 7),
        }

    def activate(self, session_index: int, epoch: int, data_in_order: bool) -> None:
        if self.refuse_activate is not None:
            raise self.refuse_activate
        self.activated.append((session_index, epoch, data_in_order))

    def detach(self, session_index: int, epoch: int, drain: bool) -> dict[str, Any]:
        assert self.may_detach.wait(PATIENCE_S)
        self.live.discard(session_index)
        if session_index in self.report_fds:
            os.close(self.report_fds.pop(session_index))
        self.detached.append((session_index, epoch, drain))
        if self.refuse_detach is not None:
            raise self.refuse_detach
        return {"last_order_sequence": 40, "last_report_sequence": 2}

    def fates(self, session_index: int, from_sequence: int, count: int) -> bytes:
        self.inquiries.append(session_index)
        assert self.may_answer.wait(PATIENCE_S)
        return b""

    def open_orders(self, session_index: int, from_sequence: int) -> bytes:
        self.inquiries.append(session_index)
        self.scans.append(from_sequence)
        assert self.may_answer.wait(PATIENCE_S)
        found = self.open_sequences[self.open_sequences >= from_sequence]
        fates = np.zeros(len(found), FATE_RECORD)
        fates["sequence"] = found
        return fates.tobytes()

    def kill(self, session_indices: list[int] | None, since_ns: int) -> list[dict[str, Any]]:
        self.kills.append(session_indices)
        if session_indices is None:
            session_indices = list(self.indices.values())
        if self.slow_kills.intersection(session_indices):
            assert self.may_answer.wait(PATIENCE_S)
        return [
            {
                "session_index": index,
                "name": f"s{index}",
                "canceled": 2,
                "fence_ns": time.monotonic_ns() - since_ns,
                "recorded": 1,
                "epoch": self.epochs.get(index, 0),
                "refusal": self.refuse_kill.get(index, ""),
            }
            for index in session_indices
        ]

    def release(self, session_indices: list[int] | None) -> bool:
        return True

    def cancel_gone(self, session_index: int, gone_for_ns: int, reason: int) -> int | None:
        self.cancels.append((session_index, gone_for_ns))
        return self.cancelled.pop(0) if self.cancelled else 0

    def sessions(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "session_index": index, "epoch": 0, "next_order_sequence": 7}
            for name, index in self.indices.items()
        ]

    def close(self) -> None:
        for descriptor in (*self.windows.values(), *self.report_fds.values()):
            os.close(descriptor)


class Running:
    """A ControlServer in a loop and thread of its own."""

    def __init__(self, path: str, **config: Any) -> None:
        self.path = path
        self.core = FakeCore()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="control-loop")
        self.thread.start()
        try:
            config.setdefault("listen", "shm:" + path)
            self.server = ControlServer(self.core, GatewayConfig(**config))
            self.run(self.server.start())
        except BaseException:
            self._end_loop()
            raise

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def close(self, drain: bool = True) -> None:
        self.run(self.server.close(drain))

    def stop(self) -> None:
        self.core.may_attach.set()
        self.core.may_detach.set()
        self.close()
        self._end_loop()
        self.core.close()

    def _end_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def count(self, name: str) -> int:
        return self.server.counters[name]

    def client(self) -> Client:
        return Client(self.path)


Start = Callable[..., Running]


@contextmanager
def gateways(directory: Path) -> Iterator[Start]:
    """Gives a function that starts servers with the config given to it, and stops them all."""
    running: list[Running] = []

    def start(**config: Any) -> Running:
        path = config.pop("path", str(directory / "gw.sock"))
        running.append(Running(path, **config))
        return running[-1]

    yield start
    for each in running:
        each.stop()


class Client:
    """One connection, frame by frame."""

    def __init__(self, path: str) -> None:
        self.socket = self.connected(path)

    @staticmethod
    def connected(path: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(PATIENCE_S)
        made.connect(path)
        return made

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes | dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        frame = encode_frame(data) if isinstance(data, dict) else data
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        # A server that refused before it read has closed; what it said is still to be received.
        with suppress(BrokenPipeError):
            self.socket.sendmsg([frame], ancillary)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Next message and its descriptors; {} after end of file."""
        data, descriptors, _, _ = socket.recv_fds(self.socket, 4, 4)
        if not data:
            return {}, []
        (length,) = struct.unpack("<I", data)
        body = b""
        while len(body) < length:
            chunk = self.socket.recv(length - len(body))
            assert chunk, "closed within a frame"
            body += chunk
        return decode_body(body), descriptors

    def ask(
        self, message: bytes | dict[str, Any], descriptors: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        self.send(message, descriptors)
        answer, received = self.receive()
        for descriptor in received:
            os.close(descriptor)
        return answer

    def negotiate(self, **changes: Any) -> dict[str, Any]:
        return self.ask(NEGOTIATE | changes)

    def establish(self, descriptor: int | None = None, **changes: Any) -> dict[str, Any]:
        own = memfd() if descriptor is None else descriptor
        try:
            return self.ask(ESTABLISH | changes, (own,))
        finally:
            os.close(own)

    def connect(self, session: str = "alpha") -> dict[str, Any]:
        """Both steps; returns the ack."""
        answer = self.negotiate(session=session)
        assert answer["type"] == "NegotiationResponse", answer
        answer = self.establish(session=session)
        assert answer["type"] == "EstablishmentAck", answer
        return answer

    def is_closed(self) -> bool:
        """Waits for the end of what the server sends."""
        try:
            return self.receive() == ({}, [])
        except ConnectionResetError:
            return True
