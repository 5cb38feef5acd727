"""The server of a measurement: starts, stops and continues workers as the client asks.

A client chooses among what is here and gives numbers; paths, modules and programs are the server's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rdmaorder import __version__, _core
from rdmaorder.errors import SystemFailure
from rdmaorder.gateway.address import Address
from rdmaorder.pingpong.environment import host_facts
from rdmaorder.pingpong.external import find_libzmq, free_port
from rdmaorder.pingpong.folders import journal_folder, own_folder
from rdmaorder.pingpong.plan import LEVELS, handler_of, is_size
from rdmaorder.pingpong.waterfall import pack
from rdmaorder.pingpong.wire import HELLO, PROTOCOL, Channel, PeerGone

__all__ = ["Server", "Worker"]

_END_TIMEOUT_S = 10.0
_MOST_WORKERS = 32
_MOST_COUNT = 10_000_000


class Worker:
    """An answering process (``worker.py``)."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "rdmaorder.pingpong.worker"),
                json.dumps({**spec, "parent": os.getpid()}),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the client
            env={**os.environ, "PYTHONPATH": _package_parent()},
        )
        line = self._line()
        if line is None:
            self.end()
            raise SystemFailure(f"the {spec['kind']} end did not start")
        if "error" in line:
            self.end()
            raise SystemFailure(str(line["error"]))
        self.facts = line
        self._stopped = False

    def _line(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        return json.loads(text) if text else None

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def pause(self) -> None:
        """Stops it where it is; its processor is free when this returns."""
        if self._process.poll() is not None or self._stopped:
            return
        self._process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._stopped = True

    def resume(self) -> None:
        """Lets it run. Raises SystemFailure when it is gone."""
        if self._process.poll() is not None:
            raise SystemFailure(
                f"the {self.spec['kind']} end (process {self.pid}) ended with status "
                f"{self._process.returncode}"
            )
        self._process.send_signal(signal.SIGCONT)
        self._stopped = False

    def end(self) -> dict[str, Any]:
        """Ends it and gives what it had to say at its end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            output, _ = self._process.communicate(timeout=_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, _ = self._process.communicate()
        lines = (output or "").splitlines()
        with contextlib.suppress(ValueError, IndexError):
            last = json.loads(lines[-1])
            return last if isinstance(last, dict) else {}
        return {}


def _package_parent() -> str:
    folder = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH")
    return f"{folder}:{before}" if before else folder


class Server:
    """Listens at ``address`` and serves one client after another.

    ``levels``, ``size``: what clients may ask for; others are refused with a reason.
    """

    def __init__(
        self,
        address: Address,
        *,
        cpu: int,
        size: int | None = None,
        levels: tuple[str, ...] = LEVELS,
        journal: str | None = None,
        tls: dict[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._address = address
        self._cpu = cpu
        self._size = size
        self._levels = levels
        self._tls = tls or {}
        self._say = say
        self._opened = 0
        self._workers: dict[str, Worker] = {}
        self._since_s = self._heard_s = 0.0  #: the client came, and spoke last
        self._listener = self._listen()
        self._folders = contextlib.ExitStack()
        self._folder = self._folders.enter_context(own_folder())
        try:
            self._journals = self._folders.enter_context(journal_folder(journal, self._folder))
        except SystemFailure:
            self.close()
            raise

    @property
    def url(self) -> str:
        """With the real port in place of 0."""
        if self._address.scheme == "shm":
            return self._address.url
        host, port = self._listener.getsockname()[:2]
        return f"rdma://{host}:{port}"

    def _listen(self) -> socket.socket:
        try:
            if self._address.scheme == "shm":
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._take_over(self._address.path)
                listener.bind(self._address.path)
            else:
                listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((self._address.host, self._address.port))
            listener.listen(4)
        except OSError as error:
            raise SystemFailure(
                f"cannot listen at {self._address.url}: {error.strerror}",
                error_number=error.errno or 0,
            ) from None
        return listener

    @staticmethod
    def _take_over(path: str) -> None:
        """Removes a socket file that nobody listens at any more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink(missing_ok=True)
            except OSError:
                return

    def serve_forever(self) -> None:
        """Until an exception (KeyboardInterrupt) ends it."""
        while True:
            self.serve_one()

    def serve_client(self) -> None:
        """One client. Whoever looks in and is none, as a second server does, is not counted."""
        while not self.serve_one():
            pass

    def serve_one(self) -> bool:
        """One connection, from its first line to its last. Whether it was a client's."""
        connection, _ = self._listener.accept()
        greeted = False
        with Channel(connection) as channel:
            try:
                hello = self._greeted(channel)
                if hello is not None:
                    greeted = True
                    self._talk(channel, hello["size"])
            except PeerGone:
                pass
            except TimeoutError:
                if greeted:
                    self._say("the client's host does not answer any more: given up")
            except (ValueError, KeyError, TypeError):
                self._say("closed a connection: what it says is not this protocol")
            finally:
                self._end_workers()
        return greeted

    def _end_workers(self) -> None:
        """A call that an exception interrupted leaves the rest to the next one."""
        for name in list(self._workers):
            self._workers[name].end()
            del self._workers[name]

    def close(self) -> None:
        """Ends the workers there are and gives the address back. Idempotent."""
        self._listener.close()
        self._end_workers()
        if self._address.scheme == "shm":
            Path(self._address.path).unlink(missing_ok=True)
        self._folders.close()

    def _greeted(self, channel: Channel) -> dict[str, Any] | None:
        """A client's first line, answered; None where that was a refusal."""
        hello = channel.receive(5.0)
        if hello.get(HELLO) != PROTOCOL:
            channel.send({HELLO: PROTOCOL, "error": f"this server speaks protocol {PROTOCOL}"})
            return None
        refusal = self._refusal(hello)
        if refusal:
            self._say(f"refused a client: {refusal}")
            channel.send({HELLO: PROTOCOL, "error": refusal})
            return None
        self._say(
            f"a client ({channel.peer()}) measures {', '.join(hello['levels'])}, "
            f"{hello['size']} bytes"
        )
        self._since_s = self._heard_s = time.monotonic()
        facts = host_facts((self._cpu,))
        facts["ticks_per_ns"] = _core.pingpong_clock()["ticks_per_ns"]
        channel.send({HELLO: PROTOCOL, "cpu": self._cpu, "pid": os.getpid(), "host": facts})
        return hello

    def _talk(self, channel: Channel, size: int) -> None:
        while True:
            request = self._request(channel)
            try:
                answer = self._answer(request, channel, size)
            except (SystemFailure, OSError) as error:
                answer = {"error": str(error)}
            channel.send({**answer, "id": request.get("id")})

    def _request(self, channel: Channel) -> dict[str, Any]:
        """The client's next. Others that come meanwhile are told that there is one."""
        waiting: list[Channel | socket.socket] = [channel, self._listener]
        while not channel.holds_line():
            ready, _, _ = select.select(waiting, [], [])
            if channel in ready:  # its end perhaps, and the next one is no client too many
                break
            self._turn_away(channel.peer())
        request = channel.receive()
        self._heard_s = time.monotonic()
        return request

    def _turn_away(self, busy_with: str) -> None:
        with contextlib.suppress(OSError, PeerGone, ValueError):
            connection, _ = self._listener.accept()
            with Channel(connection) as channel:
                now_s = time.monotonic()
                since_s, silent_s = now_s - self._since_s, now_s - self._heard_s
                busy = (
                    f"it is busy with another client ({busy_with}) since {since_s:.0f} s, last "
                    f"heard of {silent_s:.0f} s ago; try again when that has ended, or end it"
                )
                channel.send({HELLO: PROTOCOL, "error": busy})
                # Closing with something unread may take the answer back (TCP).
                channel.receive(0.2)

    def _refusal(self, hello: dict[str, Any]) -> str:
        if hello.get("version") != __version__:
            return f"the client is rdmaorder {hello.get('version')}, the server {__version__}"
        if self._size is not None and hello.get("size") != self._size:
            return (
                f"the server was started with --size {self._size}, the client with "
                f"--size {hello.get('size')}; give both the same"
            )
        if not is_size(hello.get("size")):
            return f"no message has the size {hello.get('size')!r}"
        wrong = [level for level in hello["levels"] if level not in self._levels]
        if wrong:
            return (
                f"the server was started for --level {','.join(self._levels)}, the client asks for "
                f"{wrong[0]}; give both the same"
            )
        return ""

    def _answer(self, request: dict[str, Any], channel: Channel, size: int) -> dict[str, Any]:
        name = str(request.get("name"))
        match request.get("do"):
            case "open":
                if name in self._workers or len(self._workers) == _MOST_WORKERS:
                    raise SystemFailure(f"{len(self._workers)} ends are open, {name!r} is too much")
                worker = self._workers[name] = Worker(self._spec(request, channel, size))
                return {**worker.facts, "spec": worker.spec}
            case "pause":
                self._workers[name].pause()
            case "resume":
                self._workers[name].resume()
            case "stamps":
                return {"rows": pack(np.fromfile(self._workers[name].spec["stamps"], np.uint64))}
            case "close":
                return self._workers.pop(name).end()
            case other:
                return {"error": f"no such request: {other}"}
        return {}

    def _spec(self, request: dict[str, Any], channel: Channel, size: int) -> dict[str, Any]:
        """What the worker for a request is to be."""
        self._opened += 1
        kind = request["kind"]
        spec: dict[str, Any] = {"kind": kind, "size": size, "cpu": self._cpu}
        host = channel.local_address() or "127.0.0.1"
        if kind == "raw":
            rdma = self._address.scheme == "rdma"
            options = {key: str(value) for key, value in self._address.options.items()}
            spec |= {
                "paced": bool(request["paced"]),
                "peer": request["peer"],
                "options": options if rdma else None,
                "local_address": host if rdma else "",
            }
        elif kind == "gateway":
            spec["settings"] = self._gateway_settings(request["level"], host)
            stamps = str(self._folder / f"{self._opened}.stamps")
            spec["stamps"] = stamps if request["waterfall"] else None
        elif kind == "unix":
            spec["path"] = str(self._folder / f"{self._opened}.sock")
        elif kind in ("tcp", "udp"):
            spec["host"] = host
        elif kind == "zeromq":
            library = find_libzmq()
            if not library:
                raise SystemFailure("the server's host has no libzmq: apt-get install libzmq5")
            spec |= {
                "library": library,
                "blocking": bool(request["blocking"]),
                "endpoint": f"ipc://{self._folder / f'{self._opened}.zmq'}",
            }
        elif kind == "ib_write_lat":
            count = request["count"]
            if type(count) is not int or not 1 <= count <= _MOST_COUNT:
                raise SystemFailure(f"count {count!r}: give 1 to {_MOST_COUNT}")
            spec |= {"port": free_port(), "host": host, "count": count}
        elif kind == "iceoryx2":
            spec["service"] = f"rdmaorder-pingpong-{os.getpid()}-{self._opened}"
        else:
            raise SystemFailure(f"no such end: {kind}")
        return spec

    def _gateway_settings(self, level: object, host: str) -> dict[str, Any]:
        if level not in self._levels or level == "raw":
            raise SystemFailure(f"no gateway of level {level!r} here")
        settings: dict[str, Any] = {
            "handler": handler_of(str(level)),
            "idle": "spin",
            "cpu": self._cpu,
            "counters": str(self._folder / f"{self._opened}.counters"),
        }
        if self._address.scheme == "shm":
            settings["listen"] = f"shm://{self._folder / f'{self._opened}.sock'}"
        else:
            query = "&".join(f"{key}={value}" for key, value in self._address.options.items())
            settings["listen"] = f"rdma://{host}:0" + (f"?{query}" if query else "")
            settings |= self._tls or {"tls": "off"}
        if level != "session":
            settings |= {"journal": str(self._journals / f"{self._opened}.journal")}
            settings |= {"sync": "none", "max_quantity": 1_000_000}
        return settings
