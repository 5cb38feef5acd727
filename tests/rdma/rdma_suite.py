"""The suite on RDMA devices: listed on the host, run in one boot of the machine.

What runs is named in ``INSIDE``. Its results come back as they are made, one JSON line each, so
that a machine that dies half way still says how far it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CPP_TESTS = ROOT / "build" / "dev" / "rdmaorder_tests"
CPP_FILTER = "VerbsDevice*"
#: pytest's words inside.
INSIDE = (
    "tests/rdma/inside",
    "tests/integration/test_session.py",
    "tests/integration/test_polled_arrays.py",
    "tests/integration/test_handlers.py",
    "tests/integration/test_order_handlers.py",
    "tests/integration/test_gateway_process.py",
    "tests/integration/test_bad_input.py",
    "tests/integration/test_order_values.py",
    "tests/integration/test_recovery.py",
    "tests/integration/test_fates.py",
    "tests/integration/test_limits.py",
)
#: Emulation makes each import ten times as long; nothing inside needs these plugins.
LIGHT = [
    word
    for name in ("cacheprovider", "hypothesispytest", "benchmark")
    for word in ("-p", f"no:{name}")
]
#: Names some of them instead, and leaves the C++ tests out.
ONLY = os.environ.get("RDMAORDER_RDMA_ONLY", "").split()
#: Times of a good run are half of this; a hang must not cost the hour.
TIME_LIMIT_S = 1500
MACHINE_FAILED = 125


@dataclass
class Suite:
    """What one run left."""

    folder: Path
    status: int
    seconds: float
    stdout: str
    stderr: str
    results: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def end(self) -> str:
        """How it ended, for a test that has no result."""
        said = (self.stderr + self.stdout).strip()[-2000:]
        log = self.folder / "python.log"
        tail = log.read_text(errors="replace")[-3000:] if log.exists() else "pytest never began"
        return f"status {self.status}: {said}\n{tail}"

    def __getitem__(self, name: str) -> str:
        """The contents of a file that the run left in its folder."""
        return (self.folder / name).read_text().strip()


def is_native() -> bool:
    return os.environ.get("RDMAORDER_RDMA") == "native"


def is_required() -> bool:
    """A machine that cannot be had is a failure, not a skip."""
    return is_native() or any(os.environ.get(name) for name in ("CI", "RDMAORDER_RDMA_REQUIRED"))


def listed_inside() -> list[str]:
    """Every test that is to run inside, by pytest's or GoogleTest's own name."""
    words = [sys.executable, "-m", "pytest", *LIGHT, "--collect-only", "-q"]
    listed = subprocess.run(
        [*words, "--transport", "rdma", *(ONLY or INSIDE)], cwd=ROOT, capture_output=True, text=True
    )
    found = [line for line in listed.stdout.splitlines() if "::" in line]
    assert listed.returncode == 0 and found, listed.stdout + listed.stderr
    return found if ONLY else _cpp_tests() + found


def _cpp_tests() -> list[str]:
    if not CPP_TESTS.exists():
        return ["build/dev/rdmaorder_tests"]  # its test says what to do
    command = [CPP_TESTS, "--gtest_list_tests", f"--gtest_filter={CPP_FILTER}"]
    names, group = [], ""
    for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
        if not line.startswith(" "):
            group = line.split()[0]
        else:
            names.append(group + line.split()[0])
    return names


def run_suite(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(HERE / "inside" / "run"), str(folder), *LIGHT, *(ONLY or INSIDE)]
    env = {**os.environ, "RDMAORDER_RDMA_OUT": str(folder), "RDMAORDER_PASSED": "passed on"}
    if not is_native():
        machine = [str(HERE / "run"), "--timeout", str(TIME_LIMIT_S), "--share", str(folder)]
        command = [*machine, "--env", "NAMED=a b", "--", *command]
    words = "line 1\nline 2\n"
    return subprocess.run(command, cwd=ROOT, env=env, input=words, capture_output=True, text=True)
