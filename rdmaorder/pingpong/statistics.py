"""Percentiles, placement classes, ratios and confidence intervals. Pure arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "QUANTILES",
    "change_of",
    "class_of",
    "is_steady",
    "main_class",
    "quantile",
    "ratio_of",
    "spread",
    "summary",
    "time_text",
]

Floats = npt.NDArray[np.float64]

#: Keys between min and max, in every file and table.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "p99_99": 0.9999}

#: A run counts when the floor before and after it agree within this.
SAME_FLOOR_RATIO = 1.15
#: With more pairs of runs than these the normal distribution is near enough.
_EXACT_PAIRS = 10_000
#: Upper ends of the placement classes: one-way p50 of the floor in ns.
CLASSES = ((45.0, "adjacent"), (130.0, "near"), (float("inf"), "far"))


def quantile(ordered: Floats, q: float) -> float:
    """The ``q`` quantile of ascending values, as of grouped data.

    The cycle counter moves in steps of several ns, so thousands of samples share a value: each
    stands for the interval half-way to its neighbours, and the quantile is interpolated in it.
    """
    if not len(ordered):
        return float("nan")
    rank = q * len(ordered)
    value = ordered[min(int(rank), len(ordered) - 1)]
    first = int(np.searchsorted(ordered, value, "left"))
    last = int(np.searchsorted(ordered, value, "right"))
    low = (value + ordered[first - 1]) / 2 if first else value
    high = (value + ordered[last]) / 2 if last < len(ordered) else value
    part = min(max((rank - first) / (last - first), 0.0), 1.0)
    return float(low + (high - low) * part)


def summary(values: Floats) -> dict[str, float]:
    """``min``, QUANTILES and ``max``; a percentile needs one sample beyond it, else it is max."""
    if not len(values):
        return {}
    ordered = np.sort(values)
    result = {"min": float(ordered[0])}
    for name, q in QUANTILES.items():
        enough = len(ordered) * (1 - q) >= 1
        result[name] = quantile(ordered, q) if enough else float(ordered[-1])
    result["max"] = float(ordered[-1])
    return {name: round(value, 2) for name, value in result.items()}


def class_of(floor_ns: float) -> str:
    """Placement class of a floor (one way)."""
    return next(name for end, name in CLASSES if floor_ns < end)


def is_steady(before_ns: float, after_ns: float) -> bool:
    """Whether the probes before and after a run saw the same placement."""
    return class_of(before_ns) == class_of(after_ns) and max(
        before_ns, after_ns
    ) <= SAME_FLOOR_RATIO * min(before_ns, after_ns)


def main_class(classes: Sequence[str]) -> str | None:
    """The placement class that most steady runs were in, None without any."""
    return Counter(classes).most_common(1)[0][0] if classes else None


def time_text(value_ns: float | None) -> str:
    """For a column: three digits and a unit."""
    if value_ns is None or value_ns != value_ns:
        return "–"
    for unit_ns, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if value_ns >= unit_ns:
            return f"{value_ns / unit_ns:.3g} {unit}"
    return f"{value_ns:.0f} ns"


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest, highest and how many."""
    return {
        "median": _digits(float(np.median(values))),
        "low": _digits(min(values)),
        "high": _digits(max(values)),
        "n": len(values),
    }


def ratio_of(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> Any:
    """Ours over theirs at p50 and p99, from runs that took turns: pair by pair (same ``repeat``).

    ``p50`` and ``p99`` are medians; ``…_low`` and ``…_high`` the ends of the spread. A tool that
    prints a mean and nothing else is compared with our mean, as ``mean``, and its percentiles are
    None. None without a pair.
    """
    partners = {each["repeat"]: each for each in theirs}
    result: dict[str, Any] = {}
    mean_only = bool(theirs) and all("p50" not in each["rtt_ns"] for each in theirs)
    for name in ("p50", "p99", "mean") if mean_only else ("p50", "p99"):
        ratios = [
            each["rtt_ns"][name] / partners[each["repeat"]]["rtt_ns"][name]
            for each in ours
            if each["repeat"] in partners
            and name in each["rtt_ns"]
            and partners[each["repeat"]]["rtt_ns"].get(name)
        ]
        if not ratios:
            result[name] = None
            continue
        found = spread(ratios)
        result[name] = found["median"]
        result[f"{name}_low"] = found["low"]
        result[f"{name}_high"] = found["high"]
        result["pairs"] = found["n"]
    return result if result.get("pairs") else None


def change_of(
    before: Sequence[float], after: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Relative change from ``before`` to ``after`` and its confidence interval.

    Whole runs are what is independent, not single orders, and there are few of them. So: the
    median of all ratios of a run after to a run before (Hodges and Lehmann), and the interval that
    belongs to the rank test of Mann and Whitney. It holds for few runs and whatever the
    distribution; where there are too few for that confidence its ends are infinite.
    """
    ratios = np.sort(np.divide.outer(np.asarray(after), np.asarray(before)).ravel()) - 1
    outside = _pairs_outside(len(before), len(after), confidence)
    if outside < 0:
        return float(np.median(ratios)), float("-inf"), float("inf")
    return float(np.median(ratios)), float(ratios[outside]), float(ratios[-1 - outside])


def _pairs_outside(before: int, after: int, confidence: float) -> int:
    """How many of the ordered pairs lie beyond each end of the interval; -1: no end is certain.

    That is the most for which chance alone, by the distribution of the Mann-Whitney U, gives so
    few in no more than half of what ``confidence`` leaves.
    """
    chance = (1 - confidence) / 2
    few, many = sorted((before, after))
    pairs = few * many
    if pairs > _EXACT_PAIRS:
        deviation = (pairs * (few + many + 1) / 12) ** 0.5
        return int(pairs / 2 - NormalDist().inv_cdf(1 - chance) * deviation - 0.5)
    # ways[k, u]: choices of k of the ranks so far, with u ranks that were not chosen below them
    ways = np.zeros((few + 1, pairs + 1))
    ways[0, 0] = 1
    for rank in range(few + many):
        for chosen in range(min(rank + 1, few), 0, -1):
            below = rank - chosen + 1
            if below <= many:
                ways[chosen, below:] += ways[chosen - 1, : pairs + 1 - below]
    shares = np.cumsum(ways[few]) / ways[few].sum()
    return int(np.searchsorted(shares, chance, "right")) - 1
