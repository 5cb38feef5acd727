"""``rdmaorder devices`` as it prints, and where there is nothing to print."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rdmaorder import cli, devices
from rdmaorder.errors import TransportError

DEVICE: dict[str, Any] = {
    "name": "mlx5_0",
    "firmware": "22.36.1010",
    "numa_node": 1,
    "max_depth": 32768,
    "max_completions": 4194303,
    "max_region_bytes": 1 << 40,
    "ports": [
        {
            "number": 1,
            "active": False,
            "link_layer": "InfiniBand",
            "lid": 7,
            "mtu_bytes": 4096,
            "max_message_bytes": 1 << 30,
            "gids": [{"index": 0, "address": "fe80::7", "type": "IB", "netdev": ""}],
        }
    ],
}


def test_a_device_is_shown_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "list_devices", lambda: [DEVICE])
    assert cli.main(["devices"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mlx5_0: firmware 22.36.1010, NUMA node 1",
        "  limits: depth 32,768, completions 4,194,303, region 1 TiB",
        "  port 1: DOWN, InfiniBand, LID 7, MTU 4096, message 1 GiB",
        "    GID 0: fe80::7 (IB)",
    ]


def test_a_machine_without_a_device_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "list_devices", list)
    assert cli.main(["devices", "--to", "10.1.0.1"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("no RDMA device: load the driver")
    assert "rdma link add rxe0" in shown
    assert cli.main(["devices", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"devices": []}


def test_a_machine_without_libibverbs_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> list[dict[str, Any]]:
        raise TransportError(
            "rdma:// needs libibverbs.so.1; install it: apt-get install libibverbs1"
        )

    monkeypatch.setattr(devices, "list_devices", missing)
    assert cli.main(["devices"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rdmaorder: error: rdma:// needs libibverbs.so.1")
    assert said.count("\n") == 1
