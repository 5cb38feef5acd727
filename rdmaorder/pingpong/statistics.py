"""Percentiles, placement classes, ratios and confidence intervals. Pure arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "QUANTILES",
    "bootstrap_change",
    "class_of",
    "is_steady",
    "main_class",
    "quantile",
    "ratio_of",
    "spread",
    "summary",
]

Floats = npt.NDArray[np.float64]

#: Keys between min and max, in every file and table.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "p99_99": 0.9999}

#: A run counts when the floor before and after it agree within this.
SAME_FLOOR_RATIO = 1.15
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


def bootstrap_change(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float = 0.95,
    draws: int = 10_000,
) -> tuple[float, float, float]:
    """Relative change of the median from ``before`` to ``after`` and its confidence interval.

    Resamples whole runs, which are what is independent, not single orders. Deterministic.
    """
    rng = np.random.default_rng(20_240_229)
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    medians_a = np.median(a[rng.integers(0, len(a), (draws, len(a)))], axis=1)
    medians_b = np.median(b[rng.integers(0, len(b), (draws, len(b)))], axis=1)
    changes = medians_b / medians_a - 1
    tail = (1 - confidence) / 2
    low, high = np.quantile(changes, [tail, 1 - tail])
    return float(np.median(b) / np.median(a) - 1), float(low), float(high)
