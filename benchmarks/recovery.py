"""How long a session takes to come back with 1,000 reports that nobody took, and how soon a gateway
that is stopped or killed is noticed. By hand: ``python -m benchmarks.recovery``; the session is
pinned to processor 0 and the gateway to 1. The result is benchmarks/results/recovery.json."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import rdmaorder as ro
from benchmarks import environment
from rdmaorder.messages import Records

ORDERS = 1000
HEARTBEAT_S = 0.001  # a gateway's own default
RESULT = environment.ROOT / "benchmarks" / "results" / "recovery.json"
#: Processors of the session and of the gateway.
PINNED = (0, 1)


@contextmanager
def gateway_on(folder: Path, journal: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """URL and process of a gateway that may be killed; it yields its core when idle."""
    url = f"shm://{folder}/gw.sock"
    command = ["taskset", "-c", str(PINNED[1]), sys.executable, "-m", "rdmaorder", "gateway"]
    command += ["--listen", url, "--idle", "yield"]
    process = subprocess.Popen(
        [*command, "--journal", str(journal), "--counters", f"{folder}/counters"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=environment.ROOT,
    )
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise SystemExit("the gateway did not start")
        yield url, process
    finally:
        process.kill()
        process.communicate()


def orders(first_id: int) -> Records:
    """Good limit orders with ids from ``first_id`` on."""
    batch = ro.new_orders(ORDERS)
    batch["cl_ord_id"] = np.arange(first_id, first_id + ORDERS)
    batch["instrument"] = 7
    batch["side"] = ro.BUY
    batch["ord_type"] = ro.OrdType.LIMIT
    batch["price"] = ro.price("187.25")
    batch["quantity"] = 10
    return batch


def resume_ms(session: ro.Session, first_id: int) -> float:
    """From the call of reconnect to the last of 1,000 replayed reports."""
    session.send_batch(orders(first_id))
    session.wait_applied(session.next_sequence - 1, 30.0)
    start = time.perf_counter()
    session.reconnect(30.0)
    missing = ORDERS
    while missing:
        missing -= len(session.poll())
    return (time.perf_counter() - start) * 1e3


def death_ms(gateway: subprocess.Popen[str], session: ro.Session) -> float:
    """From SIGKILL of the gateway to the first send that is refused."""
    start = time.perf_counter()
    gateway.kill()
    while session.try_cancel_order(1, 1) != ro.Status.NOT_CONNECTED:
        pass
    return (time.perf_counter() - start) * 1e3


def silence_ms(gateway: subprocess.Popen[str], session: ro.Session) -> float:
    """From the moment the gateway stands still to the first send that is refused; it goes on
    afterwards. (The signal itself waits until the receiver shares its processor.)"""
    while session.status()["send_status"] != "ok":
        session.poll()
    gateway.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, gateway.pid, os.WSTOPPED)
    start = time.perf_counter()
    while session.try_cancel_order(1, 1) != ro.Status.NOT_CONNECTED:
        pass
    seen = time.perf_counter() - start
    gateway.send_signal(signal.SIGCONT)
    return seen * 1e3


def percentiles(values: list[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "p50": round(float(np.percentile(values, 50)), 3),
        "p99": round(float(np.percentile(values, 99)), 3),
        "max": round(max(values), 3),
    }


def run(rounds: int, kills: int) -> dict[str, Any]:
    """Everything, each number with its count."""
    resumes, silences, deaths = [], [], []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for kill in range(kills):
            journal = Path(folder) / f"journal-{kill}"
            with gateway_on(Path(folder), journal) as (url, gateway):
                session = ro.connect(
                    url, "bench", order_slots=4096, report_slots=4096, suspect_after_s=1.0
                )
                for n in range(rounds // kills):
                    resumes.append(resume_ms(session, n * ORDERS + 1))
                wary = ro.connect(url, "wary", suspect_after_s=2.5 * HEARTBEAT_S)
                silences += [silence_ms(gateway, wary) for _ in range(5)]
                deaths.append(death_ms(gateway, session))
                wary.close(0)
                session.close(0)
    return {
        "orders": ORDERS,
        "resume_ms": percentiles(resumes),
        "silence_seen_ms": percentiles(silences),
        "heartbeat_ms": HEARTBEAT_S * 1e3,
        "death_seen_ms": percentiles(deaths),
        "environment": environment.environment(environment.ROOT / "build" / "release", PINNED),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="reconnects measured")
    parser.add_argument("--kills", type=int, default=40, help="gateways killed")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {PINNED[0]})
    result = run(arguments.rounds, arguments.kills)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name in ("resume_ms", "silence_seen_ms", "death_seen_ms"):
        print(name, result[name])


if __name__ == "__main__":
    main()
