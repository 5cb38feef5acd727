"""Carries out a plan of faults on a gateway and a strategy, and sees both come back."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

import numpy as np

from rdmaorder.chaos.hostile import Act
from rdmaorder.chaos.ledger import Board, EntryState, open_logs
from rdmaorder.chaos.network import Network
from rdmaorder.chaos.plan import Fault
from rdmaorder.chaos.processes import Launcher, wait_stopped
from rdmaorder.chaos.strategy import PACES, Pace, StrategySettings
from rdmaorder.errors import RdmaOrderError, SystemFailure

__all__ = ["Outcome", "RunSettings", "Supervisor"]

_PATIENCE_S: Final = 30.0
#: Room in the ledger, beyond the orders asked for, for faults that take many to get through.
_ORDERS_PER_FAULT: Final = 512
_LONG_S: Final = 1800.0
#: Far more in a row than there are cancels, which pass without a journal.
_RUN_ORDERS: Final = 256
_LOOK_S: Final = 0.000_2
_SEGMENT_MIB: Final = 1
#: Orders that fill what is left of one segment and the next, prepared one.
DISK_FULL_ORDERS: Final = 12_000
_ACTS: Final = {
    "slot-torn": Act.TORN,
    "slot-repeated": Act.REPEATED,
    "slot-stale": Act.STALE,
    "slot-garbage": Act.GARBAGE,
    "credit-lost": Act.CREDIT,
    "strategy-deaf": Act.DEAF,
}
_NETWORK: Final = ("link-down", "packet-loss", "packet-duplication", "packet-reordering")


@dataclass(frozen=True)
class RunSettings:
    """What a run is made of. ``folder`` is empty and lives long enough for the audit."""

    folder: Path
    seed: int
    orders: int  #: at least so many
    plan: list[Fault]
    listen: str
    connect: str
    pace: Pace = PACES["shm"]
    network: Network | None = None
    progress: Callable[[int, int], None] = lambda done, orders: None


@dataclass
class Outcome:
    """What happened, besides what the files say."""

    faults: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    recovery_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    #: report sequences (from, to) made while the journal could not write
    unjournalled: list[tuple[int, int]] = field(default_factory=list)
    duration_s: float = 0.0


class _StuckError(RdmaOrderError):
    """Something that had to happen did not: the rest of the plan makes no sense."""


class Supervisor:
    """One run. ``execute`` returns when both processes are gone."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self.outcome = Outcome()
        room = 2 * settings.orders + _ORDERS_PER_FAULT * len(settings.plan)
        self._ledger, self._reports, _ = open_logs(settings.folder, room)
        self._board = Board(settings.folder / "board", create=True)
        self._launcher = Launcher()
        self._life = 0
        self._gateway: ForkServerProcess | None = None
        self._strategy: ForkServerProcess | None = None
        full = sum(fault.kind.name == "disk-full" for fault in settings.plan)
        left = settings.orders - full * DISK_FULL_ORDERS
        #: orders between two faults
        self._quota = max(left // (len(settings.plan) + 1), 8)
        self._config = settings.folder / "gateway.toml"
        self._config.write_text(
            "[gateway]\n"
            f'listen = "{settings.listen}"\n'
            f'journal = "{settings.folder / "journal"}"\n'
            f'counters = "{settings.folder / "counters"}"\n'
            'handler = "venue"\nidle = "backoff"\n'
            f"segment_mib = {_SEGMENT_MIB}\n"
            f"venue_max_orders = {room + 1024}\n"
            f"heartbeat_us = {settings.pace.heartbeat_us}\n"
            + ('tls = "off"\n' if settings.listen.startswith("rdma") else ""),
            encoding="utf-8",
        )

    def execute(self) -> Outcome:
        """The whole plan, then the rest of the orders."""
        started_s = time.monotonic()
        try:
            self._start_gateway()
            self._start_strategy(trust_gateway=True)
            for fault in self._settings.plan:
                self._perform(fault)
                self._settings.progress(fault.number, self._ledger.count)
            self._finish()
        except _StuckError as error:
            self.outcome.failures.append(str(error))
        finally:
            self._launcher.close()
            self.outcome.duration_s = time.monotonic() - started_s
        return self.outcome

    # -- processes -------------------------------------------------------------------------------

    def _start_gateway(self, fault: str = "") -> None:
        arguments = ("--config", str(self._config))
        output = self._settings.folder / "gateway.log"
        self._gateway = self._launcher.gateway(arguments, fault, output)

    def _start_strategy(self, *, trust_gateway: bool, fault: str = "") -> None:
        self._life += 1
        settings = StrategySettings(
            url=self._settings.connect,
            folder=self._settings.folder,
            seed=self._settings.seed,
            life=self._life,
            trust_gateway=trust_gateway,
            pace=self._settings.pace,
        )
        output = self._settings.folder / "strategy.log"
        self._strategy = self._launcher.strategy(settings, fault, output)

    def _kill(self, *processes: ForkServerProcess | None) -> None:
        for process in processes:
            _signal(process, signal.SIGKILL)
        for process in processes:
            self._join(process)
            self.outcome.kills += 1

    def _join(self, process: ForkServerProcess | None, expected: int = -signal.SIGKILL) -> None:
        if process is None:
            return
        process.join(_PATIENCE_S)
        who = "the gateway" if process is self._gateway else "the strategy"
        if process.exitcode is None:
            raise _StuckError(f"{who} did not end within {_PATIENCE_S:g} s")
        if process.exitcode != expected:
            self._fail(f"{who} ended with {process.exitcode} in place of {expected}")

    def _fail(self, text: str) -> None:
        self.outcome.failures.append(f"fault {sum(self.outcome.faults.values())}: {text}")

    # -- waiting ---------------------------------------------------------------------------------

    def _await(
        self, condition: Callable[[], bool], what: str, patience_s: float = _PATIENCE_S
    ) -> None:
        """Both processes have to live meanwhile."""
        deadline_s = time.monotonic() + patience_s
        looks = 0
        while not condition():
            looks += 1
            if looks % 64 == 0:
                self._check_alive(what)
            if time.monotonic() > deadline_s:
                raise _StuckError(f"after fault {sum(self.outcome.faults.values())}: never {what}")
            time.sleep(_LOOK_S)

    def _check_alive(self, what: str) -> None:
        for who, process in (("gateway", self._gateway), ("strategy", self._strategy)):
            if process is not None and process.exitcode is not None:
                log = (self._settings.folder / f"{who}.log").read_text(errors="replace")
                said = log.strip().rpartition("\n")[2]
                raise _StuckError(
                    f"fault {sum(self.outcome.faults.values())}: the {who} ended with "
                    f"{process.exitcode} while waiting for {what}; its log ends: {said[:300]}"
                )

    def _let(self, orders: int) -> None:
        """Leave for so many more orders."""
        self._board.set("limit", min(self._ledger.count + orders, self._ledger.capacity))

    def _await_flow(self, since_s: float | None = None) -> None:
        """An order sent from now on is answered. Notes the time from ``since_s`` until then."""
        before = self._ledger.count

        def answered() -> bool:
            # A link may take a while to be seen dead, and every order into it not be applied.
            if self._ledger.count >= self._board.get("limit"):
                self._let(max(self._quota // 4, 1))
            return self._board.get("answered") > before

        self._await(answered, "an order answered again")
        if since_s is not None:
            self.outcome.recovery_ms.append((time.monotonic() - since_s) * 1e3)

    # -- faults ----------------------------------------------------------------------------------

    def _perform(self, fault: Fault) -> None:
        name = fault.kind.name
        if fault.kind.step:
            self._at_step(fault)
        else:
            due = self._ledger.count + int(fault.at * self._quota * 3 // 4)
            self._let(self._quota * 3 // 4)  # it dies amid a flow of orders
            self._await(lambda: self._ledger.count >= due, "orders sent")
            if fault.delay_us:
                time.sleep(fault.delay_us / 1e6)
            if name.endswith("-kill"):
                self._kill_some(fault)
            elif name in _ACTS:
                self._hostile(fault)
            elif name in _NETWORK:
                self._disturb_network(fault)
            elif name == "disk-full":
                self._fill_disk(fault)
            elif name == "clock-step":
                self._step_clock(fault)
            else:
                self._stop(fault)
        self.outcome.faults[name] = self.outcome.faults.get(name, 0) + 1

    def _kill_some(self, fault: Fault) -> None:
        name, started_s = fault.kind.name, time.monotonic()
        if name == "both-kill":
            pair = (self._gateway, self._strategy)
            self._kill(*(pair if fault.graceful else pair[::-1]))
        else:
            self._kill(self._gateway if name == "gateway-kill" else self._strategy)
        if name != "strategy-kill":
            self._start_gateway()
        if name != "gateway-kill":
            self._start_strategy(trust_gateway=fault.trust_gateway)
        self._await_flow(started_s)

    def _at_step(self, fault: Fault) -> None:
        """The process is started anew, armed, and left to die by itself."""
        on_gateway = fault.kind.step != "after_write"
        stalls = fault.kind.name == "handler-stall"
        plan = f"{fault.kind.step}:{fault.argument}" + (":stall" if stalls else "")
        if on_gateway:
            if fault.graceful:
                _signal(self._gateway, signal.SIGTERM)
                self._join(self._gateway, 0)
            else:
                self._kill(self._gateway)
            self._start_gateway(plan)
        else:
            self._kill(self._strategy)
            self._start_strategy(trust_gateway=fault.trust_gateway, fault=plan)
        if stalls:
            self._run_past(fault.argument)
            return
        process = self._gateway if on_gateway else self._strategy
        self._run_until_dead(process, fault)
        started_s = time.monotonic()
        self._join(process)
        self.outcome.kills += 1
        if on_gateway:
            self._start_gateway()
        else:
            self._start_strategy(trust_gateway=not fault.trust_gateway)
        self._await_flow(started_s)

    def _run_past(self, orders: int) -> None:
        """Until so many orders, and some more, were answered."""
        goal = self._ledger.count + 2 * orders + 64
        self._let(goal - self._ledger.count)
        self._await(lambda: self._ledger.count >= goal, "orders sent past a stall")
        self._await_flow()

    def _run_until_dead(self, process: ForkServerProcess | None, fault: Fault) -> None:
        assert process is not None
        deadline_s = time.monotonic() + _PATIENCE_S
        while process.exitcode is None:
            self._let(self._quota)
            if time.monotonic() > deadline_s:
                raise _StuckError(f"fault {fault.number}: {fault.kind.name} was never reached")
            process.join(_LOOK_S)

    def _stop(self, fault: Fault) -> None:
        process = self._gateway if fault.kind.name == "gateway-stop" else self._strategy
        assert process is not None
        assert process.pid is not None
        _signal(process, signal.SIGSTOP)
        wait_stopped(process.pid)
        time.sleep(fault.argument / 1e3)
        started_s = time.monotonic()
        _signal(process, signal.SIGCONT)
        self._await_flow(started_s)

    def _hostile(self, fault: Fault) -> None:
        act = _ACTS[fault.kind.name]
        number = self._board.get("command") + 1
        self._board.set("command_kind", act)
        self._board.set("command_argument", fault.argument)
        started_s = time.monotonic()
        self._board.set("command", number)
        self._await(lambda: self._board.get("command_done") == number, "the strategy's hostile act")
        self._await_flow(started_s)

    def _disturb_network(self, fault: Fault) -> None:
        network = self._settings.network
        assert network is not None
        with network.disturbed(fault.kind.name):
            time.sleep(fault.argument / 1e3)
        self._await_flow(time.monotonic())

    def _fill_disk(self, fault: Fault) -> None:
        """The next segment of the journal cannot be made. What is written needs no new room.

        There is room again, or the gateway dies before and finds room when it is started.
        """
        refused = self._board.get("unjournalled")
        first = self._last_report()
        with self._no_room():
            self._let(DISK_FULL_ORDERS)
            self._await(
                lambda: (
                    self._board.get("unjournalled") > refused
                    or self._ledger.count >= self._board.get("limit")
                ),
                "an order refused for want of a journal",
            )
            if fault.trust_gateway:
                self._kill(self._gateway)
        if self._board.get("unjournalled") == refused:
            self._fail(f"disk-full: {DISK_FULL_ORDERS} orders were taken without room for them")
        started_s = time.monotonic()
        if fault.trust_gateway:
            self._start_gateway()
        while True:  # until a run of orders is answered and none of them refused
            refused = self._board.get("unjournalled")
            self._let(_RUN_ORDERS)
            self._await(self._limit_is_answered, "a run of orders answered")
            if self._board.get("unjournalled") == refused:
                break
            if time.monotonic() - started_s > _PATIENCE_S:
                raise _StuckError("the journal does not write again although there is room")
        self.outcome.unjournalled.append((first + 1, self._last_report()))
        self.outcome.recovery_ms.append((time.monotonic() - started_s) * 1e3)

    @contextmanager
    def _no_room(self) -> Iterator[None]:
        """The gateway that runs now cannot make files as large as a segment."""
        assert self._gateway is not None
        assert self._gateway.pid is not None
        pid, name = self._gateway.pid, resource.RLIMIT_FSIZE
        before = resource.prlimit(pid, name, ((_SEGMENT_MIB << 20) - 4096, resource.RLIM_INFINITY))
        try:
            yield
        finally:
            if self._gateway.exitcode is None:
                resource.prlimit(pid, name, before)

    def _limit_is_answered(self) -> bool:
        return self._board.get("answered") >= self._board.get("limit")

    def _last_report(self) -> int:
        reports = self._reports.written
        return int(reports["sequence"][-1]) if len(reports) else 0

    def _step_clock(self, fault: Fault) -> None:
        hour_ns = 3600 * 10**9
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + hour_ns)
        except PermissionError:
            raise SystemFailure("clock-step needs the right to set the machine's clock") from None
        try:
            time.sleep(fault.argument / 1e3)
        finally:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() - hour_ns)
        self._await_flow(time.monotonic())

    # -- the end ---------------------------------------------------------------------------------

    def _finish(self) -> None:
        goal = max(self._settings.orders, self._ledger.count)
        self._board.set("limit", goal)
        self._await(lambda: self._ledger.count >= goal, "the last order sent", _LONG_S)
        deadline_s = time.monotonic() + _PATIENCE_S
        while self._unanswered() and time.monotonic() < deadline_s:
            self._check_alive("the last answers")
            time.sleep(0.05)
        seen = -1
        while seen != self._reports.count:  # events behind the answers, such as expiries
            seen = self._reports.count
            time.sleep(0.1)
        self._board.set("closing", 1)
        self._join(self._strategy, 0)
        _signal(self._gateway, signal.SIGTERM)
        self._join(self._gateway, 0)

    def _unanswered(self) -> bool:
        entries = self._ledger.written
        answered = np.zeros(len(entries) + 1, bool)
        answered[self._reports.written["cl_ord_id"]] = True
        waits = entries["state"] <= EntryState.SENT
        return bool((waits & ~answered[1:]).any())


def _signal(process: ForkServerProcess | None, number: signal.Signals) -> None:
    if process is not None and process.pid is not None and process.exitcode is None:
        os.kill(process.pid, number)
