"""Takes turns: levels and references, each run between two probes of the floor."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rdmaorder import __version__, _core
from rdmaorder.errors import ConfigError, HandshakeError, RdmaOrderError, SystemFailure
from rdmaorder.gateway.address import Address
from rdmaorder.pingpong import environment as env
from rdmaorder.pingpong.ends import End, Peer, open_end, open_inproc_end
from rdmaorder.pingpong.folders import journal_folder, own_folder
from rdmaorder.pingpong.hazards import Hazard, hazards, steal_share
from rdmaorder.pingpong.plan import Plan
from rdmaorder.pingpong.progress import Progress
from rdmaorder.pingpong.python_loop import python_stamp_ns
from rdmaorder.pingpong.references import Reference, open_references
from rdmaorder.pingpong.runs import Run, new_samples
from rdmaorder.pingpong.statistics import main_class, quantile
from rdmaorder.pingpong.waterfall import join
from rdmaorder.pingpong.wire import HELLO, PROTOCOL, Channel, PeerGone, dial, first_answer

__all__ = ["Measurement", "Turns", "measure"]

_PROBE_ORDERS = 20_000


@dataclass
class Measurement:
    """Everything a run of the tool found out."""

    plan: Plan
    clock: dict[str, float]
    environment: dict[str, Any]
    server: dict[str, Any] | None
    warnings: list[Hazard]
    runs: dict[str, list[Run]] = field(default_factory=dict)  #: by level
    references: dict[str, list[Run]] = field(default_factory=dict)
    reference_facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  #: references that cannot run, and why
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  #: of each level's ends
    placement: str | None = None
    steal: float = 0.0
    ending: str = "done"
    cause: str = ""

    @property
    def complete(self) -> bool:
        """Everything asked for was measured and every answer was right."""
        return self.ending == "done" and all(
            run.complete for runs in self.runs.values() for run in runs
        )

    def kept(self, name: str) -> list[Run]:
        """Runs of a level or reference that count."""
        return [run for run in self._of(name) if not run.discarded]

    def shown(self, name: str) -> list[Run]:
        """What tables, plots and the log are of: the runs that count, all where none does."""
        return self.kept(name) or self._of(name)

    def _of(self, name: str) -> list[Run]:
        return self.runs.get(name) or self.references.get(name) or []


class Turns:
    """Runs one end after the other, with the floor before and after each."""

    def __init__(
        self,
        measurement: Measurement,
        progress: Progress,
        *,
        floor: bool,
        over: Callable[[], None] = lambda: None,
    ) -> None:
        self._measurement = measurement
        self._plan = measurement.plan
        self._progress = progress
        self._floor = floor
        self._over = over
        self._samples = new_samples(self._plan.sample_count)
        self._last_floor: float | None = None

    def floor_ns(self) -> float | None:
        """One-way p50 between the two processors now, None where the ends are on two hosts."""
        if not self._floor:
            return None
        plan = self._plan
        ticks = _core.pingpong_floor(plan.client_cpu, plan.server_cpu, _PROBE_ORDERS)
        ordered = np.sort(ticks).astype(np.float64)
        return quantile(ordered, 0.5) / self._measurement.clock["ticks_per_ns"] / 2

    def level(self, end: End, repeat: int) -> Run:
        """One run of a level."""
        plan = self._plan
        due = plan.due_ns
        duration_ns = int((plan.duration_s or 0) * 1e9)
        with self._progress.run(end.name, self._samples, plan.sample_count, plan.duration_s):
            run = self._between_floors(
                end.name,
                repeat,
                lambda: end.run(self._samples, plan.warm_up, duration_ns, due),
                end,
                due_ns=due,
            )
        run.limited = plan.over_early(len(run.samples), run.span_s)
        return run

    def reference(self, reference: Reference, repeat: int) -> Run:
        """One run of a reference: always a closed loop."""
        count, warm_up = self._plan.reference_count, self._plan.warm_up
        room = self._samples[:count]
        if reference.kind == "summary":
            with self._progress.run(reference.name, room[:0], None, None):
                return self._summary(reference, repeat)
        with self._progress.run(reference.name, room, count, None):
            return self._between_floors(
                reference.name, repeat, lambda: reference.run(room, warm_up), reference
            )

    def _summary(self, reference: Reference, repeat: int) -> Run:
        """A tool of its own that prints percentiles: no samples of single orders."""
        before = self.floor_ns()
        facts = reference.run(self._samples[:0], 0)
        run = Run(reference.name, repeat, self._samples[:0].copy(), 1.0, facts)
        run.floor_before_ns, run.floor_after_ns = before, self.floor_ns()
        return run

    def _between_floors(
        self,
        name: str,
        repeat: int,
        measured: Callable[[], dict[str, Any]],
        other: Any,
        due_ns: Any = None,
    ) -> Run:
        self._samples.fill(0)
        before = self.floor_ns()
        other.resume()
        again = env.sent_again()
        started_s = time.time()
        try:
            with _pinned(self._plan.client_cpu):
                facts = measured()
            if facts["ending"] != "done":
                self._over()  # before another Ctrl-C costs this run
        finally:
            with contextlib.suppress(RdmaOrderError):
                other.pause()
        run = Run(
            name,
            repeat,
            self._samples[: facts["sent"]].copy(),
            self._measurement.clock["ticks_per_ns"],
            facts,
            rate_asked=_asked(due_ns, facts["sent"]),
        )
        run.started_s = started_s
        facts["retransmissions"] = env.sent_again() - again
        run.collections = facts.get("collections", [])
        run.progress = list(self._progress.writes)
        self._keep_stages(run, other)
        if facts["ending"] == "done":
            run.floor_before_ns, run.floor_after_ns = before, self.floor_ns()
        return run

    def _keep_stages(self, run: Run, end: Any) -> None:
        """Joins the gateway's stamps to the run, where there are any."""
        if not self._plan.waterfall or not hasattr(end, "stamps") or not run.count:
            return
        with contextlib.suppress(SystemFailure):
            measurement = self._measurement
            server = measurement.server
            rate = server["ticks_per_ns"] if server else run.ticks_per_ns
            rows = end.stamps()
            run.stages = join(run, rows, run.facts["first_sequence"], rate, server is None)


def _asked(due_ns: Any, sent: int) -> float | None:
    """The rate of as much of the schedule as there was time for."""
    if due_ns is None or sent < 2 or due_ns[sent - 1] == due_ns[0]:
        return None
    return float((sent - 1) / (int(due_ns[sent - 1]) - int(due_ns[0])) * 1e9)


@contextlib.contextmanager
def _pinned(cpu: int) -> Iterator[None]:
    """This thread on one processor; garbage of before does not count."""
    before = os.sched_getaffinity(0)
    gc.collect()
    gc.freeze()
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        gc.unfreeze()


def _hello(channel: Channel, address: Address, plan: Plan) -> dict[str, Any]:
    hello = {HELLO: PROTOCOL, "version": __version__, "size": plan.size}
    with contextlib.suppress(PeerGone):  # what it said before it left tells more
        channel.send({**hello, "levels": list(plan.levels)})
    answer = first_answer(channel, address)
    if "error" in answer:
        raise HandshakeError(f"{address.url} refuses: {answer['error']}")
    return answer


def measure(
    plan: Plan,
    address: Address | None,
    *,
    progress: Progress,
    warn: Callable[[Sequence[Hazard]], None],
    over: Callable[[], None] = lambda: None,
) -> Measurement:
    """Measures ``plan`` against the server at ``address``, or within this process without one.

    What was measured until then is in the result when Ctrl-C, or the end of the other side, ends
    it; errors before the first run are raised. ``over`` is called when the last run is, or
    one was cut short: another Ctrl-C then would lose it all.
    """
    clock = dict(_core.pingpong_clock())
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        peer: Peer | None = None
        server: dict[str, Any] | None = None
        cpus: tuple[int, ...] = (plan.client_cpu, plan.server_cpu)
        one_host = True
        if address is not None:
            channel = stack.enter_context(dial(address))
            told = _hello(channel, address, plan)
            peer, server = Peer(channel), told["host"]
            one_host = server is not None and server["boot_id"] == env.read(
                "/proc/sys/kernel/random/boot_id"
            )
            plan = _with_server_cpu(plan, int(told["cpu"]), one_host)
            cpus = (plan.client_cpu, plan.server_cpu) if one_host else (plan.client_cpu,)
        here = env.environment(cpus)
        warnings = hazards(here, transport=plan.transport)
        if server is not None and not one_host:
            warnings += hazards(server, transport=plan.transport, end=f"host {server['host']}")
        progress.clear()
        warn(warnings)
        progress.say("starting the other end")
        clock["python_stamp_ns"] = python_stamp_ns(clock["ticks_per_ns"])
        result = Measurement(plan, clock, here, None if one_host else server, warnings)
        turns = Turns(result, progress, floor=one_host and _reaches_both(plan), over=over)
        options = {key: str(value) for key, value in address.options.items()} if address else {}
        ends = _open_ends(stack, plan, peer, options, folder)
        for end in ends:
            result.facts[end.name] = end.facts
        references = open_references(stack, plan, peer, result.missing, one_host=one_host)
        for reference in references:
            result.reference_facts[reference.name] = reference.facts
        before, started = env.run_facts(), time.monotonic()
        names = [end.name for end in ends] + [reference.name for reference in references]
        progress.runs(names, plan.repeats, set(cpus))
        _take_turns(result, turns, ends, references)
        over()
        progress.say("ending")
        elapsed_s = time.monotonic() - started
        result.steal = steal_share(before, env.run_facts(), elapsed_s)
        _collect_last_words(result, ends)
    _keep(result)
    return result


def _reaches_both(plan: Plan) -> bool:
    """Whether this process may run on the server's processor too, as the floor has to."""
    try:
        _core.pingpong_floor(plan.client_cpu, plan.server_cpu, 1)
    except ConfigError:
        return False
    return True


def _with_server_cpu(plan: Plan, cpu: int, one_host: bool) -> Plan:
    import dataclasses

    if one_host and cpu == plan.client_cpu:
        raise ConfigError(
            f"--cpu {cpu}: the server spins on that processor; give another (--cpu here, or --cpu "
            "there)"
        )
    return dataclasses.replace(plan, server_cpu=cpu)


def _open_ends(
    stack: contextlib.ExitStack,
    plan: Plan,
    peer: Peer | None,
    options: dict[str, str],
    folder: Path,
) -> list[End]:
    """Every level's ends, made and paused."""
    ends: list[End] = []
    journals = stack.enter_context(journal_folder(None if peer else plan.journal, folder))
    for level in plan.levels:
        if peer is None:
            ends.append(open_inproc_end(plan, level, folder, journals))
            continue
        end = open_end(peer, plan, level, options if plan.transport == "rdma" else None)
        ends.append(end)
        end.pause()
    return ends


def _take_turns(
    result: Measurement,
    turns: Turns,
    ends: Sequence[End],
    references: Sequence[Reference],
) -> None:
    plan = result.plan
    try:
        for repeat in range(plan.repeats):
            for end in ends:
                run = turns.level(end, repeat)
                result.runs.setdefault(end.name, []).append(run)
                if run.facts["ending"] != "done":
                    result.ending = run.facts["ending"]
                    result.cause = str(run.facts.get("cause", ""))
                    return
            for reference in references:
                _reference_turn(result, turns, reference, repeat)
    except KeyboardInterrupt:
        result.ending = "interrupted"
    except RdmaOrderError as error:
        if not result.runs:
            raise
        result.ending, result.cause = "peer lost", str(error)


def _reference_turn(result: Measurement, turns: Turns, reference: Reference, repeat: int) -> None:
    """A reference that fails is missing from then on; the measurement goes on."""
    if reference.name in result.missing:
        return
    try:
        run = turns.reference(reference, repeat)
    except RdmaOrderError as error:
        result.missing[reference.name] = str(error)
        return
    if run.facts["ending"] == "interrupted":
        raise KeyboardInterrupt
    if run.facts["ending"] != "done":
        result.missing[reference.name] = f"ended early: {run.facts.get('cause')}"
        return
    result.references.setdefault(reference.name, []).append(run)


def _collect_last_words(result: Measurement, ends: Sequence[End]) -> None:
    for end in ends:
        try:
            said = end.close()
        except RdmaOrderError:
            continue
        result.facts[end.name]["server"] = said
        bad = int(said.get("bad_payloads", 0)) + int(said.get("orders_rejected", 0))
        if bad and end.name in result.runs:
            result.runs[end.name][-1].facts["bad_payloads"] += bad


def _keep(result: Measurement) -> None:
    """Decides which runs count: those whose floor stayed, in the class that most were in."""
    every = [*result.runs.values(), *result.references.values()]
    placements = [run.placement for runs in every for run in runs]
    result.placement = main_class([each for each in placements if each is not None])
    for runs in every:
        for run in runs:
            if run.floor_ns is None:
                continue  # two hosts, or cut short: nothing to judge by
            if run.placement is None:
                run.discarded = "the floor moved meanwhile"
            elif run.placement != result.placement:
                run.discarded = f"placement {run.placement}, not {result.placement}"
