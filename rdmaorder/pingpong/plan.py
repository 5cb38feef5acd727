"""What one run of the tool is asked to do, checked before anything starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rdmaorder.errors import ConfigError

__all__ = [
    "LEVELS",
    "MOST_SAMPLES",
    "Plan",
    "check_cpu",
    "check_levels",
    "check_size",
    "choose_cpu",
    "choose_cpus",
    "due_times",
    "due_times_like",
    "handler_of",
    "is_size",
    "most_rate",
]

DueTimes = npt.NDArray[np.uint64]

#: From the bare transport up; each has everything the one before it has.
LEVELS = ("raw", "session", "gateway", "python", "python-handler")
#: Room for samples of a run that is limited by time: 200 MB.
MOST_SAMPLES = 5_000_000
_SIZE_MAX = 4096
_MOST_WORST = 1000
#: A schedule that takes longer is a mistake, and would not fit the clock at some point.
_LONGEST_S = 24 * 3600
#: References take as many round trips a run as the levels, but no more than this, for some wait in
#: the kernel each time; and so many where the levels are limited by time.
_MOST_REFERENCE, _USUAL_REFERENCE = 100_000, 20_000


def is_size(size: object) -> bool:
    """Whether messages can have this many bytes."""
    return type(size) is int and size % 64 == 0 and 64 <= size <= _SIZE_MAX


def handler_of(level: str) -> str:
    """What answers orders at the gateway of a level from ``session`` up."""
    return "rdmaorder.pingpong.handler:Accept" if level == "python-handler" else "accept"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Times in seconds, sizes in bytes. ``due_ns``: an open loop's schedule, None closed."""

    transport: str = "shm"
    levels: tuple[str, ...] = ("session",)
    size: int = 64
    iterations: int = 50_000
    duration_s: float | None = None
    warm_up: int = 2_000
    repeats: int = 5
    rate: float | None = None
    replay: str | None = None
    speed: float | None = None
    due_ns: DueTimes | None = field(default=None, repr=False)
    client_cpu: int
    server_cpu: int  #: that of a server elsewhere is known only when it has answered
    journal: str | None = None
    references: tuple[str, ...] = ()
    worst: int = 10
    waterfall: bool = False

    def __post_init__(self) -> None:
        check_size(self.size)
        check_levels(self.levels)
        for name, value, low in (
            ("--iters", self.iterations, 10),
            ("--repeats", self.repeats, 1),
            ("--warm-up", self.warm_up, 0),
        ):
            if value < low:
                raise ConfigError(f"{name} {value}: give {low} or more")
        if not 0 <= self.worst <= _MOST_WORST:
            raise ConfigError(f"--worst {self.worst}: give 0 to {_MOST_WORST}")
        if self.iterations > MOST_SAMPLES:
            raise ConfigError(
                f"--iters {self.iterations}: every order is kept; give at most {MOST_SAMPLES} a "
                "run and more --repeats"
            )
        if self.journal is not None and set(self.levels) <= {"raw", "session"}:
            raise ConfigError(
                f"--journal {self.journal}: at {' and '.join(self.levels)} there is none; add "
                "--level gateway or one above it, or leave it out"
            )
        if self.waterfall and (self.transport == "inproc" or set(self.levels) <= {"raw"}):
            raise ConfigError(
                "--waterfall: it is a gateway in a process of its own that stamps the stages; give "
                "--level session or one above it, and no --transport inproc"
            )

    @property
    def paced(self) -> bool:
        """An open loop."""
        return self.due_ns is not None

    @property
    def sample_count(self) -> int:
        """Room for the orders of one run."""
        if self.due_ns is not None:
            return len(self.due_ns)
        return self.iterations if self.duration_s is None else MOST_SAMPLES

    def over_early(self, sent: int, took_s: float) -> str:
        """Why a run of so many orders was over before its time, empty where it was not."""
        if self.duration_s is None or self.rate is not None or sent < self.sample_count:
            return ""
        why = "the recording has no more orders"
        if sent == MOST_SAMPLES:
            why = f"no more than {sent:,} orders are kept of a run"
        return f"over after {took_s:.3g} s of {self.duration_s:g}: {why}"

    @property
    def reference_count(self) -> int:
        """Round trips of a run of a reference."""
        if self.duration_s is not None:
            return _USUAL_REFERENCE
        return min(self.iterations, _MOST_REFERENCE)


def check_size(size: int) -> None:
    """Raises ConfigError where slots cannot have this many bytes."""
    if not is_size(size):
        below = min(max(64, size // 64 * 64), _SIZE_MAX)
        raise ConfigError(
            f"--size {size}: slots are a multiple of 64 bytes from 64 to {_SIZE_MAX}; use {below}"
        )


def check_levels(levels: tuple[str, ...]) -> None:
    """Raises ConfigError where there is one that does not exist."""
    unknown = [level for level in levels if level not in LEVELS]
    if unknown:
        raise ConfigError(f"--level {unknown[0]}: use one of {', '.join(LEVELS)} or all")


def check_cpu(name: str, cpu: int) -> None:
    """Raises ConfigError where a processor cannot be used, naming those that can."""
    allowed = sorted(os.sched_getaffinity(0))
    if cpu not in allowed:
        raise ConfigError(
            f"{name} {cpu}: no such processor, or not allowed to this process; "
            f"it may use {_ranges(allowed)}"
        )


def choose_cpu(name: str, asked: int | None, *, server: bool) -> int:
    """Of the one end that is here: the processor asked for, else the one that ``choose_cpus`` would
    give it, so that both ends started on one host by hand get two."""
    if asked is not None:
        check_cpu(name, asked)
        return asked
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1] if server else allowed[-2:][0]


def choose_cpus(client: int | None, server: int | None) -> tuple[int, int]:
    """Client's and server's processor: those asked for, else the last two that are allowed."""
    for name, cpu in (("--cpu", client), ("--server-cpu", server)):
        if cpu is not None:
            check_cpu(name, cpu)
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise ConfigError(
            f"two processors are needed and this process may use {_ranges(allowed)} alone: two "
            "spinning ends on one would measure the scheduler; widen the cpuset or taskset"
        )
    if client is not None and client == server:
        raise ConfigError(
            f"--cpu {client} and --server-cpu {server} are the same: two spinning ends on one "
            "processor would measure the scheduler; give two"
        )
    free = [cpu for cpu in allowed if cpu not in (client, server)]
    if client is None:
        client = free.pop(-2 if server is None else -1)
    if server is None:
        server = free.pop(-1)
    return client, server


def most_rate(order_cost_ns: float) -> float:
    """The highest rate that can be paced: between two orders the clock is read twice at least."""
    return 1e9 / (2 * order_cost_ns)


def due_times(rate: float, count: float, order_cost_ns: float) -> DueTimes:
    """When each of ``count`` orders is due at ``rate`` a second, in ns from the start."""
    highest = most_rate(order_cost_ns)
    if not 0 < rate <= highest:
        if rate <= 0 or rate != rate:
            raise ConfigError(f"--rate {rate:g}: give a number of orders a second above 0")
        raise ConfigError(
            f"--rate {rate:g}: no clock of this host can hold that: an order every "
            f"{1e9 / rate:.3g} ns, while reading the clock around it takes {order_cost_ns:.3g} ns; "
            f"{highest:.3g} a second is the most"
        )
    if count > MOST_SAMPLES:
        raise ConfigError(
            f"--rate {rate:g}: {count:.0f} orders a run are too many, for every order is kept; "
            f"give at most {MOST_SAMPLES} a run, and more --repeats"
        )
    return schedule(np.arange(int(count), dtype=np.float64) / rate, f"--rate {rate:g}")


def due_times_like(t_ns: npt.NDArray[Any], count: int, speed: float) -> DueTimes:
    """When each of ``count`` orders is due that follow each other as those of a recording did."""
    if not 0 < speed < float("inf"):
        raise ConfigError(f"--speed {speed:g}: give a number above 0")
    times = np.sort(t_ns)[: max(2, count)]
    due_ns = schedule((times - times[0]).astype(np.float64) / 1e9 / speed, f"--speed {speed:g}")
    if not due_ns[-1]:
        raise ConfigError(
            f"--speed {speed:g}: all {len(due_ns)} messages would be due at once, which is no "
            "pace; replay a longer part (-n) or more slowly"
        )
    return due_ns


def schedule(due_s: npt.NDArray[np.float64], what: str) -> DueTimes:
    """In ns. Raises ConfigError where it takes too long; ``what`` gave it."""
    if len(due_s) and not due_s[-1] <= _LONGEST_S:
        raise ConfigError(
            f"{what}: the last of {len(due_s)} orders would be due after {due_s[-1] / 3600:.3g} "
            f"hours; {_LONGEST_S // 3600} are the most: give fewer orders (-n) or a faster pace"
        )
    return np.rint(due_s * 1e9).astype(np.uint64)


def _ranges(cpus: list[int]) -> str:
    parts: list[str] = []
    start = previous = cpus[0]
    for cpu in [*cpus[1:], -1]:
        if cpu == previous + 1:
            previous = cpu
            continue
        parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = cpu
    return ", ".join(parts)
