"""The C++ benchmark programs, gateways in processes of their own, and the floor on demand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.environment import ROOT

LIMIT_S = 300.0


def program(build: Path, name: str) -> str:
    """Path of a benchmark program; an error that says how to build it when it is not there."""
    path = build / f"bench_{name}"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: run `make bench`, or give --build DIR")
    return str(path)


def run_lines(*command: str) -> list[dict[str, Any]]:
    """Runs a program that prints one JSON object a line."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, timeout=LIMIT_S, cwd=ROOT
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


class Probe:
    """bench_probe: the floor whenever asked."""

    def __init__(self, build: Path, cpus: tuple[int, int]) -> None:
        self._process = subprocess.Popen(
            [program(build, "probe"), "--cpu", str(cpus[0]), "--peer-cpu", str(cpus[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def floor_ns(self) -> float:
        """One-way p50 now, in ns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline())["p50_ns"])

    def __enter__(self) -> Probe:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class GatewayProcess:
    """``rdmaorder gateway`` with its receiver spinning on one processor.

    Stopped (SIGSTOP) whenever it is not being measured, because two spinners on one processor
    measure the scheduler.
    """

    def __init__(self, folder: Path, name: str, handler: str, cpu: int, *more: str) -> None:
        self.url = f"shm://{folder}/{name}.sock"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "rdmaorder", "gateway", "--listen", self.url),
                *("--handler", handler, "--idle", "spin", "--cpu", str(cpu)),
                *("--counters", f"{folder}/{name}.counters", *more),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit(f"gateway {name} did not start")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Not running inside the block."""
        self.stop()
        try:
            yield
        finally:
            self.go_on()

    def stop(self) -> None:
        """Stops it where it is."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        """Lets it run again."""
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> GatewayProcess:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.go_on()
        self._process.terminate()
        self._process.wait(timeout=30)
