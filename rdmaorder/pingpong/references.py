"""What people would use instead, measured in the same run and in turn."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rdmaorder import _core
from rdmaorder.errors import ConfigError, RdmaOrderError, SystemFailure
from rdmaorder.pingpong.ends import Facts, Peer
from rdmaorder.pingpong.external import TOOLS, Tool, find_libzmq, ib_write_lat_towards
from rdmaorder.pingpong.plan import Plan
from rdmaorder.pingpong.runs import Words

__all__ = ["REFERENCES", "Reference", "check_references", "open_references"]


class Reference(Protocol):
    """One alternative. ``kind``: "samples" (every round trip kept) or "summary"."""

    name: str
    kind: str
    facts: Facts

    def resume(self) -> None:
        """The other side runs from now on."""

    def run(self, samples: Words, warm_up: int) -> Facts:
        """One run."""

    def pause(self) -> None:
        """The other side's processor is free."""


class CacheLine:
    """The floor itself: a bare word each way."""

    name, kind = "cacheline", "samples"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.facts: Facts = {"what": "one aligned word each way between the two processors"}

    def resume(self) -> None:
        """Nothing to start."""

    def run(self, samples: Words, warm_up: int) -> Facts:
        """The floor's round trips as samples that begin where the one before ended."""
        trips = _core.pingpong_floor(self._plan.client_cpu, self._plan.server_cpu, len(samples))
        count = len(trips)  # fewer where the processors are wanted by others
        samples = samples[:count]
        ends = trips.cumsum()
        samples[:, 2] = ends + 1
        samples[:, 0] = samples[:, 1] = ends - trips + 1
        return {"sent": count, "answered": count, "ending": "done"}

    def pause(self) -> None:
        """Nothing to stop."""


class _Served:
    """A reference whose other side is a worker of the server."""

    kind = "samples"

    def __init__(self, peer: Peer, plan: Plan, worker: str, **more: Any) -> None:
        self._peer, self._plan = peer, plan
        self._worker, self._told = peer.open(worker, **more)
        self.facts: Facts = {}

    def resume(self) -> None:
        self._peer.ask("resume", name=self._worker)

    def pause(self) -> None:
        self._peer.ask("pause", name=self._worker)


class Descriptor(_Served):
    """Unix socket, TCP or UDP, both ends spinning on non-blocking calls, in C++."""

    def __init__(self, peer: Peer, plan: Plan, name: str) -> None:
        self.name = name
        super().__init__(peer, plan, name)
        spec = self._told["spec"]
        if name == "unix":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.connect(spec["path"])
        elif name == "tcp":
            self._socket = socket.create_connection((spec["host"], self._told["port"]), 5.0)
            self._socket.settimeout(None)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.connect((spec["host"], self._told["port"]))
            self._socket.settimeout(5.0)
            self._socket.send(b"hello")
            self._socket.recv(64)
            self._socket.settimeout(None)
        self.facts = {"what": f"{name} socket, both ends spin on non-blocking calls, C++"}

    def run(self, samples: Words, warm_up: int) -> Facts:
        """The same loop as the levels'."""
        facts: Facts = _core.pingpong_descriptor(
            self._socket.fileno(), self.name == "udp", self._plan.size, samples, warm_up, 0
        )
        return facts


class ZeroMq(_Served):
    """PAIR over ipc through libzmq's C interface."""

    def __init__(self, peer: Peer, plan: Plan, name: str) -> None:
        self.name = name
        self._library = find_libzmq()
        self._blocking = name == "zeromq"
        super().__init__(peer, plan, "zeromq", blocking=self._blocking)
        how = "blocking in zmq_recv" if self._blocking else "spinning on ZMQ_DONTWAIT"
        self.facts = {
            "what": f"ZeroMQ PAIR over ipc, {how}, C++ on {Path(self._library).name}",
            "version": f"ZeroMQ {_libzmq_version(self._library)}",
        }

    def run(self, samples: Words, warm_up: int) -> Facts:
        """Tens of microseconds each."""
        facts: Facts = _core.pingpong_zeromq(
            self._library,
            self._told["spec"]["endpoint"],
            self._blocking,
            self._plan.size,
            samples,
            warm_up,
            0,
        )
        # The PAIR socket of this side is gone with the run; a new one needs the peer's to let go.
        self._reopen()
        return facts

    def _reopen(self) -> None:
        self._peer.ask("close", name=self._worker)
        self._worker, self._told = self._peer.open("zeromq", blocking=self._blocking)


class Iceoryx2(_Served):
    """iceoryx2's Python wheel: its Rust core, the loops in Python."""

    name = "iceoryx2"

    def __init__(self, peer: Peer, plan: Plan) -> None:
        super().__init__(peer, plan, "iceoryx2")
        self.facts = {
            "what": "iceoryx2 publish/subscribe, both loops in Python (PyPI wheel)",
            "version": f"iceoryx2 {importlib.metadata.version('iceoryx2')}",
        }

    def run(self, samples: Words, warm_up: int) -> Facts:
        """Loops in Python."""
        from rdmaorder.pingpong.iceoryx import run

        return run(self._told["spec"]["service"], self._plan.size, samples, warm_up)


class IbWriteLat:
    """perftest's ib_write_lat between the two ends of the measurement, over their own devices."""

    name, kind = "ib_write_lat", "summary"

    def __init__(self, peer: Peer, plan: Plan) -> None:
        self._peer, self._plan = peer, plan
        self.facts: Facts = {
            "what": "perftest's ib_write_lat between the same two addresses",
            "version": TOOLS["ib_write_lat"].version(),
        }

    def resume(self) -> None:
        """Starts with the run."""

    def run(self, samples: Words, warm_up: int) -> Facts:
        """A new server there, a client here."""
        count = self._plan.reference_count
        worker, told = self._peer.open("ib_write_lat", count=count)
        channel = self._peer.channel
        try:
            return ib_write_lat_towards(
                self._plan, channel.local_address(), channel.peer_address(), told["spec"]["port"]
            )
        finally:
            self._peer.ask("close", name=worker)

    def pause(self) -> None:
        """Ended with the run."""


class External:
    """A tool of its own, both sides started here, pinned as our ends are."""

    kind = "summary"

    def __init__(self, plan: Plan, tool: Tool) -> None:
        self.name = tool.name
        self._plan, self._tool = plan, tool
        self.facts: Facts = {"what": tool.what, "version": tool.version()}

    def resume(self) -> None:
        """Starts with the run."""

    def run(self, samples: Words, warm_up: int) -> Facts:
        """What it prints, converted to round trips."""
        return self._tool.run(self._plan)

    def pause(self) -> None:
        """Ended with the run."""


def _libzmq_version(library: str) -> str:
    numbers = [ctypes.c_int() for _ in range(3)]
    ctypes.CDLL(library).zmq_version(*(ctypes.byref(number) for number in numbers))
    return ".".join(str(number.value) for number in numbers)


def _no_libzmq() -> str:
    return "" if find_libzmq() else "apt-get install libzmq5, or pip install pyzmq"


def _no_iceoryx2() -> str:
    return "" if importlib.util.find_spec("iceoryx2") else "pip install iceoryx2"


def _nothing_missing() -> str:
    return ""


#: Name -> what is missing and how to install it; empty when it can run.
REFERENCES: Mapping[str, Callable[[], str]] = {
    "cacheline": _nothing_missing,
    "unix": _nothing_missing,
    "tcp": _nothing_missing,
    "udp": _nothing_missing,
    "zeromq": _no_libzmq,
    "zeromq-spin": _no_libzmq,
    "iceoryx2": _no_iceoryx2,
    **{name: tool.missing for name, tool in TOOLS.items()},
}
_NEED_PEER = {"unix", "tcp", "udp", "zeromq", "zeromq-spin", "iceoryx2"}
_ONE_HOST = {"cacheline", "unix", "zeromq", "zeromq-spin", "iceoryx2", *TOOLS} - {"ib_write_lat"}


def check_references(names: list[str]) -> tuple[str, ...]:
    """Known names, each once; ``all`` stands for every one."""
    wanted: list[str] = []
    for name in names:
        if name == "all":
            wanted += list(REFERENCES)
        elif name in REFERENCES:
            wanted.append(name)
        else:
            known = ", ".join(REFERENCES)
            raise ConfigError(f"--reference {name}: use one of {known}, or all")
    return tuple(dict.fromkeys(wanted))


def open_references(
    stack: contextlib.ExitStack,
    plan: Plan,
    peer: Peer | None,
    missing: dict[str, str],
    *,
    one_host: bool,
) -> list[Reference]:
    """Those asked for, made and paused; what cannot run is in ``missing`` with the remedy."""
    opened: list[Reference] = []
    for name in plan.references:
        remedy = REFERENCES[name]()
        if remedy:
            missing[name] = f"cannot run here: {remedy}"
            continue
        if name in _NEED_PEER and peer is None:
            missing[name] = "needs a second process: use --transport shm"
            continue
        if not one_host and name in _ONE_HOST:
            missing[name] = "runs on one host only, and the two ends are on two"
            continue
        try:
            reference = _open(name, plan, peer)
            reference.pause()
        except (RdmaOrderError, OSError) as error:
            missing[name] = str(error)
            continue
        opened.append(reference)
    return opened


def _open(name: str, plan: Plan, peer: Peer | None) -> Reference:
    if name == "cacheline":
        return CacheLine(plan)
    if name == "ib_write_lat" and peer is not None and plan.transport == "rdma":
        return IbWriteLat(peer, plan)
    if name in TOOLS:
        return External(plan, TOOLS[name])
    if peer is None:
        raise SystemFailure("needs a second process")
    if name in ("unix", "tcp", "udp"):
        return Descriptor(peer, plan, name)
    if name == "iceoryx2":
        return Iceoryx2(peer, plan)
    return ZeroMq(peer, plan, name)
