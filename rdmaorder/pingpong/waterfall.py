"""Where an order's time went: stamps of both ends joined, on one clock."""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rdmaorder.pingpong.runs import Run
from rdmaorder.pingpong.statistics import summary

__all__ = [
    "MOST_ROWS",
    "STAGES",
    "Clocks",
    "Stages",
    "align",
    "join",
    "pack",
    "stages_of",
    "unpack",
    "waterfall_json",
]

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

#: What the gateway keeps: its newest orders.
MOST_ROWS = 1 << 16
#: In the order of an order's life. "written" is when the send call returned: over shared memory
#: the gateway may have seen the order before, and the next stage is then below zero.
STAGES = (
    "call",
    "written",
    "seen",
    "verified",
    "guarded",
    "journalled",
    "handled",
    "report written",
    "report seen",
)
_CHUNKS = 20


def pack(rows: Words) -> str:
    """Rows as text for the control connection."""
    return base64.b64encode(zlib.compress(rows.tobytes(), 1)).decode()


def unpack(text: str) -> Words:
    """What ``pack`` made."""
    rows = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint64)
    return rows.reshape(-1, 8)


@dataclass(frozen=True)
class Clocks:
    """How the gateway's clock was brought to the client's. ``error_ns`` bounds what remains."""

    how: str
    error_ns: float


@dataclass(frozen=True)
class Stages:
    """``times``: a row of STAGES an order, ns from the first call; ``index``: its sample."""

    times: Floats
    index: npt.NDArray[np.int64]
    clocks: Clocks


def join(
    run: Run, rows: Words, first_sequence: int, gateway_ticks_per_ns: float, one_clock: bool
) -> Stages | None:
    """Both ends' stamps of the same orders; None where no order has them all.

    ``first_sequence``: of the order that is sample 0.
    """
    index = rows[:, 0].astype(np.int64) - first_sequence
    whole = (rows[:, 0] != 0) & (index >= 0) & (index < len(run.samples)) & (rows[:, 6] != 0)
    rows, index = rows[whole], index[whole]
    samples = run.samples[index]
    answered = samples[:, 2] != 0
    rows, samples, index = rows[answered], samples[answered], index[answered]
    if not len(rows):
        return None
    order = np.argsort(samples[:, 1])
    rows, samples, index = rows[order], samples[order], index[order]
    base_client = int(samples[0, 1])
    base_gateway = base_client if one_clock else int(rows[0, 1])
    client = (samples[:, [1, 5, 2]].astype(np.int64) - base_client) / run.ticks_per_ns
    there = (rows[:, 1:7].astype(np.int64) - base_gateway) / gateway_ticks_per_ns
    times = np.column_stack([client[:, 0], client[:, 1], there, client[:, 2]])
    aligned, clocks = align(times, one_clock=one_clock)
    return Stages(aligned, index, clocks)


def align(stages: Floats, *, one_clock: bool) -> tuple[Floats, Clocks]:
    """Brings the gateway's columns to the client's clock.

    An order is seen after it was called, and its report is handled before it is seen here: each
    order bounds the difference of the two clocks from both sides, the fastest of many tightly. The
    difference is taken in the middle and followed over the run. Clocks drift: by the line through
    the middles of the faster half first, for within a part of a slow run that alone would be more
    than the bounds are apart.
    """
    if one_clock:
        return stages, Clocks("one clock", 0.0)
    at = stages[:, 0]
    most = stages[:, 2] - at  # seen - call
    least = stages[:, 6] - stages[:, 8]  # handled - report seen
    drift = _drift(at, (most + least) / 2, most - least)
    most, least = most - drift, least - drift
    middles, offsets, halves = [], [], []
    for part in np.array_split(np.arange(len(at)), min(_CHUNKS, max(1, len(at) // 50))):
        high, low = float(np.min(most[part])), float(np.max(least[part]))
        middles.append(float(np.mean(at[part])))
        offsets.append((high + low) / 2)
        halves.append(abs(high - low) / 2)
    aligned = stages.copy()
    aligned[:, 2:8] -= (drift + np.interp(at, middles, offsets))[:, None]
    return aligned, Clocks("aligned over the link", round(max(halves), 1))


def _drift(at: Floats, middle: Floats, width: Floats) -> Floats:
    """How far the clocks have moved apart at each time, by the orders that say it best."""
    fast = width <= np.median(width)
    if np.ptp(at[fast]) == 0:
        return np.zeros(len(at))
    rate, _ = np.polyfit(at[fast], middle[fast], 1)
    return np.asarray(rate * at, np.float64)


def waterfall_json(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Times between one stage and the next, at the median and the 99th percentile."""
    found: list[Stages] = [run.stages for run in runs if run.stages is not None]
    if not found:
        return None
    stages = np.concatenate([each.times for each in found])
    error_ns = max(each.clocks.error_ns for each in found)
    steps = np.diff(stages, axis=1)
    whole = stages[:, -1] - stages[:, 0]
    total = float(np.median(whole))
    result = []
    for number, (before, after) in enumerate(itertools.pairwise(STAGES)):
        times = summary(steps[:, number])
        median = times["p50"]
        result.append(
            {
                "from": before,
                "to": after,
                "p50_ns": median,
                "p99_ns": times["p99"],
                "share": round(median / total, 4) if total else 0.0,
            }
        )
    return {
        "orders": len(stages),
        "clocks": found[0].clocks.how,
        "clock_error_ns": error_ns,
        "round_trip_p50_ns": round(total, 1),
        "round_trip_p99_ns": round(float(np.quantile(whole, 0.99)), 1),
        "stages": result,
    }


def stages_of(run: Run, index: int) -> dict[str, float] | None:
    """One order's time between stages, by the stage it ends with."""
    if run.stages is None:
        return None
    hit = np.flatnonzero(run.stages.index == index)
    if not len(hit):
        return None
    steps = np.diff(run.stages.times[hit[0]])
    return {name: round(float(step), 1) for name, step in zip(STAGES[1:], steps, strict=True)}
