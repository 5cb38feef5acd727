"""The slowest orders, kept whole, each with what most likely held it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rdmaorder.pingpong.runs import Run
from rdmaorder.pingpong.statistics import time_text
from rdmaorder.pingpong.waterfall import stages_of

__all__ = ["worst_orders"]

#: A gap in the sender's looks that explains an order: this part of its time.
_GAP_PART = 0.5
#: A paced order that took this many times the usual was held up.
_HELD_UP = 2
#: Columns of an anomaly behind the two ends of its window (``pingpong.hpp``).
_ANOMALY = ("voluntary", "involuntary", "minor_faults", "major_faults", "migrated")


class _Usual:
    """What is usual in a run, looked up once for all its orders."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rtt_ns, self.times_s, self.answered = run.rtt_ns(), run.times_s(), run.answered
        self.usual_ns = float(np.median(self.rtt_ns)) if run.count else 0.0
        self.polls = float(np.median(run.samples[self.answered, 4])) if run.count else 0.0


def worst_orders(runs: Sequence[Run], count: int) -> list[dict[str, Any]]:
    """The ``count`` slowest of all ``runs``, the slowest first; of one stall the slowest alone."""
    found: list[tuple[float, _Usual, int, int]] = []
    for usual in map(_Usual, runs):
        slowest_first = np.argsort(usual.rtt_ns)[::-1]
        stalls = _stalls(usual)[slowest_first]
        _, firsts, sizes = np.unique(stalls, return_index=True, return_counts=True)
        for stall in np.argsort(firsts)[:count]:
            place = int(slowest_first[firsts[stall]])
            found.append((float(usual.rtt_ns[place]), usual, place, int(sizes[stall])))
    found.sort(key=lambda each: -each[0])
    return [_whole(usual, place, together) for _, usual, place, together in found[:count]]


def _stalls(usual: _Usual) -> Any:
    """A number for each order, the same for those that one stall held up.

    An open loop's stall is in every order that was due meanwhile, and in those behind them until
    they have caught up: neighbours that all took longer than usual. In a closed loop each order
    has a stall of its own.
    """
    each = np.arange(len(usual.rtt_ns))
    if usual.run.rate_asked is None:
        return each
    held_up = usual.rtt_ns > _HELD_UP * usual.usual_ns
    # Of those held up the place of the last one before them that was not; else one of its own.
    return np.where(held_up, np.maximum.accumulate(np.where(held_up, -1, each)), -2 - each)


def _whole(usual: _Usual, place: int, together: int) -> dict[str, Any]:
    run, rtt_ns = usual.run, float(usual.rtt_ns[place])
    index = int(usual.answered[place])
    row = run.samples[index]
    result: dict[str, Any] = {
        "repeat": run.repeat,
        "index": index,
        "at_s": round(float(usual.times_s[place]), 6),
        "rtt_ns": round(rtt_ns, 1),
        "stall_orders": together,
        "usual_ns": round(usual.usual_ns, 1),
        "late_ns": round((int(row[1]) - int(row[0])) / run.ticks_per_ns, 1),
        "longest_gap_ns": round(int(row[3]) / run.ticks_per_ns, 1),
        "polls": int(row[4]),
    }
    anomaly = _anomaly(run, row)
    if anomaly is not None:
        result["kernel"] = anomaly
    stages = stages_of(run, index)
    if stages is not None:
        result["stages_ns"] = stages
    result["causes"] = _causes(usual, row, result, anomaly)
    return result


def _anomaly(run: Run, row: Any) -> dict[str, int] | None:
    """What the kernel counted from when that order was due until its answer was here."""
    rows = run.facts.get("anomalies")
    if rows is None or not len(rows):
        return None
    hit = (rows[:, 0] < row[2]) & (rows[:, 1] > row[0])
    counts = zip(_ANOMALY, rows[hit, 2:].sum(axis=0), strict=True)
    return {name: int(value) for name, value in counts if value} or None


def _causes(
    usual: _Usual, row: Any, facts: dict[str, Any], anomaly: dict[str, int] | None
) -> list[str]:
    """Likeliest first; never empty."""
    run, causes = usual.run, []
    excess_ns = facts["rtt_ns"] - facts["usual_ns"]
    if any(began <= int(row[2]) and ended >= int(row[1]) for began, ended in run.collections):
        causes.append("garbage collection in this process")
    shown_ticks = sum(
        max(0, min(ended, int(row[2])) - max(began, int(row[0]))) for began, ended in run.progress
    )
    if shown_ticks / run.ticks_per_ns > _GAP_PART * excess_ns > 0:
        causes.append("this program showed its progress just then (-q leaves that out)")
    late = facts["late_ns"] > _GAP_PART * facts["rtt_ns"]
    away = 0 < _GAP_PART * excess_ns < facts["longest_gap_ns"]
    seldom = facts["polls"] * usual.usual_ns < _GAP_PART * facts["rtt_ns"] * usual.polls
    kernel = _kernel_causes(anomaly or {})
    if late or away or seldom:  # else the sender kept looking, and it is not what it waited for
        causes += kernel
    if late:
        causes.append("it waited behind earlier orders: sent late")
    if not causes and away:
        causes.append("the sender did not look for a while: interrupt or hypervisor (poll gap)")
    if not causes and seldom:
        causes.append("the sender looked seldom meanwhile: interrupt or hypervisor (poll gap)")
    if run.facts.get("retransmissions"):
        causes.append(f"the link sent again meanwhile ({run.facts['retransmissions']} in this run)")
    stages = facts.get("stages_ns")
    if stages:
        slowest = max(stages, key=lambda name: stages[name])
        return [*causes, f"most of it ({time_text(stages[slowest])}) until: {slowest}"]
    other = "the answer came late though the sender kept looking: the other side or the way"
    return causes or [other]


def _kernel_causes(counts: dict[str, int]) -> list[str]:
    """Of what the kernel did to the sending thread."""
    said = {
        "major_faults": "page fault that waited for storage",
        "migrated": "the sending thread was moved to another processor",
        "involuntary": "the kernel ran something else on the sender's processor (context switch)",
        "voluntary": "the sending thread slept (context switch)",
        "minor_faults": "page fault on the sender's side",
    }
    return [text for name, text in said.items() if counts.get(name)]
