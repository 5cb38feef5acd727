"""Fixtures that every suite shares. A suite's own stay in its folder."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import (
    LENIENT,
    Connect,
    GatewayProcess,
    StartGateway,
    gateway_processes,
    rdma_listen,
    strategy_url,
)

import rdmaorder as ro

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suites of sessions and gateways run over either transport."""
    text = "what gateways of the fixtures listen on; rdma needs devices (tests/rdma/README.md)"
    parser.addoption("--transport", choices=("shm", "rdma"), default="shm", help=text)


def pytest_configure() -> None:
    """What whoever started the run has it ignore (nohup, a shell's background job) would be ignored
    by every program that it starts, too. A handler is not inherited by those: they have the
    default."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Over RDMA tests of socket files have no meaning, and those of files and flags no news."""
    if config.getoption("--transport") == "rdma":
        left = [item for item in items if item.get_closest_marker("shm_only")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session")
def transport(request: pytest.FixtureRequest) -> str:
    """``shm`` or ``rdma``."""
    chosen: str = request.config.getoption("--transport")
    return chosen


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout (or unpacked sdist) that these tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def golden(repository: Path) -> Path:
    """Bytes that earlier builds wrote and every later build must read."""
    return repository / "tests" / "golden"


@pytest.fixture
def start_gateway(tmp_path: Path, transport: str) -> Iterator[StartGateway]:
    """Starts gateways in this process with the settings given; all are stopped and leave nothing.

    Unless said otherwise: at ``gw.sock`` of the test's folder (over RDMA: any port, without TLS),
    sleeping when idle, no journal.
    """
    started: list[ro.Gateway] = []
    threads_before = set(threading.enumerate())

    def start(**settings: Any) -> ro.Gateway:
        defaults = {"listen": f"shm://{tmp_path}/gw.sock", "idle": "backoff"}
        if transport == "rdma":
            defaults |= {"listen": rdma_listen(), "tls": "off"}
        started.append(ro.Gateway(**defaults | settings))
        return started[-1].start()

    yield start
    for gateway in started:
        gateway.stop()
    for gateway in started:  # one may have the place of another that was stopped before
        assert not Path(gateway.counters_path).exists()
        assert not Path(gateway.url.removeprefix("shm://")).exists()
    left = [t.name for t in set(threading.enumerate()) - threads_before if t.name == "ro-control"]
    assert left == []


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects to a gateway or URL with patience for a slow machine; all are closed at the end."""
    made: list[ro.Session] = []

    def make(to: ro.Gateway | GatewayProcess | str, session: str = "alpha", **settings: Any) -> Any:
        url = to if isinstance(to, str) else to.url
        made.append(ro.connect(strategy_url(url), session, **LENIENT | settings))
        return made[-1]

    yield make
    for session in made:
        session.close(0)


@pytest.fixture
def start_process(tmp_path: Path, transport: str) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts ``rdmaorder gateway`` with the arguments given; none outlives the test."""
    with gateway_processes(tmp_path, transport) as start:
        yield start
