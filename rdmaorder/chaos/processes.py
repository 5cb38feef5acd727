"""Starting the processes under test quickly: forked from an interpreter that has all loaded.

A server process imports the package once and forks on demand, so a gateway or a strategy runs a few
milliseconds after it is asked for. Each is a process of its own, and none outlives the supervisor.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import runpy
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from rdmaorder.chaos.strategy import StrategySettings
from rdmaorder.chaos.strategy import run as run_strategy
from rdmaorder.errors import RdmaOrderError, SystemFailure

__all__ = ["Launcher", "is_stopped"]

_PRELOAD: Final = ("rdmaorder.cli.gateway", "rdmaorder.chaos.strategy", "rdmaorder.chaos.processes")


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has taken effect."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return stat.rpartition(")")[2].split()[0] in ("T", "t")


def _die_with_the_supervisor() -> None:
    """The kernel kills this process when the other end of its pipe to the supervisor closes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    end = parent.sentinel
    fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([end], [], [], 0)[0]:
        sys.exit("the supervisor is gone")


def _settle(fault: str, output: Path) -> None:
    """First act of a process under test."""
    _die_with_the_supervisor()
    os.environ.pop("RDMAORDER_FAULT", None)
    if fault:
        os.environ["RDMAORDER_FAULT"] = fault
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _gateway(arguments: Sequence[str], fault: str, output: Path) -> None:
    _settle(fault, output)
    sys.argv = ["rdmaorder", "gateway", *arguments]
    runpy.run_module("rdmaorder", run_name="__main__", alter_sys=True)


def _strategy(settings: StrategySettings, fault: str, output: Path) -> None:
    _settle(fault, output)
    try:
        run_strategy(settings)
    except RdmaOrderError as error:
        sys.exit(f"strategy: {error}")


class Launcher:
    """Starts processes; all that still run are killed by ``close``."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(_PRELOAD))
        self._started: list[ForkServerProcess] = []

    def gateway(self, arguments: Sequence[str], fault: str, output: Path) -> ForkServerProcess:
        """``rdmaorder gateway ARGUMENTS`` with ``RDMAORDER_FAULT`` set to ``fault``."""
        return self._start(_gateway, (tuple(arguments), fault, output))

    def strategy(self, settings: StrategySettings, fault: str, output: Path) -> ForkServerProcess:
        """One life of the strategy."""
        return self._start(_strategy, (settings, fault, output))

    def _start(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> ForkServerProcess:
        self._started = [each for each in self._started if each.exitcode is None]
        process = self._context.Process(target=target, args=arguments, daemon=True)
        try:
            process.start()
        except OSError as error:
            raise SystemFailure(f"cannot start a process: {error}") from None
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kills what is left."""
        for process in self._started:
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
                process.join(5.0)
        self._started.clear()


def wait_stopped(pid: int, timeout_s: float = 5.0) -> None:
    """Returns when the process is stopped or gone."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            if is_stopped(pid):
                return
        except FileNotFoundError:
            return
        time.sleep(0.000_1)
