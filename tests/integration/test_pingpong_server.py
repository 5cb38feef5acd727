"""What a ping-pong server lets a client ask for, spoken by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import PATIENCE_S, ROOT, eventually
from pingpong_support import (
    COMMAND,
    FEW,
    children_of,
    is_running,
    listening,
    measured,
    pingpong,
    worker_of,
)

from rdmaorder import __version__
from rdmaorder.errors import SystemFailure
from rdmaorder.gateway.address import parse_address
from rdmaorder.pingpong import wire
from rdmaorder.pingpong.ends import Peer
from rdmaorder.pingpong.serving import Server
from rdmaorder.pingpong.wire import HELLO, PROTOCOL, Channel, dial

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two spinning ends need two processors"
)

TCP_REPAIR = 19


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"shm://{tmp_path_factory.mktemp('server')}/pp.sock"
    with listening(url, "--level", "session,gateway"):
        yield url


def greeted(url: str, **differing: Any) -> tuple[Channel, dict[str, Any]]:
    channel = dial(parse_address(url))
    hello = {HELLO: PROTOCOL, "version": __version__, "size": 64, "levels": ["session"]}
    channel.send({**hello, **differing})
    return channel, channel.receive(10)


def test_paths_and_modules_are_the_servers_own(url: str, tmp_path: Path) -> None:
    """Whoever reaches the port could otherwise have it run what it likes."""
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    channel, _ = greeted(url)
    with channel:
        own = {"handler": "mine:Handler", "library": str(tmp_path / "mine.so"), "journal": True}
        _, told = Peer(channel).open("gateway", level="session", waterfall=False, **own)
    settings = told["spec"]["settings"]
    assert settings["handler"] == "accept"
    assert "journal" not in settings
    assert not (tmp_path / "imported").exists()
    eventually(lambda: not is_running(told["pid"]), "the worker has ended with its client")


def test_an_end_of_a_name_that_is_taken_is_refused(url: str) -> None:
    channel, greeting = greeted(url)
    with channel:
        peer = Peer(channel)
        ask = {"kind": "gateway", "level": "session", "waterfall": False}
        worker = peer.ask("open", name="twice", **ask)["pid"]
        with pytest.raises(SystemFailure, match="1 ends are open, 'twice' is too much"):
            peer.ask("open", name="twice", **ask)
        assert children_of(greeting["pid"]) == [worker]
    eventually(lambda: not is_running(worker), "the worker has ended with its client")


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        ({"kind": "gateway", "level": "python-handler"}, "no gateway of level 'python-handler'"),
        ({"kind": "gateway", "level": "raw"}, "no gateway of level 'raw'"),
        ({"kind": "gateway", "level": ["session"]}, r"no gateway of level \['session'\]"),
        ({"kind": "ib_write_lat", "count": "1 -x"}, "count '1 -x': give 1 to"),
        ({"kind": "ib_write_lat", "count": True}, "count True: give 1 to"),
        ({"kind": "no-such"}, "no such end: no-such"),
    ],
)
def test_what_cannot_be_opened_is_refused_by_name(
    url: str, request_: dict[str, Any], refusal: str
) -> None:
    channel, greeting = greeted(url)
    with channel:
        with pytest.raises(SystemFailure, match=refusal):
            Peer(channel).ask("open", name="end", waterfall=False, **request_)
        assert children_of(greeting["pid"]) == []


@pytest.mark.parametrize("size", [0, 63, 65, 1 << 40, -64, 64.0, "64", None, True])
def test_a_size_that_no_message_has_is_refused_at_once(url: str, size: object) -> None:
    channel, greeting = greeted(url, size=size)
    channel.close()
    assert greeting["error"] == f"no message has the size {size!r}"


def test_nesting_beyond_all_measure_is_nonsense_to_either_end() -> None:
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, theirs:
        theirs.sendall(b"[" * 200_000 + b"\n")
        with pytest.raises(ValueError, match="nested too deeply"):
            channel.receive(5)


def test_a_server_that_serves_says_so_to_others(url: str) -> None:
    channel, greeting = greeted(url)
    with channel:
        assert "error" not in greeting
        for _ in range(2):
            other, answer = greeted(url)
            other.close()
            busy = f"busy with another client (process {os.getpid()}) since "
            assert busy in answer["error"] and "last heard of" in answer["error"]
        text = pingpong(*FEW, "--to", url, status=2)
        assert "busy with another client" in text and "no ping-pong server" not in text
        with pytest.raises(SystemFailure, match="no such end"):  # it still serves
            Peer(channel).ask("open", name="end", kind="no-such")


def test_only_a_client_uses_up_a_server_for_one(tmp_path: Path) -> None:
    url = f"shm://{tmp_path}/pp.sock"
    with listening(url, "--once", "--level", "raw") as server:
        assert "Address already in use" in pingpong("--listen", url, "--once", status=2)
        for line in (b"[]\n", b'{"rdmaorder-pingpong": 2}\n', b""):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(f"{tmp_path}/pp.sock")
                connection.sendall(line)
        channel, greeting = greeted(url, levels=["session"])
        channel.close()
        assert "the client asks for session" in greeting["error"]
        assert measured(tmp_path, "--to", url, "--level", "raw")["complete"]
        assert server.wait(PATIENCE_S) == 0


def test_a_host_that_vanishes_does_not_keep_a_server_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing closes its connection. That its kernel, asked whether it is there, says no, is what
    shows here that it is asked."""
    monkeypatch.setattr(wire, "_ALIVE_EVERY_S", 1)
    cpu = max(os.sched_getaffinity(0))
    server = Server(parse_address("rdma://127.0.0.1:0"), cpu=cpu)
    serving = threading.Thread(target=server.serve_one, daemon=True)
    serving.start()
    channel, greeting = greeted(server.url)
    assert "error" not in greeting
    try:
        vanishing = socket.socket(fileno=os.dup(channel.fileno()))
        vanishing.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # it is closed without a word
    except PermissionError:
        pytest.skip("a connection is left open by an administrator alone")
    channel.close()
    vanishing.close()
    serving.join(PATIENCE_S)
    assert not serving.is_alive()
    server.close()


def test_a_server_that_is_silent_does_not_keep_its_client(tmp_path: Path) -> None:
    """Neither that nor an impatient user costs what was measured."""
    url, out = f"shm://{tmp_path}/pp.sock", tmp_path / "out.json"
    run = (*COMMAND, "--to", url, "-D", "20", "-q", "--warm-up", "0", "--json", str(out))
    with listening(url) as server:
        levels = ("--level", "raw,session")
        client = subprocess.Popen([*run, *levels], stdout=subprocess.DEVNULL, cwd=ROOT)
        worker = eventually(lambda: worker_of(server.pid, client.pid), "the answering end runs")
        time.sleep(0.5)
        for each in (server.pid, worker):
            os.kill(each, signal.SIGSTOP)
        try:
            time.sleep(4)  # an answer is waited for for two seconds; then it asks the server
            client.send_signal(signal.SIGINT)
            assert client.wait(PATIENCE_S) == 1
        finally:
            client.kill()
            os.kill(server.pid, signal.SIGCONT)
    result = json.loads(out.read_text())
    assert result["ending"] == "peer lost" and result["levels"]["raw"]["count"] > 0


def test_a_client_right_behind_another_is_served(url: str) -> None:
    channel, greeting = greeted(url)
    server = greeting["pid"]
    os.kill(server, signal.SIGSTOP)  # and sees the end of one and the next at once
    try:
        channel.close()
        behind = dial(parse_address(url))
    finally:
        os.kill(server, signal.SIGCONT)
    with behind:
        behind.send({HELLO: PROTOCOL, "version": __version__, "size": 64, "levels": ["session"]})
        assert "error" not in behind.receive(10)
