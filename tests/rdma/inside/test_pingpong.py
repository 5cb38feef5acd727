"""``rdmaorder pingpong`` between the two ends of the wire."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import ROOT
from wire import Wire

COMMAND = [sys.executable, "-m", "rdmaorder", "pingpong"]
FEW = ("-n", "100", "--warm-up", "10", "--repeats", "1", "-q")


@contextlib.contextmanager
def listening(wire: Wire) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A ping-pong server at the near end, and its URL."""
    process = subprocess.Popen(
        [*COMMAND, "--listen", f"{wire.listen}?device={wire.near.device}"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split("listening on ")[1].split(",")[0]
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def server(wire: Wire) -> Iterator[str]:
    """The URL of one."""
    with listening(wire) as (_, url):
        yield url


def measured(wire: Wire, folder: Path, url: str, *arguments: str) -> dict[str, Any]:
    return run(folder, "--to", url, "-d", wire.far.device, *arguments)


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "out.json"
    done = subprocess.run(
        [*COMMAND, *FEW, "--json", str(out), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_payloads_and_orders_go_back_and_forth_over_the_wire(
    wire: Wire, server: str, tmp_path: Path
) -> None:
    result = measured(wire, tmp_path, server, "--level", "raw,session", "--waterfall")
    assert result["complete"]
    assert "soft_roce" in {each["key"] for each in result["warnings"]}
    for level in result["levels"].values():
        assert level["runs"][0]["answered"] == 100
        assert level["runs"][0]["bad_payloads"] == 0
        assert level["ends"]["verbs"]["mtu_bytes"] >= 256
    # The gateway is paused for its stamps; soft-RoCE delivers the last report inside the call that
    # posts it, which may not have come back yet to be stamped.
    assert result["levels"]["session"]["waterfall"]["orders"] >= 99


def test_ib_write_lat_takes_turns_between_the_same_two_ends(
    wire: Wire, server: str, tmp_path: Path
) -> None:
    if shutil.which("ib_write_lat") is None:
        pytest.skip("ib_write_lat is not installed (apt-get install perftest)")
    result = measured(wire, tmp_path, server, "--level", "raw", "--reference", "ib_write_lat")
    assert result["references"]["ib_write_lat"]["rtt_ns"]["p50"] > 0
    assert set(result["levels"]["raw"]["ratio"]) == {"ib_write_lat"}


def test_both_ends_on_one_host_are_measured_at_every_level(wire: Wire, tmp_path: Path) -> None:
    result = run(
        tmp_path,
        *("--transport", "rdma", "--address", wire.near.address, "--level", "all"),
        *("--server-device", wire.near.device, "-d", wire.far.device),
    )
    assert list(result["levels"]) == ["raw", "session", "gateway", "python", "python-handler"]
    for level in result["levels"].values():
        assert level["runs"][0]["answered"] == 100
        assert level["runs"][0]["bad_payloads"] == 0
        assert level["ends"]["verbs"]["device"] == wire.far.device


def test_paced_orders_go_over_the_wire(wire: Wire, server: str, tmp_path: Path) -> None:
    result = measured(wire, tmp_path, server, "--level", "raw,session", "--rate", "500")
    for level in result["levels"].values():
        assert level["runs"][0]["answered"] == 100


def test_a_server_that_is_killed_leaves_a_marked_result(wire: Wire, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with listening(wire) as (process, url):
        client = subprocess.Popen(
            [*COMMAND, "-D", "60", "--to", url, "-d", wire.far.device, "--json", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert client.stderr is not None
        while "run 1 of" not in client.stderr.readline():
            assert client.poll() is None
        time.sleep(3)  # of the sixty
        process.kill()
        text, _ = client.communicate(timeout=120)
    assert client.returncode == 1, text
    result = json.loads(out.read_text())
    assert (result["complete"], result["ending"]) == (False, "peer lost")
    assert result["levels"]["session"]["count"] > 0
