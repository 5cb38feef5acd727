"""What is kept: JSON, and an HdrHistogram log that its tools read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from rdmaorder._outputs import check_writable
from rdmaorder.errors import ConfigError, InputError
from rdmaorder.pingpong.measure import Measurement
from rdmaorder.pingpong.runs import Run, rate_of
from rdmaorder.pingpong.statistics import ratio_of, spread, summary
from rdmaorder.pingpong.waterfall import waterfall_json
from rdmaorder.pingpong.worst import worst_orders

__all__ = ["FORMAT", "check_writable", "headline", "to_json", "write_hdr"]

FORMAT = 1
_HDR_HIGHEST_NS = 3_600_000_000_000
_HDR_DIGITS = 3


def require_hdrhistogram() -> None:
    """Raises ConfigError naming the remedy."""
    try:
        import hdrh  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--hdr needs hdrhistogram: pip install 'rdmaorder[hdr]', or leave it out"
        ) from None


def headline(measurement: Measurement) -> str | None:
    """The level that ratios at the top of the file are about."""
    measured = list(measurement.runs)
    return "session" if "session" in measured else (measured[0] if measured else None)


def _reference_row(run: Run) -> dict[str, Any]:
    row = run.to_json()
    if "summary_rtt_ns" in run.facts:
        row["rtt_ns"] = run.facts["summary_rtt_ns"]
    return row


def _with_mean(run: Run) -> dict[str, Any]:
    """For tools that tell their mean alone. Not in the tables: it says little of a latency."""
    row, rtt = run.to_json(), run.rtt_ns()
    if len(rtt):
        row["rtt_ns"]["mean"] = float(np.mean(rtt))
    return row


def _slowest(runs: list[Run]) -> dict[str, Any] | None:
    """When the slowest order of all was due."""
    answered = [run for run in runs if run.count]
    if not answered:
        return None
    run = max(answered, key=lambda each: float(np.max(each.rtt_ns())))
    return {"repeat": run.repeat, "s": run.max_at_s}


def _pooled(runs: list[Run]) -> Any:
    return np.concatenate([run.rtt_ns() for run in runs]) if runs else np.zeros(0)


def level_json(measurement: Measurement, name: str) -> dict[str, Any]:
    """One level: pooled over the runs that count, each run, ratios, the worst orders."""
    runs = measurement.runs[name]
    kept = measurement.shown(name)
    pooled = summary(_pooled(kept))
    result: dict[str, Any] = {
        "count": sum(run.count for run in kept),
        "rtt_ns": pooled,
        "one_way_ns": {key: round(value / 2, 2) for key, value in pooled.items()},
        "rate_per_s": round(rate_of(kept), 1),
        "max_at": _slowest(kept),
        "runs_kept": len(measurement.kept(name)),
        "runs": [run.to_json() for run in runs],
        "ends": measurement.facts.get(name, {}),
        "worst": worst_orders(kept, measurement.plan.worst),
    }
    waterfall = waterfall_json(kept)
    if waterfall is not None:
        result["waterfall"] = waterfall
    floors = [(run, run.floor_ns) for run in kept if run.floor_ns]
    if floors:
        rows = [(run.to_json()["rtt_ns"], floor) for run, floor in floors]
        result["floor_ns"] = spread([floor for _, floor in rows])
        for key in ("p50", "p99"):
            result[f"{key}_to_floor"] = spread([rtt[key] / 2 / floor for rtt, floor in rows])
    ours = [_with_mean(run) for run in kept]
    result["ratio"] = {
        reference: ratio_of(ours, [_reference_row(run) for run in measurement.kept(reference)])
        for reference in measurement.references
    }
    return result


def _reference_json(measurement: Measurement, name: str) -> dict[str, Any]:
    runs = measurement.references[name]
    kept = measurement.shown(name)
    result: dict[str, Any] = dict(measurement.reference_facts.get(name, {}))
    result["runs_kept"] = len(measurement.kept(name))
    if "summary_rtt_ns" in runs[0].facts:
        keys = runs[0].facts["summary_rtt_ns"]
        rtt = {
            key: float(np.median([run.facts["summary_rtt_ns"][key] for run in kept]))
            for key in keys
        }
        result["count"] = sum(run.facts.get("asked", 0) for run in kept)
        result["percentiles_of"] = runs[0].facts.get("percentiles_of", "what the tool prints")
    else:
        rtt = summary(_pooled(kept))
        result["count"] = sum(run.count for run in kept)
        result["rate_per_s"] = round(rate_of(kept), 1)
    result["rtt_ns"] = {key: round(value, 2) for key, value in rtt.items()}
    result["one_way_ns"] = {key: round(value / 2, 2) for key, value in rtt.items()}
    result["runs"] = [_reference_row(run) for run in runs]
    return result


def to_json(measurement: Measurement) -> dict[str, Any]:
    """The whole measurement. ``ratio``: the headline level over each reference, p50 and p99."""
    plan = measurement.plan
    levels = {name: level_json(measurement, name) for name in measurement.runs}
    top = headline(measurement)
    return {
        "tool": "rdmaorder pingpong",
        "format": FORMAT,
        "complete": measurement.complete,
        "ending": measurement.ending,
        "cause": measurement.cause,
        "plan": {
            "transport": plan.transport,
            "levels": list(plan.levels),
            "size": plan.size,
            "loop": "paced" if plan.paced else "closed",
            "rate_per_s": plan.rate,
            "replay": plan.replay,
            "speed": plan.speed,
            "iterations": plan.iterations,
            "duration_s": plan.duration_s,
            "warm_up": plan.warm_up,
            "repeats": plan.repeats,
            "waterfall": plan.waterfall,
            "client_cpu": plan.client_cpu,
            "server_cpu": plan.server_cpu,
        },
        "clock": {key: round(value, 3) for key, value in measurement.clock.items()},
        "placement": measurement.placement,
        "steal": round(measurement.steal, 5),
        "warnings": [each.to_json() for each in measurement.warnings],
        "headline": top,
        "ratio": levels[top]["ratio"] if top else {},
        "levels": levels,
        "references": {name: _reference_json(measurement, name) for name in measurement.references},
        "missing_references": dict(measurement.missing),
        "environment": measurement.environment,
        "server_environment": measurement.server,
    }


def write_hdr(path: Path, measurement: Measurement) -> None:
    """One interval a run, in the order they were made, tagged with its level: round trips in ns,
    the column of maxima in ms. Of the same runs as the tables.

    Lines are written here (format 1.3): hdrhistogram's own writer leaves tags out.
    """
    names = [*measurement.runs, *measurement.references]
    runs = [run for name in names for run in measurement.shown(name) if run.count]
    runs.sort(key=lambda run: run.started_s)
    start_s = runs[0].started_s if runs else time.time()
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start_s))
    lines = [
        "#rdmaorder pingpong: round trips in nanoseconds, one way = half",
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {start_s:.3f} (seconds since epoch), {text}]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for run in runs:
        payload, max_ns = _encoded(run)
        lines.append(
            f"Tag={run.name},{run.started_s - start_s:.6f},{run.times_s()[-1]:.6f},"
            f"{max_ns / 1e6:.6f},{payload}"
        )
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", path=str(path)) from None


def _encoded(run: Run) -> tuple[str, int]:
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, _HDR_HIGHEST_NS, _HDR_DIGITS)
    values, counts = np.unique(np.maximum(run.rtt_ns().astype(np.int64), 1), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram.encode().decode(), int(values[-1])
