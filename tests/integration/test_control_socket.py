"""The control socket: its file, who may begin to listen, and how a server ends."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_support import PATIENCE_S, ROOT
from handshake_support import (
    ESTABLISH,
    Running,
    Start,
    eventually,
    gateways,
    memfd,
)

from rdmaorder.errors import ConfigError


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with gateways(tmp_path) as begin:
        yield begin


@pytest.fixture
def gateway(start: Start) -> Running:
    return start()


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("drain", [True, False])
def test_closing_terminates_live_links_and_refuses_half_open_ones(
    gateway: Running, drain: bool
) -> None:
    with gateway.client() as live, gateway.client() as silent, gateway.client() as negotiated:
        epoch = live.connect("live")["epoch"]
        negotiated.negotiate()
        eventually(lambda: gateway.count("connections") == 3, "all accepted")
        gateway.close(drain)
        answer, _ = live.receive()
        assert (answer["type"], answer["code"]) == ("Terminate", "GatewayShutdown")
        assert answer["last_sequence"] == 40
        assert negotiated.receive()[0]["code"] == "Draining"
        assert silent.receive()[0]["code"] == "Draining"
        assert all(client.is_closed() for client in (live, silent, negotiated))
    assert gateway.core.detached == [(0, epoch, drain)]
    assert not Path(gateway.path).exists()


def test_closing_while_an_attach_is_under_way_refuses_and_detaches(gateway: Running) -> None:
    gateway.core.may_attach.clear()
    with gateway.client() as client:
        client.negotiate()
        own = memfd()
        client.send(ESTABLISH, (own,))
        os.close(own)
        eventually(gateway.core.attaching.is_set, "attach under way")
        closer = threading.Thread(target=gateway.close)
        closer.start()
        gateway.core.may_attach.set()
        closer.join()
        answers = []
        while not answers or answers[-1]:
            answers.append(client.receive()[0])
        assert answers[-2].get("code") in ("Draining", "GatewayShutdown")
    assert len(gateway.core.detached) == 1


def test_serve_returns_when_closed_and_closing_again_is_harmless(gateway: Running) -> None:
    served = threading.Thread(target=lambda: gateway.run(gateway.server.serve()))
    served.start()
    gateway.close()
    gateway.close()
    served.join()


# -- the socket file ---------------------------------------------------------------------------


def test_only_the_own_user_may_connect_unless_others_are_allowed(
    start: Start, tmp_path: Path
) -> None:
    assert stat.S_IMODE(Path(start().path).stat().st_mode) == 0o600
    shared = start(path=str(tmp_path / "shared.sock"), allowed_uids=(0, 12345))
    assert stat.S_IMODE(Path(shared.path).stat().st_mode) == 0o666


def test_the_socket_of_a_dead_gateway_is_replaced(start: Start, tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "gw.sock"))
    dead.listen()
    dead.close()
    with start().client() as client:
        client.connect()


def test_the_socket_of_a_live_gateway_is_left_alone(start: Start) -> None:
    live = start()
    with pytest.raises(ConfigError, match=rf"live process \(pid {os.getpid()}\)"):
        start()
    with live.client() as client:
        client.connect()


def test_a_socket_that_a_successor_made_is_not_removed(start: Start, tmp_path: Path) -> None:
    first = start()
    Path(first.path).unlink()
    second = start()
    first.close()
    with second.client() as client:
        client.connect()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "is not a socket"),
        ("absent/gw.sock", r"directory .*absent cannot be used .*create it"),
        ("file/gw.sock", r"directory .*file cannot be used"),
        (".", "names no socket file|is not a socket"),
    ],
)
def test_a_path_that_cannot_be_listened_on_is_named(
    start: Start, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        start(path=str(tmp_path / name))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


def test_a_path_too_long_for_the_kernel_is_named(start: Start, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="107"):
        start(path=str(tmp_path / ("x" * 107)))


STARTER = """
import asyncio, sys
from rdmaorder.errors import ConfigError
from rdmaorder.gateway.unix_socket import listen
sys.stdin.readline()
try:
    kept = listen(sys.argv[1], 0o600)
except ConfigError as error:
    print("refused" if "live process" in str(error) else error, flush=True)
else:
    print("listens", flush=True)
    sys.stdin.readline()
"""


def test_of_gateways_that_start_at_once_on_a_stale_socket_one_listens(
    tmp_path: Path, repository: Path
) -> None:
    path = str(tmp_path / "gw.sock")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=repository,
        )
        for _ in range(5)
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("go\n")
        starter.stdin.flush()
    said = [starter.stdout.readline().strip() for starter in starters if starter.stdout]
    for starter in starters:
        starter.communicate("end\n")
    assert sorted(said) == ["listens"] + ["refused"] * 4


STARVED = """
import os, resource, sys
import rdmaorder as ro

gateway = ro.Gateway(listen=f"shm://{sys.argv[1]}/gw.sock", idle="backoff",
                     counters=f"{sys.argv[1]}/counters")
spare = [os.dup(0) for _ in range(int(sys.argv[2]) + 1)]
files = resource.RLIMIT_NOFILE
resource.setrlimit(files, (spare[-1], resource.getrlimit(files)[1]))
for each in spare:
    os.close(each)
try:
    gateway.start()
except OSError as error:
    print(error.errno, os.path.exists(gateway.counters_path))
"""


THREADLESS = """
import os, resource, sys, threading
import rdmaorder as ro

gateway = ro.Gateway(listen=f"shm://{sys.argv[1]}/gw.sock", idle="backoff",
                     counters=f"{sys.argv[1]}/counters")

def limit():
    resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    os.geteuid() or os.setresuid(65534, 65534, 65534)  # limits do not hold for root

if sys.argv[2] == "receiver":
    limit()
else:  # the receiver's has begun
    start = threading.Thread.start
    threading.Thread.start = lambda thread: (limit(), start(thread))
try:
    gateway.start()
except ro.SystemFailure as error:
    print(error.errno, error)
gateway.stop()
"""


@pytest.mark.parametrize("thread", ["receiver", "control server"])
def test_a_start_without_threads_says_what_to_raise(tmp_path: Path, thread: str) -> None:
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", THREADLESS, str(tmp_path), thread],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.stdout.startswith(f"{errno.EAGAIN} start the "), done.stdout + done.stderr
    assert thread in done.stdout
    assert "ulimit -u" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("descriptors", [0, 3])  # for no loop, and for the loop alone
def test_a_start_without_descriptors_fails_and_does_not_wait_for_ever(
    tmp_path: Path, descriptors: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARVED, str(tmp_path), str(descriptors)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.stdout == f"{errno.EMFILE} False\n", done.stderr
    assert done.returncode == 0
