"""What the tests of ``rdmaorder pingpong`` share: running it, serving, finding its processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gateway_support import PATIENCE_S, ROOT, eventually

COMMAND = [sys.executable, "-m", "rdmaorder", "pingpong"]
FEW = ("-n", "500", "--warm-up", "50", "--repeats", "1", "-q")


def pingpong(*arguments: str, status: int = 0) -> str:
    """Runs the tool; its whole output."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    text = done.stdout + done.stderr
    assert done.returncode == status, text
    assert "Traceback" not in text
    return text


def measured(folder: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    """Runs the tool with --json and reads what it wrote."""
    out = folder / "out.json"
    pingpong(*FEW, "--json", str(out), *arguments, status=status)
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def recorded(folder: Path, times_ns: Iterable[int]) -> str:
    """A recording of new orders at these times; its path."""
    path = folder / "flow.csv"
    rows = [f"{t_ns},N,{n},X,B,10.5,1\n" for n, t_ns in enumerate(times_ns)]
    path.write_text("t_ns,msg,order_id,symbol,side,price,qty\n" + "".join(rows))
    return str(path)


@contextlib.contextmanager
def listening(url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    server = subprocess.Popen(
        [*COMMAND, "--listen", url, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert server.stdout is not None
        assert "listening on" in server.stdout.readline()
        yield server
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_S)


def children_of(pid: int) -> list[int]:
    """Processes started by ``pid``, and theirs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found += [int(entry.parent.name), *children_of(int(entry.parent.name))]
    return found


def worker_of(pid: int, client: int | None = None) -> int | None:
    """The answering end below ``pid`` of a client that is measuring just now: it is pinned then."""
    status = Path(f"/proc/{client or pid}/status").read_text()
    allowed = status.split("Cpus_allowed_list:")[1].split()[0]
    for child in children_of(pid) if allowed.isdigit() else ():
        with contextlib.suppress(OSError):
            if "pingpong.worker" in Path(f"/proc/{child}/cmdline").read_text():
                return child
    return None


def is_running(pid: int) -> bool:
    """Whether that process is there and no zombie that waits for whoever reaps it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextlib.contextmanager
def measuring(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The tool, writing out.json, and the process that answers it, some time into a run."""
    client = subprocess.Popen(
        [*COMMAND, "-q", "--json", str(folder / "out.json"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    try:
        worker = eventually(lambda: worker_of(client.pid), "the answering end runs")
        time.sleep(0.3)
        yield client, worker
    finally:
        client.kill()
        client.communicate()


def ending(client: subprocess.Popen[str], folder: Path, status: int) -> tuple[str, dict[str, Any]]:
    """What it printed and wrote."""
    text, _ = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == status, text
    return text, json.loads((folder / "out.json").read_text())
