"""Which faults there are, and a plan of them drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rdmaorder.errors import InputError

__all__ = ["KINDS", "PLANNED_SHARES", "Fault", "Kind", "make_plan", "parse_faults"]

#: Days of them: more is a slip of the pen, and the plan is in memory.
_MOST_FAULTS: Final = 1_000_000


@dataclass(frozen=True)
class Kind:
    """A kind of fault. ``steps``: how its argument is drawn; see ``low`` and ``high``."""

    name: str
    share: int  #: of a plan in which all kinds take part; 0: only when named
    what: str
    low: int = 0  #: range of the argument: a count of steps, or milliseconds
    high: int = 0
    step: str = ""  #: the RDMAORDER_FAULT step at which the process dies
    transports: tuple[str, ...] = ("shm", "rdma")


_STEPS: Final = (
    *("after_journal", "before_handler", "after_handler", "before_report", "after_report"),
)


def _dashed(step: str) -> str:
    return step.replace("_", "-")


_ALL: Final = (
    Kind("strategy-kill", 20, "kill -9 of the strategy at a random moment"),
    Kind("gateway-kill", 20, "kill -9 of the gateway at a random moment"),
    Kind("both-kill", 10, "kill -9 of both at a random moment"),
    Kind("strategy-after-write", 8, "the strategy dies behind a write", 1, 60, "after_write"),
    *(
        Kind(f"gateway-{_dashed(step)}", 5, f"the gateway dies at {step}", 1, 60, step)
        for step in _STEPS
    ),
    Kind("strategy-stop", 2, "SIGSTOP of the strategy, then SIGCONT", 1, 250),
    Kind("gateway-stop", 3, "SIGSTOP of the gateway, then SIGCONT", 1, 400),
    Kind("handler-stall", 2, "the handler holds the receiver for 200 ms", 1, 60, "before_handler"),
    Kind("strategy-deaf", 2, "the strategy does not poll: no credit for reports", 10, 150),
    Kind("credit-lost", 2, "garbage over the gateway's status line", 0, 5, "", ("shm",)),
    Kind("slot-torn", 2, "the next slot half written", 0, 130, "", ("shm",)),
    Kind("slot-repeated", 2, "the message before once more", 0, 130, "", ("shm",)),
    Kind("slot-stale", 2, "a whole slot of another epoch", 0, 130, "", ("shm",)),
    Kind("slot-garbage", 2, "random bytes over all free slots", 0, 130, "", ("shm",)),
    Kind("disk-full", 1, "no room for the journal's next segment; then room, or kill -9 first"),
    Kind("link-down", 8, "the network interface down, then up", 20, 800, "", ("rdma",)),
    Kind("packet-loss", 8, "30 % of the packets lost", 50, 500, "", ("rdma",)),
    Kind("packet-duplication", 4, "half of the packets twice", 50, 500, "", ("rdma",)),
    Kind("packet-reordering", 4, "a quarter of the packets late", 50, 500, "", ("rdma",)),
    Kind("clock-step", 0, "the machine's clock an hour ahead, then back: needs root", 1, 50),
)
KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in _ALL}
PLANNED_SHARES: Final = {kind.name: kind.share for kind in _ALL if kind.share}


@dataclass(frozen=True)
class Fault:
    """One fault of a plan. Everything about it that is decided beforehand."""

    number: int  #: from 1
    kind: Kind
    at: float  #: when: share of the orders between the fault before and the next
    delay_us: int  #: … and so much later
    argument: int  #: of the kind's range
    graceful: bool  #: a process that must be armed first ends by SIGTERM, not SIGKILL
    trust_gateway: bool  #: a strategy started anew takes the gateway's word


def parse_faults(text: str, transport: str) -> dict[str, int]:
    """``"200"``: so many of all kinds; ``"KIND[=COUNT],..."``: these. Counts by kind.

    Raises InputError for a kind that does not exist, or not on this transport, and for too many.
    """
    counts = _counts(text, transport)
    if (total := sum(counts.values())) > _MOST_FAULTS:
        raise InputError(f"--faults: {total} faults; a plan has {_MOST_FAULTS} at most")
    return counts


def _counts(text: str, transport: str) -> dict[str, int]:
    able = {name: share for name, share in PLANNED_SHARES.items() if _runs_on(name, transport)}
    if text.isdecimal():
        return _spread(int(text), able)
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, _, count = part.strip().partition("=")
        if name not in KINDS:
            raise InputError(
                f"--faults: no fault {name!r}; give a number, or some of: {', '.join(KINDS)}"
            )
        if not _runs_on(name, transport):
            raise InputError(f"--faults: {name} is not possible on {transport}")
        if count and not count.isdecimal():
            raise InputError(f"--faults: {part.strip()!r}: write KIND=COUNT, such as {name}=10")
        counts[name] = counts.get(name, 0) + (int(count) if count else 1)
    return counts


def _runs_on(name: str, transport: str) -> bool:
    return transport in KINDS[name].transports


def _spread(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """``total`` by shares: the largest remainders get what rounding leaves."""
    whole = sum(shares.values())
    counts = {name: total * share // whole for name, share in shares.items()}
    order = sorted(shares, key=lambda name: (-(total * shares[name] % whole), name))
    for name in order[: total - sum(counts.values())]:
        counts[name] += 1
    return {name: count for name, count in counts.items() if count}


def make_plan(counts: Mapping[str, int], seed: int) -> list[Fault]:
    """The same plan for the same counts and seed, always."""
    dice = random.Random(seed)
    names: list[str] = [name for name in KINDS for _ in range(counts.get(name, 0))]
    dice.shuffle(names)
    return [_draw(number, KINDS[name], dice) for number, name in enumerate(names, 1)]


def _draw(number: int, kind: Kind, dice: random.Random) -> Fault:
    return Fault(
        number=number,
        kind=kind,
        at=dice.uniform(0.05, 0.8),
        delay_us=dice.choice((0, 0, dice.randrange(400))),
        argument=dice.randint(kind.low, kind.high),
        graceful=dice.random() < 0.3,
        trust_gateway=dice.random() < 0.5,
    )
