"""Counters files of gateways: one owner each, and what a killed gateway leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_support import Connect, GatewayProcess, StartGateway, order, take

import rdmaorder as ro
from rdmaorder.gateway import counters_file
from rdmaorder.monitor.counters import Counters

pytestmark = pytest.mark.shm_only
Start = Callable[..., GatewayProcess]


def gone_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_second_gateway_with_the_same_counters_is_refused_and_the_first_counts_on(
    start_process: Start, start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "gw.counters"
    gateway = start_process("--counters", str(path))
    with pytest.raises(ro.ConfigError) as raised:
        start_gateway(listen=f"shm://{tmp_path}/two.sock", counters=str(path))
    assert str(raised.value) == (
        f"counters file {path}: in use by process {gateway.pid}; stop it, or give each gateway "
        "a path of its own"
    )
    session = connect(gateway)
    order(session, 1)
    take(session, 1)
    with Counters(path) as counters:
        assert (counters.pid, counters.snapshot()["orders_applied"]) == (gateway.pid, 1)


def test_a_gateway_takes_the_place_of_one_that_was_killed(
    start_process: Start, tmp_path: Path
) -> None:
    path = tmp_path / "gw.counters"
    start_process("--counters", str(path)).end(signal.SIGKILL)
    assert path.exists()
    again = start_process("--counters", str(path))
    with Counters(path) as counters:
        assert counters.pid == again.pid
        assert counters.alive()


def test_a_gateway_removes_no_file_that_is_not_its_own(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    path = tmp_path / "gw.counters"
    gateway = ro.Gateway(
        listen=f"shm://{tmp_path}/one.sock", counters=str(path), idle="backoff"
    ).start()
    path.unlink()
    other = start_gateway(counters=str(path))
    gateway.stop()
    with Counters(path) as counters:
        assert counters.snapshot()["passes"] <= other.counters()["passes"]


def test_gateways_of_one_process_and_name_have_a_file_each(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    paths = []
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
        paths.append(start_gateway(listen=f"shm://{tmp_path}/{folder}/gw.sock").counters_path)
    assert len(set(paths)) == 3
    assert all(Path(path).exists() for path in paths)


def test_files_left_by_killed_gateways_of_the_name_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(counters_file.default_path(None)).parent
    me = f"rdmaorder-{os.geteuid()}"
    gone = gone_pid()
    name = tmp_path.name  # nobody else's
    left = [folder / f"{me}-{name}-{gone}{more}.counters" for more in ("", ".2")]
    left.append(folder / f"{me}-{name}-{os.getpid()}.counters")  # by an earlier one of this id
    kept = [
        folder / f"{me}-{name}-{os.getppid()}.counters",  # its process lives
        folder / f"{me}-{name}-x-{gone}.counters",  # of another name
        folder / f"{me}-{name}-{gone}.counters.Xy12Zw",
    ]
    try:
        for path in (*left, *kept):
            path.touch()
        chosen = counters_file.default_path(f"/run/{name}.sock")
        assert re.fullmatch(rf".*/{me}-{re.escape(name)}-{os.getpid()}\.counters", chosen)
        assert [path for path in left if path.exists()] == []
        assert [path for path in kept if not path.exists()] == []
    finally:
        for path in (*left, *kept):
            path.unlink(missing_ok=True)
