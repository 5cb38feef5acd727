"""The RDMA devices of this machine, and which of them a link to a given host would use."""

from __future__ import annotations

import socket
from typing import Any

from rdmaorder import _core
from rdmaorder.errors import ConfigError

__all__ = ["device_towards", "list_devices"]


def list_devices() -> list[dict[str, Any]]:
    """Every device with its limits, NUMA node, ports and GIDs; empty where there is none.

    Raises TransportError without libibverbs, or where a device cannot be opened."""
    return _core.rdma_devices()


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
