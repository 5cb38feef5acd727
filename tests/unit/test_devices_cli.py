"""``rdmaorder devices`` as it prints, and where there is nothing to print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from rdmaorder import Gateway, _core, cli, devices
from rdmaorder.errors import TransportError

DEVICE: dict[str, Any] = {
    "name": "mlx5_0",
    "firmware": "22.36.1010",
    "unusable": "",
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
    monkeypatch.setattr(devices, "list_devices", lambda source: [DEVICE])
    assert cli.main(["devices"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mlx5_0: firmware 22.36.1010, NUMA node 1",
        "  limits: depth 32,768, completions 4,194,303, region 1 TiB",
        "  port 1: DOWN, InfiniBand, LID 7, MTU 4096, message 1 GiB",
        "    GID 0: fe80::7 (IB)",
    ]


def test_a_device_that_cannot_be_opened_is_shown_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "open on mlx5_1: Permission denied; /dev/infiniband/uverbs* must be readable"
    refused = DEVICE | {"name": "mlx5_1", "unusable": why, "ports": []}
    monkeypatch.setattr(devices, "list_devices", lambda source: [DEVICE, refused])
    assert cli.main(["devices"]) == 0
    assert capsys.readouterr().out.splitlines()[4:] == [f"mlx5_1: unusable: {why}"]


def test_a_machine_without_a_device_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "list_devices", lambda source: [])
    assert cli.main(["devices", "--to", "10.1.0.1"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("no RDMA device: load the driver")
    assert "rdma link add rxe0" in shown
    assert cli.main(["devices", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "source": devices.listing_source(),
        "devices": [],
    }


def test_a_machine_without_libibverbs_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(source: object) -> list[dict[str, Any]]:
        raise TransportError(
            "rdma:// needs libibverbs.so.1; install it: apt-get install libibverbs1"
        )

    monkeypatch.setattr(devices, "list_devices", missing)
    assert cli.main(["devices"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rdmaorder: error: rdma:// needs libibverbs.so.1")
    assert said.count("\n") == 1


def test_pyverbs_asked_for_where_it_cannot_be_imported_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyverbs.device", None)
    assert devices.listing_source() == "libibverbs"
    assert cli.main(["devices", "--source", "pyverbs"]) == 2
    assert "apt-get install python3-pyverbs" in capsys.readouterr().err


def test_a_gateway_warns_of_a_device_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = "rdma://127.0.0.1:0?device=absent0"
    with Gateway(
        listen=[url, f"shm://{tmp_path}/gw.sock"], tls="off", handler="null", idle="backoff"
    ):
        pass
    (said,) = [each.getMessage() for each in caplog.records if "no link to" in each.getMessage()]
    assert said.startswith(f"no link to {url} can be made: ")
    if "libibverbs" not in said:
        assert "there is no RDMA device absent0 here" in said


class FakeContext:
    """The calls of a pyverbs context that listing makes, for one InfiniBand device."""

    def __init__(self, name: str) -> None:
        if name != "mlx5_0":
            raise FakeError("Failed to open device mlx5_1. Errno: 13, Permission denied")

    def __enter__(self) -> FakeContext:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def query_device(self) -> SimpleNamespace:
        return SimpleNamespace(
            fw_version="22.36.1010",
            max_qp_wr=32768,
            max_cqe=4194303,
            max_mr_size=1 << 40,
            phys_port_cnt=1,
        )

    def query_port(self, number: int) -> SimpleNamespace:
        assert number == 1
        return SimpleNamespace(
            state=1, link_layer=1, lid=7, active_mtu=5, max_msg_sz=1 << 30, gid_tbl_len=1
        )

    def query_gid_table(self, limit: int) -> list[SimpleNamespace]:
        assert limit > 0
        entry = {"gid_index": 0, "port_num": 1, "gid_type": 0, "ndev_ifindex": 0}
        return [SimpleNamespace(**entry, gid_str=lambda: "fe80:0:0:0:0:0:0:7")]


class FakeError(Exception):
    """PyverbsError."""


def put_fake_pyverbs(monkeypatch: pytest.MonkeyPatch, names: Callable[[], list[Any]]) -> None:
    device = SimpleNamespace(get_device_list=names, Context=FakeContext)
    monkeypatch.setitem(sys.modules, "pyverbs", cast(ModuleType, SimpleNamespace()))
    monkeypatch.setitem(sys.modules, "pyverbs.device", cast(ModuleType, device))
    error = cast(ModuleType, SimpleNamespace(PyverbsError=FakeError))
    monkeypatch.setitem(sys.modules, "pyverbs.pyverbs_error", error)


def test_pyverbs_gives_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    put_fake_pyverbs(monkeypatch, lambda: [SimpleNamespace(name=b"mlx5_0")])
    assert devices.listing_source() == "pyverbs"
    assert devices.list_devices() == [DEVICE | {"numa_node": -1}]


def test_where_pyverbs_fails_the_function_table_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> list[Any]:
        raise FakeError("Failed to get devices list")

    put_fake_pyverbs(monkeypatch, failing)
    monkeypatch.setattr(_core, "rdma_devices", lambda: [DEVICE])
    assert devices.list_devices() == [DEVICE]
    with pytest.raises(TransportError, match="Failed to get devices list; leave the source out"):
        devices.list_devices("pyverbs")


def test_a_list_without_devices_is_asked_of_libibverbs_which_knows_those_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hidden() -> list[Any]:
        raise TransportError("the kernel has the RDMA devices mlx5_0, libibverbs finds none")

    put_fake_pyverbs(monkeypatch, list)
    monkeypatch.setattr(_core, "rdma_devices", hidden)
    with pytest.raises(TransportError, match="the kernel has the RDMA devices mlx5_0"):
        devices.list_devices()
    assert devices.list_devices("pyverbs") == []


def test_a_gid_whose_interface_is_in_another_network_namespace_is_shown_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_fake_pyverbs(monkeypatch, lambda: [SimpleNamespace(name=b"mlx5_0")])
    table = FakeContext("mlx5_0").query_gid_table(1)
    table[0].ndev_ifindex = (1 << 31) - 1  # of no interface here
    monkeypatch.setattr(FakeContext, "query_gid_table", lambda *_: table)
    assert devices.list_devices() == [DEVICE | {"numa_node": -1}]


def test_pyverbs_names_a_device_that_it_cannot_use_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [SimpleNamespace(name=name) for name in (b"mlx5_1", b"mlx5_0")]
    put_fake_pyverbs(monkeypatch, lambda: names)
    assert cli.main(["devices", "--source", "pyverbs"]) == 0
    refused, usable, *_ = capsys.readouterr().out.splitlines()
    assert refused.startswith("mlx5_1: unusable: Failed to open device mlx5_1")
    assert usable.startswith("mlx5_0: firmware")
    assert devices.list_devices("pyverbs")[0].keys() == DEVICE.keys()
    monkeypatch.setattr(_core, "rdma_devices", lambda: [DEVICE])
    assert devices.list_devices() == [DEVICE], "by default libibverbs, which says more"
