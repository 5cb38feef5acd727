"""The client's side of each level: prepare once, then run, paused in between."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import rdmaorder as ro
from rdmaorder import _core
from rdmaorder.errors import HandshakeError, Refused, SystemFailure
from rdmaorder.pingpong.plan import Plan, handler_of
from rdmaorder.pingpong.python_loop import run_python
from rdmaorder.pingpong.runs import Words
from rdmaorder.pingpong.waterfall import unpack
from rdmaorder.pingpong.wire import Channel, PeerGone

__all__ = ["End", "Peer", "open_end", "open_inproc_end"]

Facts = dict[str, Any]
_ANSWER_TIMEOUT_S, _LOST_TIMEOUT_S = 90.0, 5.0
_GONE = "the ping-pong server is gone"
_LIVE_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_NS = 2_000_000_000


class End(Protocol):
    """One thing that can be measured."""

    name: str
    #: What was obtained, for the report.
    facts: Facts

    def resume(self) -> None:
        """The other side spins from now on."""

    def run(self, samples: Words, warm_up: int, duration_ns: int, due_ns: Any) -> Facts:
        """Fills ``samples``; what happened besides."""

    def pause(self) -> None:
        """The other side's processor is free."""

    def close(self) -> Facts:
        """Ends it; what the other side had to say."""


class Peer:
    """The control connection to the server, as the client uses it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._counter = 0
        self._asked = 0
        self._timeout_s = _ANSWER_TIMEOUT_S
        self._gone = False

    def ran(self, facts: Facts) -> Facts:
        """A run. Whoever lost the answering end may have lost its server too: what is still asked
        is not waited for as long."""
        if facts["ending"] == "peer lost":
            self._timeout_s = _LOST_TIMEOUT_S
        return facts

    def ask(self, what: str, **more: Any) -> Facts:
        """One request and its answer. SystemFailure when the server refuses or is gone."""
        if self._gone:
            raise SystemFailure(_GONE)
        self._asked += 1
        try:
            self.channel.send({"do": what, "id": self._asked, **more})
            answer = self.channel.receive(self._timeout_s)
            while answer.get("id") != self._asked:  # to a question that Ctrl-C interrupted
                answer = self.channel.receive(self._timeout_s)
        except (PeerGone, TimeoutError):
            self._gone = True
            raise SystemFailure(_GONE) from None
        except ValueError as error:
            raise HandshakeError(f"the ping-pong server answered nonsense: {error}") from None
        if "error" in answer:
            raise SystemFailure(str(answer["error"]))
        return {key: value for key, value in answer.items() if key != "id"}

    def open(self, kind: str, **more: Any) -> tuple[str, Facts]:
        """A new answering end: its name there, and what it says of itself."""
        self._counter += 1
        name = f"{kind}-{self._counter}"
        return name, self.ask("open", kind=kind, name=name, **more)


class _Remote:
    """What ends with a worker at the server have in common."""

    def __init__(self, peer: Peer, name: str) -> None:
        self._peer = peer
        self._worker = name

    def resume(self) -> None:
        self._peer.ask("resume", name=self._worker)

    def pause(self) -> None:
        self._peer.ask("pause", name=self._worker)

    def close(self) -> Facts:
        return self._peer.ask("close", name=self._worker)


class RawLevel(_Remote):
    """Transport write ↔ write."""

    name = "raw"

    def __init__(self, peer: Peer, plan: Plan, options: dict[str, str] | None) -> None:
        local = peer.channel.local_address()
        self._end = _core.PingPongRaw(plan.size, plan.paced, options, local)
        own = (
            {"window": self._end.window()} if options is None else {"address": self._end.address()}
        )
        name, told = peer.open("raw", paced=plan.paced, peer=own)
        super().__init__(peer, name)
        if options is None:
            self._end.connect_shm(*told["window"])
        else:
            self._end.connect_rdma(told["address"])
        self.facts: Facts = self._end.facts()
        self.run = self._run

    def _run(self, samples: Words, warm_up: int, duration_ns: int, due_ns: Any) -> Facts:
        return self._peer.ran(
            self._end.run(samples, warm_up, duration_ns, due_ns, ANSWER_TIMEOUT_NS)
        )


class SessionLevel(_Remote):
    """Everything from ``session`` up: a real gateway process at the other end."""

    def __init__(self, peer: Peer, plan: Plan, name: str, options: str = "") -> None:
        self.name = name
        worker, told = peer.open(
            "gateway",
            level=name,
            waterfall=plan.waterfall,
        )
        super().__init__(peer, worker)
        self._python = name.startswith("python")
        self._waterfall = plan.waterfall
        if told["spec"]["settings"].get("tls") == "off":
            options = "&".join(filter(None, (options, "tls=off")))
        self._session = connect(_with_options(str(told["url"]), options), plan)
        status = self._session.status()
        names = ("transport", "order_slots", "report_slots", "huge_pages", "locked", "numa_node")
        self.facts = {key: status[key] for key in (*names, "slot_bytes", "verbs") if key in status}
        if name != "session":
            self.facts["journal"] = told["spec"]["settings"]["journal"]

    def resume(self) -> None:
        """Also waits for the first heartbeat: while paused the gateway looked dead."""
        super().resume()
        wait_live(self._session)

    def run(self, samples: Words, warm_up: int, duration_ns: int, due_ns: Any) -> Facts:
        """From Python where the level says so."""
        first = self._session.next_sequence + (warm_up if due_ns is None else 0)
        schedule = (warm_up, duration_ns, due_ns)
        facts = run_session(self._session, self._python, samples, schedule, self._waterfall)
        return self._peer.ran({**facts, "first_sequence": first})

    def stamps(self) -> Words | None:
        """The gateway's stamps of its newest orders, while paused; None where it makes none."""
        if not self._waterfall:
            return None
        return unpack(self._peer.ask("stamps", name=self._worker)["rows"])

    def close(self) -> Facts:
        self._session.close()
        return super().close()


class InprocRaw:
    """Both ends in this process; the answering one a thread."""

    name = "raw"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.facts: Facts = {"transport": "inproc"}
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        make = _core.PingPongRaw
        self._own = make(self._plan.size, self._plan.paced, None, "")
        self._other = make(self._plan.size, self._plan.paced, None, "")
        self._own.connect_inproc(self._other)
        self.facts = self._own.facts()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        import os

        os.sched_setaffinity(0, {self._plan.server_cpu})  # of this thread
        self._other.serve(False)

    def run(self, samples: Words, warm_up: int, duration_ns: int, due_ns: Any) -> Facts:
        facts: Facts = self._own.run(samples, warm_up, duration_ns, due_ns, ANSWER_TIMEOUT_NS)
        return facts

    def pause(self) -> None:
        if self._thread is not None:
            self._other.request_stop()
            self._thread.join()
            self._thread = None

    def close(self) -> Facts:
        self.pause()
        return {}


class InprocSession:
    """A gateway's receiver thread in this process."""

    def __init__(self, plan: Plan, name: str, folder: Path, journals: Path) -> None:
        self.name = name
        self._plan = plan
        self._folder, self._journals = folder, journals
        self._count = 0
        self.facts: Facts = {"transport": "shm", "one_process": True}
        self._gateway: ro.Gateway | None = None
        self._session: ro.Session | None = None

    def resume(self) -> None:
        self._count += 1
        stem = self._folder / f"{self.name}-{self._count}"
        settings: Facts = {"listen": f"shm://{stem}.sock", "idle": "spin"}
        settings |= {"cpu": self._plan.server_cpu, "counters": f"{stem}.counters"}
        if self.name != "session":
            self.facts["journal"] = str(self._journals / f"{stem.name}.journal")
            settings |= {"journal": self.facts["journal"], "sync": "none"}
            settings |= {"max_quantity": 1_000_000}
        self._gateway = ro.Gateway(handler=handler_of(self.name), **settings).start()
        self._session = connect(self._gateway.url, self._plan)

    def run(self, samples: Words, warm_up: int, duration_ns: int, due_ns: Any) -> Facts:
        assert self._session is not None
        python = self.name.startswith("python")
        return run_session(self._session, python, samples, (warm_up, duration_ns, due_ns))

    def pause(self) -> None:
        if self._session is not None and self._gateway is not None:
            self._session.close()
            self._gateway.stop()
        self._session = self._gateway = None

    def close(self) -> Facts:
        self.pause()
        return {}


def connect(url: str, plan: Plan) -> ro.Session:
    """A session that does not give up on a gateway which is stopped between two runs.

    Returns when the gateway has finished its handshake too: stopped before, it would find the time
    for that run out when it goes on, and end the link.
    """
    session = ro.connect(
        url,
        "pingpong",
        slot_bytes=plan.size,
        order_slots=1024,
        report_slots=1024,
        suspect_after_s=1.0,
        dead_after_s=86_400.0,
    )
    with contextlib.suppress(Refused):  # no journal to look in: that, too, is the gateway's answer
        session.orders()
    return session


def _with_options(url: str, options: str) -> str:
    if not options or not url.startswith("rdma"):
        return url
    base = url.partition("?")[0]
    return f"{base}?{options}"


def wait_live(session: ro.Session) -> None:
    """Until the gateway's heart is heard. What is wrong if it is not shows at the first send."""
    end_s = time.monotonic() + _LIVE_TIMEOUT_S
    while session.status()["state"] == "suspect" and time.monotonic() < end_s:
        time.sleep(0.002)


def run_session(
    session: ro.Session,
    python: bool,
    samples: Words,
    schedule: tuple[int, int, Any],
    stamps_written: bool = False,
) -> Facts:
    """One run over a session, from C++ or from Python. ``schedule``: warm-up, ns, due times."""
    if python:
        return run_python(session, samples, *schedule, ANSWER_TIMEOUT_NS, stamps_written)
    return _core.pingpong_session(session, samples, *schedule, ANSWER_TIMEOUT_NS, stamps_written)


def open_end(peer: Peer, plan: Plan, level: str, options: dict[str, str] | None) -> End:
    """A level measured between this process and a worker of the server."""
    if level == "raw":
        return RawLevel(peer, plan, options)
    query = "&".join(f"{key}={value}" for key, value in (options or {}).items())
    return SessionLevel(peer, plan, level, query)


def open_inproc_end(plan: Plan, level: str, folder: Path, journals: Path) -> End:
    """A level measured between two threads of this process."""
    return InprocRaw(plan) if level == "raw" else InprocSession(plan, level, folder, journals)
