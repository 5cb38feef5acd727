"""One run: raw samples as the measuring loop left them, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rdmaorder.pingpong.statistics import class_of, is_steady, summary

__all__ = ["Run", "new_samples", "rate_of"]

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

_INTENDED, _SENT, _RECEIVED, _GAP, _POLLS = range(5)
SAMPLE_WORDS = 6


def new_samples(count: int) -> Words:
    """Room for ``count`` orders, every page touched."""
    samples = np.empty((count, SAMPLE_WORDS), np.uint64)
    samples.fill(0)
    return samples


@dataclass
class Run:
    """``samples``: rows intended, sent, received, gap, polls in ticks (``pingpong.hpp``)."""

    name: str
    repeat: int
    samples: Words
    ticks_per_ns: float
    facts: dict[str, Any] = field(default_factory=dict)
    floor_before_ns: float | None = None
    floor_after_ns: float | None = None
    rate_asked: float | None = None
    started_s: float = 0.0  #: seconds since the epoch
    #: When a collection of Python's garbage began and ended, in ticks.
    collections: list[tuple[int, int]] = field(default_factory=list)
    #: When this program wrote how far it was, in ticks.
    progress: list[tuple[int, int]] = field(default_factory=list)
    discarded: str = ""
    limited: str = ""  #: why it was over before the time it was given
    #: Rows of waterfall.STAGES, ns, and how the clocks were aligned.
    stages: Any = None

    def __post_init__(self) -> None:
        sent = int(self.facts.get("sent", len(self.samples)))
        self.samples = self.samples[:sent]
        self._answered = self.samples[:, _RECEIVED] != 0

    @property
    def complete(self) -> bool:
        """It ran to its end and every answer was right."""
        return self.facts.get("ending", "done") == "done" and not self.bad

    @property
    def bad(self) -> int:
        """Answers that were wrong."""
        return int(self.facts.get("bad_payloads", 0)) + int(self.facts.get("strays", 0))

    @property
    def count(self) -> int:
        """Orders answered."""
        return int(self._answered.sum())

    @property
    def answered(self) -> npt.NDArray[np.intp]:
        """Indices of the orders that were answered."""
        return np.flatnonzero(self._answered)

    def _ns(self, later: int, earlier: int) -> Floats:
        rows = self.samples[self._answered]
        ticks = rows[:, later].astype(np.int64) - rows[:, earlier].astype(np.int64)
        return np.asarray(np.maximum(ticks, 0) / self.ticks_per_ns, np.float64)

    def rtt_ns(self) -> Floats:
        """Round trips, counted from when each order was due (closed loop: from its send)."""
        return self._ns(_RECEIVED, _INTENDED)

    def service_ns(self) -> Floats:
        """Round trips from the send itself: what a closed loop would have seen."""
        return self._ns(_RECEIVED, _SENT)

    def late_ns(self) -> Floats:
        """How much later than due the orders were sent."""
        return self._ns(_SENT, _INTENDED)

    def times_s(self) -> Floats:
        """When each order was due, from the first."""
        rows = self.samples[self._answered, _INTENDED]
        if not len(rows):
            return np.zeros(0)
        return np.asarray((rows - rows[0]) / self.ticks_per_ns / 1e9, np.float64)

    def gaps_ns(self) -> Floats:
        """Longest time the sender did not look, per answered order."""
        return np.asarray(self.samples[self._answered, _GAP] / self.ticks_per_ns, np.float64)

    @property
    def span_s(self) -> float:
        """From the first order's send to the last one's."""
        if len(self.samples) < 2:
            return 0.0
        ticks = int(self.samples[-1, _SENT]) - int(self.samples[0, _SENT])
        return ticks / self.ticks_per_ns / 1e9

    @property
    def rate(self) -> float:
        """Orders a second."""
        return rate_of([self])

    @property
    def max_at_s(self) -> float:
        """When the slowest order was due, from the first."""
        return round(float(self.times_s()[int(np.argmax(self.rtt_ns()))]), 6)

    @property
    def floor_ns(self) -> float | None:
        """The floor around the run, one way."""
        if self.floor_before_ns is None or self.floor_after_ns is None:
            return None
        return (self.floor_before_ns + self.floor_after_ns) / 2

    @property
    def placement(self) -> str | None:
        """Placement class, None where there is no floor or it changed meanwhile."""
        if self.floor_before_ns is None or self.floor_after_ns is None:
            return None
        if not is_steady(self.floor_before_ns, self.floor_after_ns):
            return None
        return class_of((self.floor_before_ns + self.floor_after_ns) / 2)

    def to_json(self) -> dict[str, Any]:
        """Numbers of this run."""
        rtt = self.rtt_ns()
        result: dict[str, Any] = {
            "repeat": self.repeat,
            "complete": self.complete,
            "ending": self.facts.get("ending", "done"),
            "kept": not self.discarded,
            "sent": len(self.samples),
            "answered": self.count,
            "rtt_ns": summary(rtt),
            "rate_per_s": round(self.rate, 1),
            "bad_payloads": self.bad,
            "torn": int(self.facts.get("torn", 0)),
        }
        if self.facts.get("retransmissions"):
            result["retransmissions"] = self.facts["retransmissions"]
        if self.discarded:
            result["discarded"] = self.discarded
        if self.limited:
            result["limited"] = self.limited
        if self.facts.get("cause"):
            result["cause"] = self.facts["cause"]
        if len(rtt):
            result["max_at_s"] = self.max_at_s
        if self.rate_asked is not None:
            result["rate_asked_per_s"] = round(self.rate_asked, 1)
            result["rate_reached"] = self.rate >= 0.99 * self.rate_asked
            result["service_ns"] = summary(self.service_ns())
            result["late_ns"] = summary(self.late_ns())
        if self.floor_ns is not None:
            result["floor_before_ns"] = round(self.floor_before_ns or 0, 2)
            result["floor_after_ns"] = round(self.floor_after_ns or 0, 2)
            result["placement"] = self.placement
        return result


def rate_of(runs: Sequence[Run]) -> float:
    """Orders a second over all ``runs``."""
    took_s = sum(run.span_s for run in runs)
    return sum(len(run.samples) - 1 for run in runs if run.span_s) / took_s if took_s else 0.0
