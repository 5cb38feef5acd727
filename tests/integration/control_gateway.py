"""A control server over a core that only keeps books, for clients in other processes.

``python control_gateway.py CERTIFICATES SETTINGS`` makes certificates in the directory CERTIFICATES
unless they are there, listens with SETTINGS (JSON of GatewayConfig; "@name" in a value becomes the
path of that file in CERTIFICATES), prints its URL, and then answers each line of its input with one
line: ``core`` with what the core was asked, ``close`` after it has shut down. It ends with its
input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from handshake_support import Running
from tls_support import make_certificates


def main(certificates: Path, settings: str) -> None:
    if not (certificates / "ca.pem").exists():
        make_certificates(certificates)
    values = {
        key: str(certificates / value[1:])
        if isinstance(value, str) and value.startswith("@")
        else value
        for key, value in json.loads(settings).items()
    }
    running = Running("", **values)
    core = running.core
    print(running.server.urls[0], flush=True)
    for line in sys.stdin:
        if line == "close\n":
            running.close()
        facts = {
            "activated": core.activated,
            "detached": core.detached,
            "offered": [
                [{**endpoint, "gid": endpoint["gid"].hex()}, window, address, options]
                for endpoint, window, address, options in core.offered
            ],
            "counters": dict(running.server.counters),
        }
        print(json.dumps(facts, separators=(",", ":"), sort_keys=True), flush=True)
    running.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
