"""What a ping-pong server lets a client ask for, spoken by hand."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import PATIENCE_S, eventually
from pingpong_support import FEW, children_of, is_running, listening, measured, pingpong

from rdmaorder import __version__
from rdmaorder.errors import SystemFailure
from rdmaorder.gateway.address import parse_address
from rdmaorder.pingpong.ends import Peer
from rdmaorder.pingpong.wire import HELLO, PROTOCOL, Channel, dial

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two spinning ends need two processors"
)


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
            assert "busy with another client" in answer["error"]
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
