"""Round-trip times of all sessions of a run as one distribution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["JSON_QUANTILES", "Latency", "Snapshot"]

#: the keys of ``rtt_ns`` between min and max
JSON_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


class Snapshot(Protocol):
    """What ``Session.latency()`` returns: a histogram, one count a bucket."""

    @property
    def counts(self) -> npt.NDArray[np.uint64]: ...
    @property
    def min(self) -> int: ...
    @property
    def max(self) -> int: ...
    def bucket_uppers(self) -> npt.NDArray[np.uint64]: ...


@dataclass(frozen=True, slots=True)
class Latency:
    """Times in ns that occurred, ascending, and how often; both empty when nothing was measured."""

    values_ns: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.uint64]
    min_ns: int
    max_ns: int

    @staticmethod
    def merged(snapshots: Iterable[Snapshot]) -> Latency:
        """One distribution of several; a bucket counts with its greatest value."""
        filled = [snapshot for snapshot in snapshots if snapshot.counts.any()]
        if not filled:
            return Latency(np.zeros(0, np.uint64), np.zeros(0, np.uint64), 0, 0)
        counts = np.zeros(len(filled[0].counts), np.uint64)
        for snapshot in filled:
            counts += snapshot.counts
        buckets = np.flatnonzero(counts)
        max_ns = max(int(snapshot.max) for snapshot in filled)
        return Latency(
            np.minimum(filled[0].bucket_uppers()[buckets], np.uint64(max_ns)),
            counts[buckets],
            min(int(snapshot.min) for snapshot in filled),
            max_ns,
        )

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def quantile(self, q: float) -> int:
        """Time in ns that a fraction ``q`` of the round trips did not exceed; 0 when empty."""
        if not len(self.counts):
            return 0
        rank = max(1, int(np.ceil(q * self.count)))
        row = int(np.searchsorted(np.cumsum(self.counts), np.uint64(rank)))
        return int(self.values_ns[row])

    def to_json(self) -> dict[str, int]:
        """``min``, ``p50``, ``p90``, ``p99``, ``p99_9``, ``max`` in ns."""
        quantiles = {name: self.quantile(q) for name, q in JSON_QUANTILES.items()}
        return {"min": self.min_ns, **quantiles, "max": self.max_ns}
