"""Gateways for tests: in this process, or as the command in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rdmaorder as ro
from rdmaorder.messages import REPORT_RECORD, Records

ROOT = Path(__file__).resolve().parent.parent
#: Long enough that only a hang gets there; no test waits for it to pass.
PATIENCE_S = 30.0
#: Test machines are shared: a gateway that was not scheduled for a while is not a dead one.
LENIENT: dict[str, Any] = {"suspect_after_s": 10.0, "dead_after_s": 20.0, "send_timeout_s": 10.0}

#: What ``status()`` calls the transports that ``--transport`` chooses from.
TRANSPORT_NAMES = {"shm": "shm", "rdma": "verbs"}
#: What a gateway without TLS says at its start; tests/integration/test_control_tls.py is about TLS.
_TLS_WARNINGS = ("control: TLS IS OFF", "control: whoever reaches")

StartGateway = Callable[..., ro.Gateway]
Connect = Callable[..., ro.Session]


def rdma_listen() -> str:
    """Any port of the address that the gateway's device has: rxe0's in tests/rdma/run."""
    return f"rdma://{os.environ.get('RDMAORDER_RDMA_ADDRESS', '10.1.0.1')}:0"


def strategy_url(url: str) -> str:
    """What a strategy connects to. RDMAORDER_RDMA_OPTIONS (device=mlx5_1 …) are its end's."""
    if not url.startswith("rdma:") or "?" in url:
        return url
    options = os.environ.get("RDMAORDER_RDMA_OPTIONS", "")
    return f"{url}?tls=off&{options}" if options else f"{url}?tls=off"


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Waits for ``condition`` to give something true, and gives it."""
    end_s = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        assert time.monotonic() < end_s, f"never came true: {what}"
        time.sleep(0.002)
    return result


def take(session: ro.Session, count: int) -> Records:
    """Exactly ``count`` reports, in the order of their arrival."""
    got: list[Records] = []
    missing = count
    while missing > 0:
        assert session.wait(PATIENCE_S), f"{missing} of {count} reports never came"
        got.append(session.poll(max=missing))
        missing -= len(got[-1])
    return np.concatenate(got) if got else np.empty(0, REPORT_RECORD)


def batch_of(count: int, first_id: int = 1) -> Records:
    """``count`` good limit orders."""
    orders = ro.new_orders(count)
    orders["cl_ord_id"] = np.arange(first_id, first_id + count)
    orders["instrument"] = 7
    orders["side"] = ro.BUY
    orders["ord_type"] = ro.OrdType.LIMIT
    orders["price"] = ro.price("1.25")
    orders["quantity"] = 10
    return orders


def order(session: ro.Session, cl_ord_id: int, **changes: Any) -> int:
    """Sends one good limit order."""
    values: dict[str, Any] = {
        "instrument": 7,
        "side": ro.BUY,
        "price": ro.price("1.25"),
        "quantity": 10,
    }
    return session.new_order(cl_ord_id=cl_ord_id, **values | changes)


class GatewayProcess:
    """``rdmaorder gateway`` in a process of its own, listening when the constructor returns: where
    ``--listen`` among the arguments says, else at an address of the test's own."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        name: str = "gw",
        wrapper: tuple[str, ...] = (),
        transport: str = "shm",
        rdma_url: str | None = None,
    ) -> None:
        self.arguments = arguments
        #: Where an operator asks: the kill switch has a Unix socket over RDMA too.
        self.operator_url = self.url = f"shm://{folder}/{name}.sock"
        if transport == "rdma":
            self.url = rdma_url or rdma_listen()
        self.stderr_path = folder / f"{name}.stderr"
        command = [*wrapper, sys.executable, "-m", "rdmaorder", "gateway"]
        if "--listen" not in arguments:
            command += ["--listen", self.url]
        if transport == "rdma":
            command += ["--tls", "off", "--listen", self.operator_url]
        with self.stderr_path.open("a") as stderr:
            self.process = subprocess.Popen(
                [*command, "--idle", "backoff", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        if not self.first_line:
            self.process.communicate()
            raise AssertionError(f"the gateway did not start:\n{self.stderr}")
        listening = self.first_line.split("listening on ")[1].split(",")[0]
        self.url = listening.split(" and ")[0]  # with its port

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        lines = self.stderr_path.read_text().splitlines(keepends=True)
        return "".join(line for line in lines if not any(w in line for w in _TLS_WARNINGS))

    @property
    def counters_path(self) -> Path:
        """As the first line names it."""
        return Path(self.first_line.split("counters ")[1].split(",")[0])

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and the rest of the output."""
        self.send_signal(number)
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.process.communicate()
        if "counters " in self.first_line:
            self.counters_path.unlink(missing_ok=True)


@contextlib.contextmanager
def gateway_processes(
    folder: Path, transport: str = "shm"
) -> Iterator[Callable[..., GatewayProcess]]:
    """Gives a function that starts gateways; none outlives the block. One that is started again
    under its name listens where the first did: at its socket, or at the port that was found."""
    started: list[GatewayProcess] = []
    urls: dict[str, str] = {}

    def start(*arguments: str, name: str = "gw", **settings: Any) -> GatewayProcess:
        defaults = {"transport": transport, "rdma_url": urls.get(name)}
        made = GatewayProcess(folder, *arguments, name=name, **defaults | settings)
        started.append(made)
        urls[name] = made.url
        return made

    try:
        yield start
    finally:
        for each in started:
            each.clean_up()
