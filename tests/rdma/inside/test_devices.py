"""``rdmaorder devices`` on a machine that has some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_support import ROOT
from wire import Wire

from rdmaorder import cli


def test_every_device_is_shown_with_its_ports_gids_and_limits(
    wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["devices", "--json"]) == 0
    devices = {device["name"]: device for device in json.loads(capsys.readouterr().out)["devices"]}
    for end in (wire.near, wire.far):
        device = devices[end.device]
        assert device["max_depth"] > 0
        assert device["max_completions"] > 0
        assert device["numa_node"] >= -1
        (port, *_) = device["ports"]
        assert (port["number"], port["active"], port["link_layer"]) == (1, True, "Ethernet")
        assert port["mtu_bytes"] in (1024, 2048, 4096)
        gid = {"index": end.gid_index, "address": end.address, "type": "RoCE v2"}
        assert gid | {"netdev": end.netdev} in port["gids"]
    assert cli.main(["devices"]) == 0
    shown = capsys.readouterr().out
    for end in (wire.near, wire.far):
        assert f"GID {end.gid_index}: {end.address} (RoCE v2, {end.netdev})" in shown


def test_the_device_of_a_peer_is_that_of_the_route_and_the_reason_is_given(
    wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["devices", "--to", wire.near.address, "--json"]) == 0
    choice = json.loads(capsys.readouterr().out)["to"]
    assert choice["peer"] == wire.near.address
    assert choice["local_address"] == choice["gid"]["address"] == wire.far.address
    assert (choice["device"], choice["why"]) == (wire.far.device, f"has {wire.far.address}")
    assert cli.main(["devices", "--to", wire.near.address]) == 0
    told = f"to {wire.near.address}: {wire.far.device} port 1, GID {wire.far.gid_index}"
    assert told in capsys.readouterr().out
    words = ["devices", "--to", wire.near.address, "--device", wire.near.device, "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["to"]["device"] == wire.near.device


def test_a_peer_that_no_device_leads_to_is_an_error_with_the_remedy(
    wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["devices", "--to", "127.0.0.1"]) == 2
    said = capsys.readouterr().err
    assert "no RDMA device has a RoCE v2 GID or IPoIB interface with the address 127.0.0.1" in said
    assert "name one with device=" in said
    assert cli.main(["devices", "--to", "no.such.host.invalid"]) == 2
    assert "no.such.host.invalid" in capsys.readouterr().err


#: Where Debian puts it, for its own Python.
DEBIAN_PYVERBS = Path("/usr/lib/python3/dist-packages/pyverbs")


def test_pyverbs_and_the_function_table_tell_the_same(wire: Wire, tmp_path: Path) -> None:
    """Debian's pyverbs alone is put in the way of this interpreter, nothing else beside it."""
    (tmp_path / "pyverbs").symlink_to(DEBIAN_PYVERBS)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-c", "import pyverbs.device"]
    tried = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this Python cannot import pyverbs: {tried.stderr.strip().splitlines()[-1]}")

    def shown(*words: str) -> Any:
        command = [sys.executable, "-m", "rdmaorder", "devices", "--json", *words]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    by_default = shown("--to", wire.near.address)
    assert by_default["source"] == "pyverbs"
    table = shown("--to", wire.near.address, "--source", "libibverbs")
    assert table == by_default | {"source": "libibverbs"}
    assert {device["name"] for device in table["devices"]} >= {wire.near.device, wire.far.device}
