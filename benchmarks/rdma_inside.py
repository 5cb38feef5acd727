"""The half of benchmarks/rdma.py that runs inside the machine."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import rdmaorder as ro
from benchmarks.environment import ROOT

SERVER, CLIENT = "10.1.0.1", "10.1.0.2"
PATIENCE_S = 120
BENCH = ROOT / "build" / "release" / "bench_rdma"
PYVERBS = ROOT / "benchmarks" / "pyverbs_post.py"

_ports = itertools.count(18600)

Measure = Callable[[], float]


class Unmeasured(Exception):
    """A program that is not here or does not run on soft-RoCE."""


def gid_index(device: str, end: str) -> str:
    for path in Path(f"/sys/class/infiniband/{device}/ports/1/gids").iterdir():
        if path.read_text().strip().endswith(end):
            return path.name
    raise Unmeasured(f"{device} has no GID {end}")


def output_of(command: list[str], env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except FileNotFoundError:
        raise Unmeasured(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unmeasured(f"{command[0]} did not end in {PATIENCE_S} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unmeasured(f"status {done.returncode}: {' '.join(last)[:200]}")
    return done.stdout


def between(
    server: list[str], client: list[str], port: int, env: tuple[dict[str, str], dict[str, str]]
) -> str:
    """Output of a client whose server listens on ``port``; each pinned to a processor."""
    try:
        waiting = subprocess.Popen(
            ["taskset", "-c", "1", *server],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **env[0]},
        )
    except FileNotFoundError:
        raise Unmeasured("taskset is not installed") from None
    try:
        for _ in range(300):
            if is_listening(port) or waiting.poll() is not None:
                break
            time.sleep(0.1)
        if waiting.poll() is not None:
            raise Unmeasured(f"its server ended with status {waiting.returncode}")
        return output_of(["taskset", "-c", "0", *client], env[1])
    finally:
        waiting.kill()
        waiting.wait()


def is_listening(port: int) -> bool:
    """A row of /proc/net/tcp with this local port in state LISTEN (0A)."""
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    return re.search(rf":{port:04X} \S+ 0A ", tables) is not None


def perftest_row(program: str, size: int, *words: str) -> list[str]:
    """The row of numbers that perftest prints."""
    port = next(_ports)  # each its own: the last one's may still be in TIME_WAIT
    common = [program, "-F", "-s", str(size), "-p", str(port), *words]
    server = [*common, "-d", "rxe0", "-x", gid_index("rxe0", "0a01:0001")]
    client = [*common, "-d", "rxe1", "-x", gid_index("rxe1", "0a01:0002"), SERVER]
    shown = between(server, client, port, ({}, {}))
    for line in shown.splitlines():
        if line.split()[:1] == [str(size)]:
            return line.split()
    raise Unmeasured(f"{program} printed no row")


def write_lat(size: int) -> Measure:
    """t_typical in microseconds; inline, as our slots go."""
    return lambda: float(perftest_row("ib_write_lat", size, "-n", "3000", "-I", str(size))[4])


def write_bw(size: int) -> Measure:
    """Messages a second."""
    return lambda: 1e6 * float(perftest_row("ib_write_bw", size, "-n", "5000", "-I", str(size))[-1])


def ours(scenario: str) -> Measure:
    def measure() -> float:
        words = ["--own", "rxe1", "--peer", "rxe0", "--only", scenario, "--run-ms", "1000"]
        row = json.loads(output_of([str(BENCH), *words]).splitlines()[-1])
        return float(row.get("orders_per_s") or row["p50_ns"] / 1000)

    return measure


def ucx() -> float:
    """Active messages, one way, microseconds."""
    words = ["ucx_perftest", "-t", "ucp_am_lat", "-s", "64", "-n", "2000", "-w", "200"]
    ends = [
        {
            "UCX_TLS": "rc_verbs,ud_verbs,self",
            "UCX_NET_DEVICES": f"{device}:1",
            "UCX_IB_GID_INDEX": gid_index(device, end),
        }
        for device, end in (("rxe0", "0a01:0001"), ("rxe1", "0a01:0002"))
    ]
    shown = between(words, [*words, SERVER], 13337, (ends[0], ends[1]))
    for line in shown.splitlines():
        if line.startswith("Final:"):
            return float(line.split()[2])
    raise Unmeasured("ucx_perftest printed no result")


def libfabric() -> float:
    """Messages, one way, microseconds."""
    words = ["fi_pingpong", "-p", "verbs", "-e", "msg", "-S", "64", "-I", "2000"]
    shown = between([*words, "-s", SERVER], [*words, SERVER], 47592, ({}, {}))
    for line in shown.splitlines():
        if line.split()[:1] == ["64"]:
            return float(line.split()[6])
    raise Unmeasured("fi_pingpong printed no row")


def pyverbs_post() -> float:
    """Microseconds of one WRITE of 64 bytes from Python with pyverbs, written and posted."""
    return float(output_of(["taskset", "-c", "0", "/usr/bin/python3", str(PYVERBS)]))


def python_new_order() -> float:
    """Microseconds of one new_order over rdma://, six arguments, the gateway in another process."""
    command = [sys.executable, "-m", "rdmaorder", "gateway", "--listen", f"rdma://{SERVER}:9100"]
    command += ["--tls", "off", "--handler", "null"]
    with subprocess.Popen(
        ["taskset", "-c", "1", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as gateway:
        assert gateway.stdout is not None
        gateway.stdout.readline()
        os.sched_setaffinity(0, {0})
        times = []
        url = f"rdma://{SERVER}:9100?tls=off&timeout_exponent=18"
        with ro.connect(
            url, "bench", order_slots=4096, suspect_after_s=30, dead_after_s=60
        ) as session:
            new_order, clock = session.new_order, time.perf_counter_ns
            for n in range(1, 2001):
                before = clock()
                new_order(n, 7, ro.BUY, 5, 10, 42)
                times.append(clock() - before)
                if n % 500 == 0:
                    session.wait_applied(n, 30)
        gateway.terminate()
    return statistics.median(times) / 1000


MEASURES: dict[str, Measure] = {
    "ib_write_lat_64": write_lat(64),
    "put_64": ours("put_64"),
    "session_64": ours("session_64"),
    "ucx_am_64": ucx,
    "libfabric_64": libfabric,
    "ib_write_lat_256": write_lat(256),
    "put_256": ours("put_256"),
    "session_256": ours("session_256"),
    "ib_write_bw_64": write_bw(64),
    "rate_64": ours("rate_64"),
    "post_64": ours("post_64"),
    "pyverbs_post": pyverbs_post,
    "python_new_order": python_new_order,
}


def main(out: Path, repeats: int) -> None:
    series: dict[str, list[float]] = {name: [] for name in MEASURES}
    missing: dict[str, str] = {}
    for turn in range(repeats):
        for name, measure in MEASURES.items():
            if name in missing:
                continue
            try:
                series[name].append(measure())
                print(f"round {turn + 1}: {name} {series[name][-1]:.2f}", flush=True)
            except Unmeasured as reason:
                missing[name] = str(reason)
                print(f"{name}: {reason}", flush=True)
    machine = {"kernel": platform.release(), "processors": os.cpu_count(), "emulated": True}
    measured = {name: values for name, values in series.items() if values}
    found = {"machine": machine, "missing": missing, "series": measured}
    (out / "measured.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
