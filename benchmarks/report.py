"""``docs/benchmarks.md`` and the table of ``make bench``, from the results files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.pingpong_page import pingpong_section
from benchmarks.rdma_page import rdma_section

Result = dict[str, Any]


def _ratio(result: Result, part: str, name: str) -> float | None:
    entry = result[part].get(name, {})
    return float(entry["ratio"]["median"]) if "ratio" in entry else None


def _million(result: Result, part: str, name: str) -> float | None:
    entry = result[part].get(name, {})
    return float(entry["million_per_s"]["median"]) if "million_per_s" in entry else None


def _idle_ns(result: Result) -> float | None:
    steps = result["costs_ns"]
    many, few = steps.get("idle_pass_1024"), steps.get("idle_pass_1")
    if many is None or few is None:
        return None
    return float((many["median"] - few["median"]) / 1023)


def _growth(result: Result) -> float | None:
    beside = result["latency"].get("session_beside_idle_256", {})
    alone = result["latency"].get("session", {})
    if "ratio" not in beside or "ratio" not in alone:
        return None
    return float(beside["ratio"]["median"] / alone["ratio"]["median"])


def targets(result: Result) -> list[tuple[str, float | None, str, float, bool]]:
    """(what, measured, unit, target, whether less is better) for each number to reach."""
    return [
        ("raw transport, one way p50", _ratio(result, "latency", "raw_put"), "× floor", 1.1, True),
        ("full session, one way p50", _ratio(result, "latency", "session"), "× floor", 1.4, True),
        (
            "Python strategy and C++ gateway, one way p50",
            _ratio(result, "python_latency", "python_to_cpp"),
            *("× floor", 3.5, True),
        ),
        (
            "Python on both ends, one way p50",
            _ratio(result, "python_latency", "python_both_ends"),
            *("× floor", 4.0, True),
        ),
        (
            "Python new_order, six arguments, added to other work of some hundred ns",
            result["python_calls_ns"].get("new_order_added_to_other_work"),
            *("ns", 80.0, True),
        ),
        (
            "the same back to back, each behind the last one's cache line",
            result["python_calls_ns"].get("new_order_positional"),
            *("ns", 80.0, True),
        ),
        ("send", result["instructions"].get("send"), "instructions", 150.0, True),
        (
            "pick-up with CRC, guard and journal append",
            result["instructions"].get("pick_up_journal"),
            *("instructions", 400.0, True),
        ),
        ("throughput, single", _million(result, "throughput", "single"), "M/s", 12.0, False),
        ("throughput, batched", _million(result, "throughput", "batched"), "M/s", 25.0, False),
        (
            "throughput from Python, numpy batches",
            _million(result, "python_throughput", "python_batches"),
            *("M/s", 10.0, False),
        ),
        ("idle session, each pass", _idle_ns(result), "ns", 3.0, True),
        ("p50 beside 256 idle sessions", _growth(result), "× alone", 3.0, True),
    ]


def _verdict(measured: float | None, target: float, less: bool) -> str:
    if measured is None:
        return "not measured"
    return "met" if (measured <= target if less else measured >= target) else "**missed**"


def _target_table(results: list[Result]) -> list[str]:
    """Each number of every placement that was measured."""
    places = [f"{result['placement']}, floor {result['floor_ns']:.0f} ns" for result in results]
    lines = [f"| what | target | {' | '.join(places)} |", "|---" * (2 + len(places)) + "|"]
    for rows in zip(*(targets(result) for result in results), strict=True):
        what, _, unit, target, less = rows[0]
        cells = [f"{'≤' if less else '≥'} {target:g} {unit}"]
        for _, measured, *_ in rows:
            shown = "" if measured is None else f"{measured:.3g}: "
            cells.append(f"{shown}{_verdict(measured, target, less)}")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def _latency_table(entries: Result) -> list[str]:
    lines = [
        "| scenario | p50 ns | low … high | p99 ns | ÷ floor | runs kept |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in entries.items():
        if "p50_ns" not in entry:
            lines.append(f"| {name} | – | – | – | – | 0 of {entry['runs']} |")
            continue
        p50, ratio = entry["p50_ns"], entry["ratio"]
        p99 = f"{entry['p99_ns']['median']:.0f}" if "p99_ns" in entry else "–"
        lines.append(
            f"| {name} | {p50['median']:.0f} | {p50['low']:.0f} … {p50['high']:.0f} | {p99} | "
            f"{ratio['median']:.2f} ({ratio['low']:.2f} … {ratio['high']:.2f}) | "
            f"{entry['kept']} of {entry['runs']} |"
        )
    return lines


def _flow_table(entries: Result) -> list[str]:
    lines = ["| flow | million/s | low … high | runs kept |", "|---|---|---|---|"]
    for name, entry in entries.items():
        if "million_per_s" not in entry:
            lines.append(f"| {name} | – | – | 0 of {entry['runs']} |")
            continue
        rate = entry["million_per_s"]
        lines.append(
            f"| {name} | {rate['median']:.1f} | {rate['low']:.1f} … {rate['high']:.1f} | "
            f"{entry['kept']} of {entry['runs']} |"
        )
    return lines


def _cost_table(result: Result) -> list[str]:
    lines = ["| step | ns | low … high |", "|---|---|---|"]
    for name, cost in result["costs_ns"].items():
        lines.append(f"| {name} | {cost['median']:.1f} | {cost['low']:.1f} … {cost['high']:.1f} |")
    return lines


def _pairs(values: dict[str, float], what: str, unit: str) -> list[str]:
    return [
        f"| {what} | {unit} |",
        "|---|---|",
        *(f"| {name} | {value:g} |" for name, value in values.items()),
    ]


def _environment(result: Result) -> list[str]:
    return ["| | |", "|---|---|"] + [
        f"| {key} | {value} |" for key, value in result["environment"].items()
    ]


def read_results(folder: Path) -> list[Result]:
    """One result a placement, the newest first."""
    found = [json.loads(path.read_text("utf-8")) for path in folder.glob("shm-*.json")]
    return sorted(found, key=lambda result: str(result["environment"]["time"]), reverse=True)


def write_page(folder: Path, path: Path) -> str:
    """Writes the page from the files in ``folder``; gives the table of targets."""
    results = read_results(folder)
    result = results[0]
    table = _target_table(results)
    lines = [
        "# Benchmarks",
        "",
        "Generated by `make bench` from `benchmarks/results/`; do not edit. Latencies are",
        "one way (half a round trip) of 64-byte messages between two pinned processes on one",
        "machine. The *floor* is the bare cache-line ping-pong between the same two processors,",
        "probed before and after every run; runs whose probes disagree are discarded, and one",
        "placement class is kept. Ratios travel between machines, nanoseconds do not.",
        "",
        "## Beside the targets",
        "",
        "One column for each placement that `make bench` has met, one run of it each.",
        "",
        *table,
        "",
        f"What follows is of the newest run: placement **{result['placement']}**, floor",
        f"{result['floor_ns']:.0f} ns.",
        "",
        "## Latency",
        "",
        *_latency_table(result["latency"]),
        "",
        "Python strategies; the loop of the strategy is in the time:",
        "",
        *_latency_table(result["python_latency"]),
        "",
        *pingpong_section(folder),
        *rdma_section(folder),
        "## Throughput",
        "",
        *_flow_table(result["throughput"]),
        *_flow_table(result["python_throughput"])[2:],
        "",
        "## Single steps, one warm thread",
        "",
        *_cost_table(result),
        "",
        "## Python calls",
        "",
        *_pairs(result["python_calls_ns"], "call", "median ns"),
        "",
        "## Instructions (callgrind, exact)",
        "",
        *_pairs(result["instructions"], "step", "instructions"),
        "",
        "## Environment",
        "",
        *_environment(result),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return "\n".join(table)
