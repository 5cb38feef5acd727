"""Fixtures that every suite shares. A suite's own stay in its folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import LENIENT, Connect, GatewayProcess, StartGateway, gateway_processes

import rdmaorder as ro

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout (or unpacked sdist) that these tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def golden(repository: Path) -> Path:
    """Bytes that earlier builds wrote and every later build must read."""
    return repository / "tests" / "golden"


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Starts gateways in this process with the settings given; all are stopped and leave nothing.

    Unless said otherwise: at ``gw.sock`` of the test's folder, sleeping when idle, no journal.
    """
    started: list[ro.Gateway] = []
    threads_before = set(threading.enumerate())

    def start(**settings: Any) -> ro.Gateway:
        defaults = {"listen": f"shm://{tmp_path}/gw.sock", "idle": "backoff"}
        started.append(ro.Gateway(**defaults | settings))
        return started[-1].start()

    yield start
    for gateway in started:
        gateway.stop()
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
        made.append(ro.connect(url, session, **LENIENT | settings))
        return made[-1]

    yield make
    for session in made:
        session.close(0)


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts ``rdmaorder gateway`` with the arguments given; none outlives the test."""
    with gateway_processes(tmp_path) as start:
        yield start
