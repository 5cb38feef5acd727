"""``rdmaorder devices``: RDMA devices, ports and GIDs, and which one a peer would be reached by."""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["add_parser"]

_NO_DEVICE = (
    "no RDMA device: load the driver of the adapter (mlx5_ib, irdma, bnxt_re …), or make a "
    "software device with: rdma link add rxe0 type rxe netdev eth0"
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "devices",
        help="RDMA devices, and which one leads to a host",
        description="Shows every RDMA device with its ports, GIDs, limits and NUMA node; with "
        "--to, which of them a session to that host would use, and why. Exit status 1 where there "
        "is none. pyverbs is asked where this interpreter can import it, else libibverbs.",
    )
    parser.add_argument("--to", metavar="HOST", help="name or address of a gateway")
    parser.add_argument("--device", default="", metavar="NAME", help="as device= in a URL (--to)")
    parser.add_argument(
        "--source",
        choices=("pyverbs", "libibverbs"),
        help="ask this one (default: pyverbs where it can be imported)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rdmaorder.devices import device_towards, list_devices, listing_source

    source = arguments.source or listing_source()
    found: dict[str, Any] = {"source": source, "devices": list_devices(arguments.source)}
    if arguments.to and found["devices"]:
        found["to"] = device_towards(arguments.to, device=arguments.device)
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif not found["devices"]:
        print(_NO_DEVICE)
    else:
        for device in found["devices"]:
            _show_device(device)
        if "to" in found:
            print(_choice_line(found["to"]))
    return 0 if found["devices"] else 1


def _show_device(device: dict[str, Any]) -> None:
    if device["unusable"]:
        print(f"{device['name']}: unusable: {device['unusable']}")
        return
    node = "unknown" if device["numa_node"] < 0 else device["numa_node"]
    print(f"{device['name']}: firmware {device['firmware'] or 'unknown'}, NUMA node {node}")
    print(
        f"  limits: depth {device['max_depth']:,}, completions {device['max_completions']:,}, "
        f"region {_size(device['max_region_bytes'])}"
    )
    for port in device["ports"]:
        lid = f", LID {port['lid']}" if port["link_layer"] == "InfiniBand" else ""
        print(
            f"  port {port['number']}: {'active' if port['active'] else 'DOWN'}, "
            f"{port['link_layer']}{lid}, MTU {port['mtu_bytes']}, "
            f"message {_size(port['max_message_bytes'])}"
        )
        for gid in port["gids"]:
            netdev = f", {gid['netdev']}" if gid["netdev"] else ""
            print(f"    GID {gid['index']}: {gid['address']} ({gid['type']}{netdev})")
        if not port["gids"]:
            print("    no GID: give the interface an address")


def _choice_line(choice: dict[str, Any]) -> str:
    gid = choice["gid"]
    return (
        f"to {choice['peer']}: {choice['device']} port {choice['port']}, GID {gid['index']} "
        f"{gid['address']} ({gid['type'] or 'by LID'}), because it {choice['why']}; "
        f"the route leaves from {choice['local_address']}"
    )


def _size(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:,} {unit}"
        count //= 1024
    raise AssertionError("not reached")
