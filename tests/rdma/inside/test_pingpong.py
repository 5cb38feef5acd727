"""``rdmaorder pingpong`` between the two ends of the wire."""

from __future__ import annotations

import contextlib
import json
import os
import re
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

from rdmaorder import __version__
from rdmaorder.gateway.address import parse_address
from rdmaorder.pingpong import ends
from rdmaorder.pingpong.plan import Plan
from rdmaorder.pingpong.runs import new_samples
from rdmaorder.pingpong.wire import HELLO, PROTOCOL, dial

COMMAND = [sys.executable, "-m", "rdmaorder", "pingpong"]
FEW = ("-n", "100", "--warm-up", "10", "--repeats", "1", "-q")


@contextlib.contextmanager
def listening(wire: Wire, path: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A ping-pong server at the near end, and its URL. ``path``: where it finds more modules."""
    process = subprocess.Popen(
        [*COMMAND, "--listen", f"{wire.listen}?device={wire.near.device}"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{path}"} if path else None,
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


SLOW_GATEWAY = """
import asyncio

from rdmaorder.gateway.handshake import Handshake

activate = Handshake.activate


async def activate_late(handshake, channel, link, deadline_s):
    deadline_s = asyncio.get_running_loop().time() + 3.0
    await asyncio.sleep(0.5)
    await activate(handshake, channel, link, deadline_s)


Handshake.activate = activate_late
"""


def test_a_gateway_slow_at_the_end_of_its_handshake_is_not_stopped_within_it(
    wire: Wire, tmp_path: Path
) -> None:
    """Its time for the handshake would run out while the other levels are measured."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_GATEWAY)
    plan = Plan(client_cpu=0, server_cpu=1, transport="rdma", iterations=50, warm_up=10)
    with listening(wire, tmp_path) as (_, url), dial(parse_address(url)) as channel:
        channel.send({HELLO: PROTOCOL, "version": __version__, "size": 64, "levels": ["session"]})
        assert "error" not in channel.receive(60)
        peer = ends.Peer(channel)
        end = ends.open_end(peer, plan, "session", {"device": wire.far.device})
        end.pause()
        time.sleep(4)
        end.resume()
        facts = end.run(new_samples(plan.sample_count), plan.warm_up, 0, None)
        assert (facts["ending"], facts["sent"]) == ("done", 50), facts


def test_paced_orders_go_over_the_wire(wire: Wire, server: str, tmp_path: Path) -> None:
    result = measured(wire, tmp_path, server, "--level", "raw,session", "--rate", "500")
    for level in result["levels"].values():
        assert level["runs"][0]["answered"] == 100


def test_a_server_that_is_killed_leaves_a_marked_result(wire: Wire, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ("-D", "60", "-d", wire.far.device, "--json", str(out))
    with listening(wire) as (process, url):
        client = subprocess.Popen(
            [*COMMAND, *options, "--to", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert client.stderr is not None
        while not re.search(r"run 1 of .*, [1-9][\d,]* orders", client.stderr.readline()):
            assert client.poll() is None
        process.kill()  # after ten of the sixty seconds
        text, complaint = client.communicate(timeout=120)
    assert client.returncode == 1, text + complaint
    result = json.loads(out.read_text())
    assert (result["complete"], result["ending"]) == (False, "peer lost")
    assert result["levels"]["session"]["count"] > 0
