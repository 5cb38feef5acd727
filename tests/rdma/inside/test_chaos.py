"""Deaths of both ends, faults of the wire, steps of the clock: every order accounted for."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from gateway_support import ROOT
from wire import Wire

VIOLATIONS = ("lost", "duplicated", "reordered", "corrupted", "unknown")
WIRE_FAULTS = {
    "link-down": 7,
    "packet-loss": 5,
    "packet-duplication": 4,
    "packet-reordering": 4,
}
CLOCK = {"clock-step": 2}  # the machine's own
DEATHS = {
    "strategy-kill": 3,
    "gateway-kill": 3,
    "both-kill": 1,
    "strategy-after-write": 1,
    "gateway-after-journal": 1,
    "gateway-before-report": 1,
}
WIRE_FAULTS_MIN = 20


def free_port(address: str) -> int:
    """A gateway that is started again needs the port it had."""
    with socket.create_server((address, 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_no_order_is_lost_over_faults_of_the_wire_and_deaths(soft: Wire, out: Path) -> None:
    plan = WIRE_FAULTS | CLOCK | DEATHS
    address = f"rdma://{soft.near.address}:{free_port(soft.near.address)}"
    arguments = [
        *("--transport", "rdma", "--seed", "20", "--orders", "2500"),
        *("--faults", ",".join(f"{name}={count}" for name, count in plan.items())),
        *("--listen", f"{address}?device={soft.near.device}"),
        *("--connect", f"{address}?device={soft.far.device}"),
        *("--interface", soft.near.netdev, "--interface", soft.far.netdev),
        *("--json", str(out / "chaos-rdma.json")),
    ]
    run = subprocess.run(
        [sys.executable, "-m", "rdmaorder", "chaos", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    result: dict[str, Any] = json.loads((out / "chaos-rdma.json").read_text(encoding="utf-8"))
    assert {kind: result[kind] for kind in VIOLATIONS} == dict.fromkeys(VIOLATIONS, 0)
    assert result["failures"] == []
    assert result["skipped"] == {}
    assert result["faults"] == plan
    assert sum(result["faults"][name] for name in WIRE_FAULTS) >= WIRE_FAULTS_MIN
    assert result["kills"] >= sum(DEATHS.values())
    assert result["orders"] >= 2500
