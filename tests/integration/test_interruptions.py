"""A signal handler that raises (Ctrl-C) ends every wait for a gateway that does not answer."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from gateway_support import PATIENCE_S, Connect, GatewayProcess, order, take
from tls_support import make_certificates

import rdmaorder as ro


class Pressed(BaseException):
    """What Ctrl-C raises is no Exception either."""


@contextlib.contextmanager
def pressed_soon() -> Iterator[None]:
    """Raises Pressed in the main thread, as Ctrl-C does KeyboardInterrupt. Whoever ignores it comes
    to the end of its timeout."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise Pressed

    before = signal.signal(signal.SIGALRM, raise_it)
    end_s = time.monotonic() + PATIENCE_S
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        assert time.monotonic() < end_s, "it waited to the end of its timeout"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("kind", ["shm", "tcp", "tls"])
def test_connect_is_interrupted_and_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    if kind == "shm":
        silent = socket.socket(socket.AF_UNIX)
        silent.bind(f"{tmp_path}/gw.sock")
        url = f"shm://{tmp_path}/gw.sock"
    else:
        silent = socket.create_server(("127.0.0.1", 0))
        make_certificates(tmp_path)
        url = f"rdma://127.0.0.1:{silent.getsockname()[1]}?"
        url += "tls=off" if kind == "tcp" else f"tls_ca={tmp_path}/ca.pem"
    silent.listen()
    before = open_descriptors()
    with silent:
        with pytest.raises(Pressed), pressed_soon():
            ro.connect(url, "alpha", connect_timeout_s=PATIENCE_S)
        assert open_descriptors() == before


QUESTIONS: dict[str, Callable[[ro.Session], object]] = {
    "measure_clock": lambda session: session.measure_clock(PATIENCE_S),
    "orders": lambda session: session.orders(PATIENCE_S),
    "resolve": lambda session: session.resolve(PATIENCE_S),
    "kill": lambda session: session.kill(PATIENCE_S),
}


@pytest.fixture
def stopped(
    start_process: Callable[..., GatewayProcess], connect: Connect, tmp_path: Path
) -> tuple[GatewayProcess, ro.Session]:
    """A gateway that hangs, and a session of it with an order under way."""
    gateway = start_process("--handler", "accept", "--journal", str(tmp_path / "journal"))
    session = connect(gateway, suspect_after_s=600.0, dead_after_s=1200.0)
    order(session, 1)
    take(session, 1)
    gateway.send_signal(signal.SIGSTOP)
    order(session, 2)
    return gateway, session


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_interrupted_and_the_link_goes_on(
    stopped: tuple[GatewayProcess, ro.Session], name: str
) -> None:
    gateway, session = stopped
    with pytest.raises(Pressed), pressed_soon():
        QUESTIONS[name](session)
    gateway.send_signal(signal.SIGCONT)
    if name == "kill":
        return  # asked is asked
    take(session, 1)
    assert session.measure_clock(PATIENCE_S)
    assert order(session, 3) == 3
    assert session.close(PATIENCE_S)


def test_close_is_interrupted_and_has_closed(stopped: tuple[GatewayProcess, ro.Session]) -> None:
    _, session = stopped
    with pytest.raises(Pressed), pressed_soon():
        session.close(PATIENCE_S)
    assert session.status()["state"] == "closed"
    assert not session.close(PATIENCE_S)


def test_reconnect_is_interrupted_and_may_be_tried_again(
    stopped: tuple[GatewayProcess, ro.Session],
) -> None:
    gateway, session = stopped
    with pytest.raises(Pressed), pressed_soon():
        session.reconnect(PATIENCE_S)
    assert session.status()["state"] == "dead"
    gateway.send_signal(signal.SIGCONT)
    session.reconnect(PATIENCE_S)
    assert list(take(session, 1)["cl_ord_id"]) == [2]
    assert order(session, 3) == 3
