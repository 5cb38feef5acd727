"""Which two RDMA devices the tests use, found in /sys."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

_DEVICES = Path("/sys/class/infiniband")


@dataclass(frozen=True)
class End:
    """An active first port with a RoCE v2 GID that is an IPv4 address."""

    device: str
    address: str
    netdev: str
    gid_index: int


@dataclass(frozen=True)
class Wire:
    """Gateways listen on the near end, strategies use the far one; the same where there is one."""

    near: End
    far: End

    @property
    def listen(self) -> str:
        return f"rdma://{self.near.address}:0"


def _end_of(device: Path) -> End | None:
    port = device / "ports" / "1"
    if "ACTIVE" not in (port / "state").read_text():
        return None
    for gid in sorted((port / "gids").iterdir(), key=lambda path: int(path.name)):
        try:
            kind = (port / "gid_attrs" / "types" / gid.name).read_text().strip()
            address = ipaddress.IPv6Address(gid.read_text().strip()).ipv4_mapped
            netdev = (port / "gid_attrs" / "ndevs" / gid.name).read_text().strip()
        except OSError:  # an empty row
            continue
        if kind == "RoCE v2" and address is not None:
            return End(device.name, str(address), netdev, int(gid.name))
    return None


def find_wire() -> Wire:
    """RDMAORDER_RDMA_ADDRESS names the near end on a machine with several devices."""
    devices = sorted(_DEVICES.iterdir()) if _DEVICES.is_dir() else []
    ends = [end for device in devices if (end := _end_of(device))]
    assert ends, f"no active RDMA device with a RoCE v2 IPv4 GID among {devices or 'none'}"
    wanted = os.environ.get("RDMAORDER_RDMA_ADDRESS", ends[0].address)
    near = next((end for end in ends if end.address == wanted), None)
    assert near is not None, f"RDMAORDER_RDMA_ADDRESS={wanted} is of none of {ends}"
    return Wire(near, next((end for end in ends if end != near), near))
