"""The answering end, in a process of its own: ``python -m rdmaorder.pingpong.worker SPEC``.

SPEC is a JSON object. The worker prints one line of JSON when it can be measured, or one that says
why not, and ends with the process that started it or when SIGTERM comes. Between runs it is stopped
with SIGSTOP: it spins, and would disturb what else is measured on its processor.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _gateway(spec: dict[str, Any]) -> None:
    from rdmaorder._end_signals import end_signals
    from rdmaorder.gateway import Gateway

    with end_signals() as wait_for_end:
        gateway = Gateway(**spec["settings"])
        if spec["stamps"]:
            gateway.stamp_orders(_mapped_stamps(spec["stamps"]))
        with gateway:
            _say({"url": gateway.url, "pid": os.getpid()})
            wait_for_end()
            _say(gateway.counters())


def _mapped_stamps(path: str) -> Any:
    """Memory in a file: the server reads it when the client asks, while this process is stopped."""
    import numpy as np

    from rdmaorder.pingpong.waterfall import MOST_ROWS

    rows = np.memmap(path, np.uint64, "w+", shape=(MOST_ROWS, 8))
    rows.fill(0)  # every page is there before the first order
    return rows


def _raw(spec: dict[str, Any]) -> None:
    from rdmaorder import _core

    end = _core.PingPongRaw(spec["size"], spec["paced"], spec["options"], spec["local_address"])
    peer = spec["peer"]
    # Asked before the connection is made: what is told of an RDMA end is that of its endpoint.
    own: dict[str, Any] = {"pid": os.getpid()}
    if spec["options"] is None:
        end.connect_shm(*peer["window"])
        own["window"] = end.window()
    else:
        own["address"] = end.address()
        end.connect_rdma(peer["address"])
    _pin(spec)
    _say({**own, "facts": end.facts()})
    _say({"bad_payloads": end.serve(True)})


def _descriptor(spec: dict[str, Any]) -> None:
    from rdmaorder import _core

    kind = spec["kind"]
    if kind == "udp":
        connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        connection.bind((spec["host"], 0))
        _say({"pid": os.getpid(), "port": connection.getsockname()[1]})
        _, sender = connection.recvfrom(65536)
        connection.connect(sender)
        connection.send(b"ready")
    else:
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind(spec["path"] if kind == "unix" else (spec["host"], 0))
        listener.listen(1)
        _say({"pid": os.getpid(), "port": 0 if kind == "unix" else listener.getsockname()[1]})
        connection, _ = listener.accept()
        if kind == "tcp":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _pin(spec)
    _core.pingpong_serve_descriptor(connection.fileno(), kind == "udp", spec["size"])


def _zeromq(spec: dict[str, Any]) -> None:
    from rdmaorder import _core

    _pin(spec)
    _say({"pid": os.getpid()})
    _core.pingpong_serve_zeromq(spec["library"], spec["endpoint"], spec["blocking"], spec["size"])


def _iceoryx2(spec: dict[str, Any]) -> None:
    from rdmaorder.pingpong.iceoryx import serve

    _pin(spec)
    serve(spec["service"], spec["size"], lambda: _say({"pid": os.getpid()}))


def _ib_write_lat(spec: dict[str, Any]) -> None:
    from rdmaorder.pingpong.external import ib_write_lat_command

    _pin(spec)
    command = ib_write_lat_command(spec["size"], spec["count"], spec["port"], spec["host"])
    _say({"pid": os.getpid()})
    os.execvp(command[0], command)


_KINDS = {
    "gateway": _gateway,
    "raw": _raw,
    "unix": _descriptor,
    "tcp": _descriptor,
    "udp": _descriptor,
    "zeromq": _zeromq,
    "iceoryx2": _iceoryx2,
    "ib_write_lat": _ib_write_lat,
}


def _pin(spec: dict[str, Any]) -> None:
    os.sched_setaffinity(0, {spec["cpu"]})


def main() -> int:
    """Serves one specification."""
    from rdmaorder.errors import RdmaOrderError
    from rdmaorder.pingpong.processes import end_with

    spec = json.loads(sys.argv[1])
    end_with(spec["parent"], signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the client; it ends this one
    try:
        _KINDS[spec["kind"]](spec)
    except (RdmaOrderError, OSError) as error:
        _say({"error": str(error)})
        return 1
    finally:
        if spec["kind"] == "unix":
            Path(spec["path"]).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
