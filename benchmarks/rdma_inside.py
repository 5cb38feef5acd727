"""The half of benchmarks/rdma.py that runs inside the machine."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.environment import ROOT

SERVER, CLIENT = "10.1.0.1", "10.1.0.2"
PATIENCE_S = 120
BENCH = ROOT / "build" / "release" / "bench_rdma"
PYVERBS = ROOT / "benchmarks" / "pyverbs_post.py"
#: bench_rdma's round trips before those that it counts.
WARM_UP_COUNT = 500

_ports = itertools.count(18600)

#: What one run gives: a number by the rest of its series' name, "" for the first.
Measure = Callable[[], dict[str, float]]


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
    words = ("ib_write_lat", size, "-n", "3000", "-I", str(size))
    return lambda: {"": float(perftest_row(*words)[4])}


def write_bw(size: int) -> Measure:
    """Messages a second."""
    words = ("ib_write_bw", size, "-n", "5000", "-I", str(size))
    return lambda: {"": 1e6 * float(perftest_row(*words)[-1])}


def sent_packets(device: str) -> int:
    time.sleep(0.02)  # the driver tells a number again for 10 ms
    counter = f"/sys/class/infiniband/{device}/ports/1/hw_counters/sent_pkts"
    return int(Path(counter).read_text())


def ours(scenario: str) -> Measure:
    """One way in microseconds, with the packets that the strategy's device sent in a round trip: 2
    are its WRITE and the acknowledgement of the answer; or messages a second."""

    def measure() -> dict[str, float]:
        words = ["--own", "rxe1", "--peer", "rxe0", "--only", scenario, "--run-ms", "1000"]
        before = sent_packets("rxe1")
        row = json.loads(output_of([str(BENCH), *words]).splitlines()[-1])
        if "orders_per_s" in row:
            return {"": float(row["orders_per_s"])}
        found = {"": row["p50_ns"] / 1000, "_p99": row["p99_ns"] / 1000}
        if not scenario.startswith("post"):
            round_trips = row["n"] + WARM_UP_COUNT
            found["_packets"] = (sent_packets("rxe1") - before) / round_trips
        return found

    return measure


def ucx(test: str) -> Measure:
    """The median that ucx_perftest prints: one way, microseconds. Of UCX' protocol layer: tests of
    its transport layer take the client's device for both ends, and nothing crosses the wire. It
    connects by datagrams, which it answers on these devices between IPv6 GIDs only (docs/rdma.md).
    """

    def measure() -> dict[str, float]:
        ends = [
            {
                "UCX_TLS": "rc_verbs,ud_verbs,self",
                "UCX_NET_DEVICES": f"{device}:1",
                "UCX_IB_GID_INDEX": gid_index(device, end),
            }
            for device, end in (
                ("rxe0", "fd10:0001:0000:0000:0000:0000:0000:0001"),
                ("rxe1", "fd10:0001:0000:0000:0000:0000:0000:0002"),
            )
        ]
        port = next(_ports)
        words = ["ucx_perftest", "-s", "64", "-n", "2000", "-w", "200", "-p", str(port)]
        words += ["-t", test]
        shown = between(words, [*words, SERVER], port, (ends[0], ends[1]))
        for line in shown.splitlines():
            if line.startswith("Final:"):
                return {"": float(line.split()[2])}
        raise Unmeasured("ucx_perftest printed no result")

    return measure


def libfabric() -> dict[str, float]:
    """Messages, one way, microseconds: the mean, fi_pingpong has no median."""
    words = ["fi_pingpong", "-p", "verbs", "-e", "msg", "-S", "64", "-I", "2000"]
    shown = between(words, [*words, SERVER], 47592, ({}, {}))
    for line in shown.splitlines():
        if line.split()[:1] == ["64"]:
            return {"": float(line.split()[6])}
    raise Unmeasured("fi_pingpong printed no row")


def costs(words: list[str]) -> dict[str, float]:
    """What a program that can leave doorbells out printed: microseconds by the end of the name."""
    env = {"LD_PRELOAD": os.environ["RDMAORDER_DOORBELL"]}
    found = json.loads(output_of(["taskset", "-c", "0", *words], env).splitlines()[-1])
    return {str(rest): float(value) for rest, value in found.items()}


def pyverbs() -> dict[str, float]:
    """One WRITE of 64 bytes from Python with pyverbs."""
    return costs(["/usr/bin/python3", str(PYVERBS)])


def python_new_order() -> dict[str, float]:
    """One new_order over rdma://, six arguments, the gateway in another process."""
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
        url = f"rdma://{SERVER}:9100?tls=off&timeout_exponent=18&depth=4096"
        try:
            return costs([sys.executable, "-m", "benchmarks.new_order_cost", url])
        finally:
            gateway.terminate()


#: In this order, because what is compared should be near in time.
NATIVE: dict[str, Measure] = {
    "ib_write_lat_64": write_lat(64),
    "put_64": ours("put_64"),
    "session_64": ours("session_64"),
    "ucx_put_64": ucx("ucp_put_lat"),
    "ucx_am_64": ucx("ucp_am_lat"),
    "libfabric_64": libfabric,
    "ib_write_lat_256": write_lat(256),
    "put_256": ours("put_256"),
    "session_256": ours("session_256"),
    "ib_write_bw_64": write_bw(64),
    "rate_64": ours("rate_64"),
    "post_64": ours("post_64"),
}
PYTHON: dict[str, Measure] = {"pyverbs": pyverbs, "python_new_order": python_new_order}
MEASURES = NATIVE | PYTHON


def measured_on_the_wire(name: str) -> dict[str, float]:
    """What it gives. UCX' and libfabric's own choice of a device may bypass the other one."""
    before = sent_packets("rxe0")
    found = MEASURES[name]()
    if sent_packets("rxe0") == before:
        raise Unmeasured("no packet came from rxe0: one device took both ends")
    return found


def main(out: Path, repeats: int, names: list[str]) -> None:
    series: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for turn in range(repeats):
        for name in names:
            if name in missing:
                continue
            try:
                found = measured_on_the_wire(name)
            except Unmeasured as reason:
                missing[name] = str(reason)
                print(f"{name}: {reason}", flush=True)
                continue
            for rest, value in found.items():
                series.setdefault(name + rest, []).append(value)
            shown = ", ".join(f"{name}{rest} {value:.2f}" for rest, value in found.items())
            print(f"round {turn + 1}: {shown}", flush=True)
    machine = {"kernel": platform.release(), "processors": os.cpu_count(), "emulated": True}
    result = {"machine": machine, "missing": missing, "series": series}
    (out / "measured.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
