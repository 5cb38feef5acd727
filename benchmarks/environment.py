"""Where a result was measured: machine, kernel, compiler, build, commit, load."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor()


def _kernel_hz() -> str:
    text = _output("sh", "-c", "zcat /proc/config.gz 2>/dev/null || cat /boot/config-$(uname -r)")
    found = re.search(r"^CONFIG_HZ=(\d+)$", text, re.MULTILINE)
    return found[1] if found else f"unknown (clock ticks {os.sysconf('SC_CLK_TCK')})"


def _build_facts(build: Path) -> dict[str, str]:
    cache = _read(str(build / "CMakeCache.txt"))

    def value(name: str) -> str:
        found = re.search(rf"^{name}:[A-Z]+=(.*)$", cache, re.MULTILINE)
        return found[1] if found else ""

    kind = value("CMAKE_BUILD_TYPE")
    flags = f"{value('CMAKE_CXX_FLAGS')} {value(f'CMAKE_CXX_FLAGS_{kind.upper()}')}".strip()
    compiler = value("CMAKE_CXX_COMPILER")
    return {
        "build_type": kind,
        "build_flags": f"{flags} -std=c++20",
        "compiler": (_output(compiler, "--version").splitlines() or [""])[0] if compiler else "",
    }


def environment(build: Path, cpus: tuple[int, int]) -> dict[str, Any]:
    """Facts that belong to every result. ``build``: folder of the benchmark programs."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "hypervisor": "hypervisor" in _read("/proc/cpuinfo"),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not exposed",
        "clocksource": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "kernel": platform.release(),
        "kernel_hz": _kernel_hz(),
        "python": platform.python_version(),
        "git_commit": _output("git", "rev-parse", "--short=12", "HEAD"),
        "git_dirty": bool(_output("git", "status", "--porcelain", "--", "cpp", "rdmaorder")),
        "pinned_to": list(cpus),
        "load_average_at_start": list(os.getloadavg()),
        **_build_facts(build),
    }
