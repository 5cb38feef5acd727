"""The RDMA devices of this machine, and which of them a link to a given host would use.

Listing has two sources with one result: pyverbs where it can be imported (Debian's python3-pyverbs,
a part of rdma-core), else the library's own function table over libibverbs. Choosing has one, the
transport's own rules, so that what is shown is what ``connect`` does.
"""

from __future__ import annotations

import importlib
import ipaddress
import socket
from pathlib import Path
from typing import Any, Literal

from rdmaorder import _core
from rdmaorder.errors import ConfigError, TransportError

__all__ = ["Source", "device_towards", "list_devices", "listing_source"]

Source = Literal["pyverbs", "libibverbs"]

# Of <infiniband/verbs.h>, whose ABI is fixed; where pyverbs keeps the names changed in version 59.
_PORT_ACTIVE = 4
_ETHERNET = 2
_GID_TYPES = {0: "IB", 1: "RoCE v1", 2: "RoCE v2"}
_GIDS_MAX = 4096


def listing_source() -> Source:
    """``pyverbs`` where this interpreter can import it, else ``libibverbs``."""
    try:
        importlib.import_module("pyverbs.device")
    except (ImportError, OSError):  # not installed, or made for another libibverbs
        return "libibverbs"
    return "pyverbs"


def list_devices(source: Source | None = None) -> list[dict[str, Any]]:
    """Every device with its limits, NUMA node, ports and GIDs; empty where there is none. One that
    cannot be opened or asked says why in ``unusable``.

    ``source``: what to ask, by default listing_source(). What pyverbs cannot read is asked of
    libibverbs again, whose errors say more.

    Raises TransportError without libibverbs, where it finds none of the kernel's devices, or where
    pyverbs is asked for and fails; ConfigError where it is asked for and cannot be imported."""
    if source == "pyverbs" and listing_source() != "pyverbs":
        raise ConfigError(
            "pyverbs cannot be imported by this Python: apt-get install python3-pyverbs (for "
            "Debian's own python3), or leave the source out"
        )
    if (source or listing_source()) == "libibverbs":
        return _core.rdma_devices()
    verbs = importlib.import_module("pyverbs.device")
    failures = (importlib.import_module("pyverbs.pyverbs_error").PyverbsError, OSError)
    found = []
    try:
        for device in verbs.get_device_list():
            name = device.name.decode()
            try:
                found.append(_device_of(verbs.Context(name=name), name))
            except failures as error:
                found.append(_unusable(name, str(error)))
    except failures as error:
        if source == "pyverbs":
            raise TransportError(
                f"pyverbs cannot tell the devices of this machine: {error}; leave the source out, "
                "libibverbs says more"
            ) from error
        return _core.rdma_devices()
    if source is None and (not found or any(device["unusable"] for device in found)):
        return _core.rdma_devices()
    return found


def _unusable(name: str, why: str) -> dict[str, Any]:
    limits = dict.fromkeys(("max_depth", "max_completions", "max_region_bytes"), 0)
    facts: dict[str, Any] = {"name": name, "firmware": "", "unusable": why}
    return facts | {"numa_node": _numa_node(name)} | limits | {"ports": []}


def _device_of(context: Any, name: str) -> dict[str, Any]:
    with context:
        limits = context.query_device()
        gids = context.query_gid_table(_GIDS_MAX)
        return {
            "name": name,
            "firmware": limits.fw_version,
            "unusable": "",
            "numa_node": _numa_node(name),
            "max_depth": limits.max_qp_wr,
            "max_completions": limits.max_cqe,
            "max_region_bytes": limits.max_mr_size,
            "ports": [
                _port_of(context.query_port(number), number, gids)
                for number in range(1, limits.phys_port_cnt + 1)
            ],
        }


def _port_of(attributes: Any, number: int, gids: list[Any]) -> dict[str, Any]:
    return {
        "number": number,
        "active": attributes.state == _PORT_ACTIVE,
        "link_layer": "Ethernet" if attributes.link_layer == _ETHERNET else "InfiniBand",
        "lid": attributes.lid,
        "mtu_bytes": 128 << attributes.active_mtu,
        "max_message_bytes": attributes.max_msg_sz,
        "gids": [_gid_of(entry) for entry in gids if entry.port_num == number],
    }


def _gid_of(entry: Any) -> dict[str, Any]:
    address = ipaddress.IPv6Address(entry.gid_str())
    return {
        "index": entry.gid_index,
        "address": str(address.ipv4_mapped or address),
        "type": _GID_TYPES.get(entry.gid_type, "unknown"),
        "netdev": _interface_of(entry.ndev_ifindex),
    }


def _interface_of(index: int) -> str:
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:  # of another network namespace, as in a container, or just gone
        return ""


def _numa_node(name: str) -> int:
    try:
        return int(Path(f"/sys/class/infiniband/{name}/device/numa_node").read_text())
    except (OSError, ValueError):  # a device of software has no place
        return -1


def device_towards(host: str, *, device: str = "") -> dict[str, Any]:
    """What a strategy's end of ``rdma://host:…`` would use: ``peer`` and ``local_address`` of the
    route, ``device``, ``port``, ``gid``, ``numa_node`` and ``why``. ``device``: the URL's option.

    Raises ConfigError for a host that has no address, SystemFailure where no route leads there,
    TransportError where no device has the local address."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise ConfigError(
            f"host {host!r}: {error.strerror}; give a name or an address that resolves here"
        ) from error
    peer = str(found[0][4][0])
    local_address = _core.local_address_towards(peer)
    options = {"device": device} if device else {}
    choice = _core.rdma_choice(local_address, options)
    return {"peer": peer, "local_address": local_address} | choice
