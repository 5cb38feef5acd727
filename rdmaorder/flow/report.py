"""What a replay did: the numbers, as JSON and as tables."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdmaorder.errors import InputError
from rdmaorder.flow.latency import Latency
from rdmaorder.flow.send import Lane, Outcome, Schedule
from rdmaorder.flow.table import CLIENT_KINDS, Flow

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ReplayReport", "summarise", "write_json"]

_KIND_NAMES = {"N": "new", "M": "replace", "C": "partial cancel", "D": "cancel"}
_QUANTILE_NAMES = {"min": "min", "p50": "50 %", "p90": "90 %", "p99": "99 %", "p99_9": "99.9 %"}


@dataclass(slots=True)
class ReplayReport:
    """``sent`` = the sum of ``fates`` + ``lost`` + ``unknown``; times in ns."""

    planned: int
    sent: int
    messages: dict[str, int]  #: sent, by what they are
    fates: dict[str, int]
    events: dict[str, int]  #: reports beyond the answers
    lost: int  #: taken by the gateway and never answered
    duplicated: int  #: reports that came twice
    unknown: int  #: sent, and neither answered nor known to be taken
    mismatched: int  #: answers with another message's ClOrdID
    foreign: int  #: reports for messages of no session's run
    elapsed_s: float
    rtt: Latency
    late_ns: dict[str, int] | None  #: how much later than scheduled messages went out
    interrupted: bool
    timed_out: bool
    failures: list[str]
    sessions: list[dict[str, Any]]
    source: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Everything was sent and has exactly one answer, the right one."""
        faults = self.lost + self.duplicated + self.unknown + self.mismatched
        return not faults and self.sent == self.planned and not self.failures

    def to_json(self) -> dict[str, Any]:
        """All of it, with the machine it was measured on."""
        return {
            "complete": self.complete,
            "planned": self.planned,
            "sent": self.sent,
            "messages": self.messages,
            "fates": self.fates,
            "events": self.events,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "unknown": self.unknown,
            "mismatched": self.mismatched,
            "foreign": self.foreign,
            "elapsed_s": self.elapsed_s,
            "rtt_ns": self.rtt.to_json(),
            "rtt_count": self.rtt.count,
            "late_ns": self.late_ns,
            "interrupted": self.interrupted,
            "timed_out": self.timed_out,
            "failures": self.failures,
            "sessions": self.sessions,
            "source": self.source,
            "environment": _environment(),
        }

    def print(self, console: Console) -> None:
        """Tables and, in the last line, whether everything is accounted for."""
        from rich.columns import Columns
        from rich.text import Text

        console.print(Columns([self._messages(), self._fates(), self._times()], padding=(0, 3)))
        for failure in self.failures:
            console.print(Text(failure, style="red"), soft_wrap=True)
        if self.interrupted:
            console.print(Text("interrupted: this is what had happened until then", "yellow"))
        if self.timed_out:
            console.print(Text("given up: nothing moved for the time allowed", "red"))
        rate = f", {self.sent / self.elapsed_s:,.0f} messages/s" if self.elapsed_s > 0 else ""
        style = "bold green" if self.complete else "bold red"
        console.print(
            Text(
                f"sent {self.sent:,} of {self.planned:,} in {self.elapsed_s:.3f} s{rate}: "
                f"lost {self.lost}, duplicated {self.duplicated}, unknown {self.unknown}"
                + (f", answered under a wrong ClOrdID {self.mismatched}" * bool(self.mismatched)),
                style,
            ),
            soft_wrap=True,
        )

    def _messages(self) -> Any:
        table = _table("message", "sent")
        for name, count in self.messages.items():
            table.add_row(name, f"{count:,}")
        table.add_section()
        table.add_row("all", f"{self.sent:,}")
        return table

    def _fates(self) -> Any:
        table = _table("fate", "messages")
        for name, count in sorted(self.fates.items(), key=lambda item: -item[1]):
            table.add_row(name.replace(":", ": ").replace("_", " "), f"{count:,}")
        table.add_section()
        for name, count in (("lost", self.lost), ("unknown", self.unknown)):
            table.add_row(name, f"{count:,}", style="red" if count else None)
        for name, count in self.events.items():
            table.add_row(f"later {name.replace('_', ' ')}", f"{count:,}")
        return table

    def _times(self) -> Any:
        table = _table("round trip", "µs")
        for name, value_ns in self.rtt.to_json().items():
            table.add_row(_QUANTILE_NAMES.get(name, name), f"{value_ns / 1000:,.1f}")
        if self.late_ns is not None:
            table.add_section()
            for name, value_ns in self.late_ns.items():
                label = f"sent late, {_QUANTILE_NAMES.get(name, name)}"
                table.add_row(label, f"{value_ns / 1000:,.1f}")
        return table


def _table(first: str, second: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    table.add_column(second, justify="right")
    return table


def _environment() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu_count": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
    }


def _late(lanes: list[Lane], schedule: Schedule) -> dict[str, int] | None:
    if schedule.speed is None:
        return None
    late = np.sort(np.concatenate([lane.late_ns[: lane.sent_count] for lane in lanes]))
    if not len(late):
        return None
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: int(late[max(0, int(np.ceil(q * len(late))) - 1)]) for name, q in ranks.items()}


def _applied(lane: Lane) -> int | None:
    """Up to where the gateway says it took messages; None when the link does not tell any more."""
    return None if lane.link_lost else int(lane.session.status()["applied"])


def summarise(
    flow: Flow, lanes: list[Lane], outcome: Outcome, schedule: Schedule, rtt: Latency
) -> ReplayReport:
    """The report on a run that has ended, before its sessions are closed."""
    fates: Counter[str] = Counter()
    events: Counter[str] = Counter()
    templates: Counter[str] = Counter()
    lost = unknown = 0
    sessions = []
    for lane in lanes:
        lane_lost, lane_unknown = lane.tracker.unanswered(lane.sent_count, _applied(lane))
        lost, unknown = lost + lane_lost, unknown + lane_unknown
        fates += lane.tracker.fates(lane.sent_count)
        events += lane.tracker.events
        kinds = np.bincount(lane.kinds[: lane.sent_count], minlength=256)
        templates += Counter(
            {_KIND_NAMES[letter]: int(kinds[ord(letter)]) for letter in CLIENT_KINDS}
        )
        sessions.append(
            {
                "name": lane.name,
                "planned": len(lane.slots),
                "sent": lane.sent_count,
                "first_sequence": lane.first_sequence,
                "lost": lane_lost,
                "unknown": lane_unknown,
            }
        )
    return ReplayReport(
        planned=sum(len(lane.slots) for lane in lanes),
        sent=sum(lane.sent_count for lane in lanes),
        messages={name: templates[name] for name in _KIND_NAMES.values()},
        fates=dict(fates),
        events=dict(events),
        lost=lost,
        duplicated=sum(lane.tracker.duplicated_count for lane in lanes),
        unknown=unknown,
        mismatched=sum(lane.tracker.mismatched_count for lane in lanes),
        foreign=sum(lane.tracker.foreign_count for lane in lanes),
        elapsed_s=outcome.elapsed_ns / 1e9,
        rtt=rtt,
        late_ns=_late(lanes, schedule),
        interrupted=outcome.interrupted,
        timed_out=outcome.timed_out,
        failures=outcome.failures,
        sessions=sessions,
        source={
            "path": flow.path,
            "rows": flow.row_count,
            "client_messages": len(flow),
            "skipped": flow.skipped,
            "clock_steps_back": flow.steps_back,
            "symbols": len(flow.symbols),
            "quantity_exponent": flow.quantity_exponent,
        },
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` as indented JSON. Raises InputError when that fails."""
    try:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", path=str(path)) from None
