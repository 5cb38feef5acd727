"""``rdmaorder pingpong`` between the two ends of the wire."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_support import ROOT
from wire import Wire

COMMAND = [sys.executable, "-m", "rdmaorder", "pingpong"]
FEW = ("-n", "100", "--warm-up", "10", "--repeats", "1", "-q")


@pytest.fixture
def server(wire: Wire) -> Iterator[str]:
    """A ping-pong server at the near end; its URL."""
    process = subprocess.Popen(
        [*COMMAND, "--listen", f"{wire.listen}?device={wire.near.device}"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    yield process.stdout.readline().split("listening on ")[1].split(",")[0]
    process.terminate()
    process.communicate(timeout=60)


def measured(wire: Wire, folder: Path, url: str, *arguments: str) -> dict[str, Any]:
    out = folder / "out.json"
    done = subprocess.run(
        [*COMMAND, *FEW, "--to", url, "-d", wire.far.device, "--json", str(out), *arguments],
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
