"""Where a result was measured: everything about a host that a latency depends on."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from rdmaorder import __version__

__all__ = ["environment", "host_facts", "run_facts"]

_CPU = Path("/sys/devices/system/cpu")


def read(path: str | Path) -> str:
    """Contents of a small file, empty where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def output(*command: str, folder: Path | None = None) -> str:
    """What a command prints, empty where it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""


def _idle_states(cpu: int) -> str:
    """C-states that may be entered, the deepest last."""
    folder = _CPU / f"cpu{cpu}" / "cpuidle"
    states = []
    for state in sorted(folder.glob("state*")):
        if read(state / "disable") != "1":
            states.append(read(state / "name"))
    if states:
        return ", ".join(states)
    driver = read(_CPU / "cpuidle" / "current_driver")
    return "none" if driver == "none" else "not exposed"


def _steal_ticks() -> int:
    fields = read("/proc/stat").split("\n", 1)[0].split()
    return int(fields[8]) if len(fields) > 8 else 0


def _steal_since_boot() -> float:
    """Fraction of all processors' time that the hypervisor says it took."""
    ticks = [int(field) for field in read("/proc/stat").split("\n", 1)[0].split()[1:9]]
    every = sum(ticks)
    return round(ticks[7] / every, 5) if len(ticks) == 8 and every else 0.0


def cpu_facts(cpu: int) -> dict[str, Any]:
    """One processor."""
    folder = _CPU / f"cpu{cpu}"
    nodes = [path.name for path in folder.glob("node*")]
    return {
        "cpu": cpu,
        "governor": read(folder / "cpufreq/scaling_governor") or "not exposed",
        "frequency_khz": read(folder / "cpufreq/scaling_cur_freq") or "not exposed",
        "c_states": _idle_states(cpu),
        "core": read(folder / "topology/core_id"),
        "socket": read(folder / "topology/physical_package_id"),
        "siblings": read(folder / "topology/thread_siblings_list"),
        "numa_node": int(nodes[0].removeprefix("node")) if nodes else -1,
    }


def devices() -> list[dict[str, str]]:
    """RDMA devices as sysfs has them."""
    found = []
    for device in sorted(Path("/sys/class/infiniband").glob("*")):
        found.append(
            {
                "name": device.name,
                "firmware": read(device / "fw_ver"),
                "numa_node": read(device / "device/numa_node"),
                "soft": str(not (device / "device").exists() or device.name.startswith("rxe")),
            }
        )
    return found


def host_facts(cpus: tuple[int, ...]) -> dict[str, Any]:
    """This host, as far as a latency depends on it. The same on both ends of a measurement."""
    cpuinfo = read("/proc/cpuinfo")
    return {
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "host": platform.node(),
        "machine": platform.machine(),
        "cpu": _first(r"^model name\s*: (.*)$", cpuinfo) or platform.processor(),
        "cpu_count": os.cpu_count(),
        "hypervisor": " hypervisor" in cpuinfo,
        "steal_since_boot": _steal_since_boot(),
        "invariant_tsc": " nonstop_tsc" in cpuinfo and " constant_tsc" in cpuinfo,
        "pinned": [cpu_facts(cpu) for cpu in cpus],
        "isolated": read(_CPU / "isolated") or "none",
        "nohz_full": read(_CPU / "nohz_full").replace("(null)", "") or "none",
        "smt": read(_CPU / "smt/control") or "not exposed",
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1,
        "huge_pages": int(read("/proc/sys/vm/nr_hugepages") or 0),
        "transparent_huge_pages": _first(
            r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled")
        ),
        "clocksource": read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "kernel": platform.release(),
        "command_line": read("/proc/cmdline"),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "devices": devices(),
    }


def _commit() -> dict[str, Any]:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return {"commit": "not a checkout", "dirty": False}
    return {
        "commit": output("git", "rev-parse", "--short=12", "HEAD", folder=folder) or "unknown",
        "dirty": bool(
            output("git", "status", "--porcelain", "--", "cpp", "rdmaorder", folder=folder)
        ),
    }


@functools.cache
def _build() -> dict[str, Any]:
    from rdmaorder import _core

    return {**_core.pingpong_build(), **_commit()}


def environment(cpus: tuple[int, ...]) -> dict[str, Any]:
    """Host, build and versions."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **host_facts(cpus),
        "rdmaorder": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "build": dict(_build()),
    }


_SENT_AGAIN = ("retr", "timeout", "seq_err", "out_of_sequence", "rnr")


def sent_again() -> int:
    """Counters of this host's RDMA devices that go up when something is sent again, summed."""
    found = Path("/sys/class/infiniband").glob("*/ports/*/hw_counters/*")
    names = [path for path in found if any(part in path.name for part in _SENT_AGAIN)]
    values = [read(path) for path in names]
    return sum(int(value) for value in values if value.isdigit())


def run_facts() -> dict[str, int]:
    """Counts that go up while something runs; differences belong to the run."""
    return {"steal_ticks": _steal_ticks()}
