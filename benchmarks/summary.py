"""From single runs to what a table shows: placement classes, kept runs, medians, spread."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]

#: A run counts when the floor before and after it agree within this.
SAME_FLOOR_RATIO = 1.15
#: Upper ends of the placement classes: one-way p50 of the floor in ns.
CLASSES = ((45.0, "adjacent"), (130.0, "near"), (float("inf"), "far"))


def class_of(floor_ns: float) -> str:
    """Placement class of a floor."""
    return next(name for end, name in CLASSES if floor_ns < end)


def floor_of(row: Mapping[str, Any]) -> float:
    """The floor around a run in ns: the mean of the probes before and after it."""
    return float(row["floor_before_ns"] + row["floor_after_ns"]) / 2


def is_steady(row: Mapping[str, Any]) -> bool:
    """Whether both probes around a run saw the same placement."""
    before, after = row["floor_before_ns"], row["floor_after_ns"]
    return bool(
        class_of(before) == class_of(after)
        and max(before, after) <= SAME_FLOOR_RATIO * min(before, after)
    )


def main_class(rows: Iterable[Row]) -> str:
    """The placement class most steady runs were in: the one comparisons are made in."""
    counted = Counter(class_of(floor_of(row)) for row in rows if is_steady(row))
    return counted.most_common(1)[0][0] if counted else "none"


def spread(values: list[float]) -> dict[str, float]:
    """Median with the lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def summarise(
    rows: list[Row], key: str, values: tuple[str, ...], placement: str, ratio: str | None = None
) -> dict[str, Row]:
    """One entry a ``row[key]``: medians of ``values`` over the steady runs in ``placement``.

    ``ratio``: the value that is also given as a multiple of the floor around the same run.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    result: dict[str, Row] = {}
    for name, group in groups.items():
        kept = [row for row in group if is_steady(row) and class_of(floor_of(row)) == placement]
        entry: Row = {"runs": len(group), "kept": len(kept), "placement": placement}
        if kept:
            entry["floor_ns"] = statistics.median(floor_of(row) for row in kept)
            entry["n"] = sum(row["n"] for row in kept)
            for value in values:
                entry[value] = spread([row[value] for row in kept])
            if ratio is not None:
                entry["ratio"] = spread([row[ratio] / floor_of(row) for row in kept])
        result[name] = entry
    return result
