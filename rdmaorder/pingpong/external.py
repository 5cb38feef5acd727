"""Reference tools that are programs of their own: started, pinned, their output understood."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmaorder.errors import SystemFailure
from rdmaorder.flow.sample import cache_folder
from rdmaorder.pingpong.environment import devices, output, read
from rdmaorder.pingpong.folders import own_folder
from rdmaorder.pingpong.plan import Plan

__all__ = [
    "TOOLS",
    "Tool",
    "find_libzmq",
    "free_port",
    "ib_write_lat_command",
    "ib_write_lat_towards",
    "parse_fi_pingpong",
    "parse_hdr_percentiles",
    "parse_ib_write_lat",
    "parse_ucx_perftest",
]

_LIMIT_S = 120.0
Facts = dict[str, Any]


def find_libzmq() -> str:
    """Path of libzmq: the system's, or the one that the pyzmq wheel carries. Empty: none."""
    from ctypes.util import find_library

    found = find_library("zmq")
    if found:
        return found
    spec = importlib.util.find_spec("zmq")
    if spec is None or spec.origin is None:
        return ""
    beside = Path(spec.origin).resolve().parent.parent / "pyzmq.libs"
    return next((str(path) for path in sorted(beside.glob("libzmq*.so*"))), "")


def parse_ucx_perftest(text: str) -> dict[str, float]:
    """Last line of ``-f -v`` output: iterations, percentile, average, overall (one way, us) …"""
    rows = [line.split(",") for line in text.splitlines() if re.match(r"^\d+,", line)]
    if not rows or len(rows[-1]) < 4:
        raise SystemFailure(f"ucx_perftest printed no result: {text.strip()[-200:]}")
    return {"percentile_us": float(rows[-1][1]), "average_us": float(rows[-1][3])}


def parse_fi_pingpong(text: str) -> dict[str, float]:
    """The line of the table: bytes, #sent, #ack, total, time, MB/sec, usec/xfer (one way, mean)."""
    for line in reversed(text.splitlines()):
        fields = line.split()
        if len(fields) >= 7 and fields[0].isdigit():
            return {"average_us": float(fields[6])}
    raise SystemFailure(f"fi_pingpong printed no result: {text.strip()[-200:]}")


def parse_ib_write_lat(text: str) -> dict[str, float]:
    """#bytes, #iterations, min, max, typical (median), average, deviation, 99 %, 99.9 % (us)."""
    for line in reversed(text.splitlines()):
        fields = line.split()
        if len(fields) >= 9 and fields[0].isdigit():
            numbers = [float(field) for field in fields]
            return {
                "min_us": numbers[2],
                "max_us": numbers[3],
                "p50_us": numbers[4],
                "average_us": numbers[5],
                "p99_us": numbers[7],
                "p99_9_us": numbers[8],
            }
    raise SystemFailure(f"ib_write_lat printed no result: {text.strip()[-200:]}")


def parse_hdr_percentiles(text: str) -> dict[str, float]:
    """HdrHistogram's classic listing (value in us, percentile, count, 1/(1-percentile)): RTT."""
    found: dict[str, float] = {}
    rows = re.findall(r"^\s*([\d.]+)\s+([01]\.\d+)\s+\d+(?:\s+(?:[\d.]+|inf))?\s*$", text, re.M)
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)):
        values = [float(value) for value, percentile in rows if float(percentile) >= q]
        if values:
            found[f"{name}_us"] = values[0]
    if "p50_us" not in found:
        raise SystemFailure(f"Ping printed no percentiles: {text.strip()[-200:]}")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bound(cpu: int | None = None) -> list[str]:
    """What a program is started with so that it ends with this process, and runs there alone."""
    end, pin = shutil.which("setpriv"), shutil.which("taskset")
    command = [end, "--pdeathsig", "KILL"] if end else []
    return command + ([pin, "-c", str(cpu)] if pin and cpu is not None else [])


def _pair(
    plan: Plan, server: Sequence[str], client: Sequence[str], settings: Mapping[str, str]
) -> str:
    """Both sides of a tool on the processors of the plan; what the client printed."""
    environment = {**os.environ, **settings}
    answering = subprocess.Popen(
        [*_bound(plan.server_cpu), *server],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        said = ""
        end_s = time.monotonic() + 5.0
        while time.monotonic() < end_s:
            time.sleep(0.1)  # until it listens
            done = subprocess.run(
                [*_bound(plan.client_cpu), *client],
                stdin=subprocess.DEVNULL,  # Aeron's Ping asks whether to go on
                capture_output=True,
                text=True,
                check=False,
                timeout=_LIMIT_S,
                env=environment,
            )
            said = done.stdout + done.stderr
            if done.returncode == 0:
                return done.stdout
            if answering.poll() is not None:
                break
        raise SystemFailure(f"{client[0]} failed: {said.strip()[-300:]}")
    except subprocess.TimeoutExpired:
        raise SystemFailure(f"{client[0]} did not end within {_LIMIT_S:g} s") from None
    finally:
        if answering.poll() is None:
            answering.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                answering.wait(5)
        if answering.poll() is None:
            answering.kill()
            answering.wait()


def _summary_facts(plan: Plan, rtt_ns: dict[str, float], **more: Any) -> Facts:
    facts = {"sent": 0, "answered": 0, "ending": "done", "asked": plan.reference_count}
    return {**facts, "summary_rtt_ns": rtt_ns, **more}


def _ucx(test: str) -> Callable[[Plan], Facts]:
    def run(plan: Plan) -> Facts:
        rtt: dict[str, float] = {}
        # tcp among these would be looked at in the kernel while waiting: several times slower.
        settings = {"UCX_TLS": "posix,self", "UCX_WARN_UNUSED_ENV_VARS": "n"}
        for name, rank in (("p50", "50"), ("p99", "99")):
            port = str(free_port())
            asked = ["-t", test, "-s", str(plan.size), "-n", str(plan.reference_count)]
            asked += ["-w", str(plan.warm_up)]
            found = parse_ucx_perftest(
                _pair(
                    plan,
                    ["ucx_perftest", "-p", port, "-c", str(plan.server_cpu)],
                    [
                        *("ucx_perftest", "127.0.0.1", "-p", port, "-c", str(plan.client_cpu)),
                        *(*asked, "-R", rank, "-f", "-v"),
                    ],
                    settings,
                )
            )
            rtt[name] = found["percentile_us"] * 2000
            rtt["mean"] = found["average_us"] * 2000
        return _summary_facts(
            plan, rtt, percentiles_of="the last 2,048 of its samples, one run each"
        )

    return run


def _fi(plan: Plan) -> Facts:
    port = str(free_port())
    count = str(plan.reference_count)
    asked = ["fi_pingpong", "-p", "shm", "-e", "rdm", "-I", count, "-S", str(plan.size)]
    text = _pair(plan, [*asked, "-B", port], [*asked, "-P", port, "127.0.0.1"], {})
    return _summary_facts(plan, {"mean": parse_fi_pingpong(text)["average_us"] * 2000})


def device_addresses() -> list[tuple[str, str]]:
    """Every RDMA device of this host with its IPv4 addresses (RoCE GIDs)."""
    found = []
    for gid in sorted(Path("/sys/class/infiniband").glob("*/ports/*/gids/*")):
        text = read(gid)
        if text.startswith("0000:0000:0000:0000:0000:ffff:"):
            number = int(text[-9:].replace(":", ""), 16)
            found.append((gid.parents[3].name, socket.inet_ntoa(number.to_bytes(4, "big"))))
    return list(dict.fromkeys(found))


def device_of(address: str) -> tuple[str, int] | None:
    """RDMA device and RoCE v2 GID index of a local IPv4 address; None where none has it."""
    parts = [int(part) for part in address.split(".")] if address.count(".") == 3 else []
    if not parts:
        return None
    wanted = "0000:0000:0000:0000:0000:ffff:{:02x}{:02x}:{:02x}{:02x}".format(*parts)
    for gid in sorted(Path("/sys/class/infiniband").glob("*/ports/*/gids/*")):
        kind = gid.parent.parent / "gid_attrs" / "types" / gid.name
        if read(gid) == wanted and read(kind) in ("RoCE v2", ""):
            return gid.parents[3].name, int(gid.name)
    return None


def ib_write_lat_command(size: int, count: int, port: int, address: str) -> list[str]:
    """One side of ib_write_lat on the device of ``address`` (empty: the first device)."""
    command = ["ib_write_lat", "-s", str(size), "-n", str(count), "-p", str(port), "-F"]
    found = device_of(address)
    if found is not None:
        return [*command, "-d", found[0], "-x", str(found[1])]
    return [*command, "-d", devices()[0]["name"]]


def ib_write_lat_towards(plan: Plan, own: str, peer: str, port: int) -> Facts:
    """The client's side against one that listens at ``peer``."""
    command = _bound(plan.client_cpu)
    command += [*ib_write_lat_command(plan.size, plan.reference_count, port, own), peer]
    said = ""
    for _ in range(20):
        time.sleep(0.2)  # until the other side listens
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise SystemFailure(f"ib_write_lat did not end within {_LIMIT_S:g} s") from None
        if done.returncode == 0:
            return _ib_facts(plan, done.stdout)
        said = done.stdout + done.stderr
    raise SystemFailure(f"ib_write_lat failed: {said.strip()[-300:]}")


def _ib(plan: Plan) -> Facts:
    asked = ib_write_lat_command(plan.size, plan.reference_count, free_port(), "")
    return _ib_facts(plan, _pair(plan, asked, [*asked, "127.0.0.1"], {}))


def _ib_facts(plan: Plan, text: str) -> Facts:
    found = parse_ib_write_lat(text)
    names = {"min_us": "min", "p50_us": "p50", "p99_us": "p99", "p99_9_us": "p99_9"}
    names |= {"max_us": "max", "average_us": "mean"}
    rtt = {name: round(found[key] * 2000, 1) for key, name in names.items()}
    return _summary_facts(plan, rtt)


def _aeron(plan: Plan) -> Facts:
    """Ping and Pong over IPC with a media driver of their own, whose files go with it."""
    with own_folder(_shared_memory()) as folder:
        directory = f"{folder}/driver"
        # Messages over IPC do not pass the driver; left alone its thread would spin all the same.
        settings = {"AERON_DIR": directory, "AERON_THREADING_MODE": "SHARED"}
        settings["AERON_SHARED_IDLE_STRATEGY"] = "sleeping"
        driver = subprocess.Popen(
            [*_bound(), _aeron_program("aeronmd") or "aeronmd"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **settings},
            start_new_session=True,
        )
        try:
            asked = ["-p", directory, "-c", "aeron:ipc", "-C", "aeron:ipc"]
            asked += ["-s", "1001", "-S", "1002"]  # one stream would bring Ping its own messages
            more = ["-m", str(plan.reference_count), "-L", str(plan.size)]
            more += ["-w", str(plan.warm_up)]
            pong, ping = (_aeron_program(name) or name for name in ("Pong", "Ping"))
            text = _pair(plan, [pong, *asked], [ping, *asked, *more], {})
            found = parse_hdr_percentiles(text)
        finally:
            driver.terminate()
            driver.wait()
    rtt = {name.removesuffix("_us"): round(value * 1000, 1) for name, value in found.items()}
    return _summary_facts(plan, rtt)


def _shared_memory() -> Path | None:
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


def _aeron_program(name: str) -> str | None:
    """On the path, or where ``make bench-peers`` puts it."""
    return shutil.which(name) or shutil.which(name, path=cache_folder() / "peers" / "bin")


def _aeron_samples() -> str:
    """Empty when driver and both samples are there."""
    names = [name for name in ("aeronmd", "Ping", "Pong") if _aeron_program(name) is None]
    if not names:
        return ""
    return (
        f"{', '.join(names)} not on the path: make bench-peers builds the release whose source is "
        "on PyPI; or build github.com/aeron-io/aeron (cmake -DBUILD_AERON_DRIVER=ON) and add "
        "its binaries/ to PATH"
    )


def _aeron_version() -> str:
    """Old drivers know no -v and would just run: here for a moment, with files of their own."""
    driver = _aeron_program("aeronmd") or ""
    beside = Path(driver).with_name("aeron-version.txt")
    if beside.is_file():
        return f"Aeron {read(beside)}"
    with own_folder(_shared_memory()) as folder:
        settings = {**os.environ, "AERON_DIR": f"{folder}/driver"}
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [driver, "-v"], capture_output=True, text=True, env=settings, timeout=2, check=False
            )
            return (done.stdout.splitlines() or [""])[0]
    return "version unknown"


@dataclass(frozen=True)
class Tool:
    """``run`` measures once and gives round trips in ns by name: p50, p99, mean …"""

    name: str
    command: str
    package: str
    what: str
    run: Callable[[Plan], Facts]
    version_command: tuple[str, ...]
    needs_device: bool = False
    look: Callable[[], str] | None = None
    ask_version: Callable[[], str] | None = None

    def missing(self) -> str:
        """How to install it, empty when it is there."""
        if self.look is not None:
            return self.look()
        if shutil.which(self.command) is None:
            return self.package
        if self.needs_device and not devices():
            return (
                "there is no RDMA device on this host: use one that has, or soft-RoCE (modprobe "
                "rdma_rxe; rdma link add rxe0 type rxe netdev eth0)"
            )
        return ""

    def version(self) -> str:
        """First line of what it says of itself."""
        if self.ask_version is not None:
            return self.ask_version()
        return (output(*self.version_command).splitlines() or [""])[0].removeprefix("# ")


_UCX_APT = "apt-get install ucx-utils"
TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "ucx_am",
            "ucx_perftest",
            _UCX_APT,
            "ucx_perftest ucp_am_lat over posix shared memory",
            _ucx("ucp_am_lat"),
            ("ucx_info", "-v"),
        ),
        Tool(
            "ucx_tag",
            "ucx_perftest",
            _UCX_APT,
            "ucx_perftest tag_lat over posix shared memory",
            _ucx("tag_lat"),
            ("ucx_info", "-v"),
        ),
        Tool(
            "fi_pingpong",
            "fi_pingpong",
            "apt-get install libfabric-bin",
            "fi_pingpong over libfabric's shm provider (prints a mean only)",
            _fi,
            ("fi_info", "--version"),
        ),
        Tool(
            "ib_write_lat",
            "ib_write_lat",
            "apt-get install perftest",
            "perftest's ib_write_lat between two processes of this host",
            _ib,
            ("ib_write_lat", "--version"),
            needs_device=True,
        ),
        Tool(
            "aeron",
            "Ping",
            "",
            "Aeron's C++ samples Ping and Pong over aeron:ipc",
            _aeron,
            (),
            look=_aeron_samples,
            ask_version=_aeron_version,
        ),
    )
}
