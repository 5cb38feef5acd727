"""The part of ``docs/benchmarks.md`` that ``rdmaorder pingpong`` measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rdmaorder.pingpong.report import ratio_text

Result = dict[str, Any]


def _ns(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _levels(found: Result) -> list[str]:
    lines = [
        "| level | p50 ns | p90 | p99 | p99.9 | p50 ÷ floor | p99 ÷ floor | runs kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, level in found["levels"].items():
        times = level["one_way_ns"]
        ratios = [level.get(key, {}).get("median") for key in ("p50_to_floor", "p99_to_floor")]
        shown = ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        cells = [_ns(times.get(key)) for key in ("p50", "p90", "p99", "p99_9")]
        kept = f"{level['runs_kept']} of {len(level['runs'])}"
        lines.append(f"| {' | '.join([name, *cells, *shown, kept])} |")
    return lines


def _references(found: Result) -> list[str]:
    lines = [
        "| reference | what | p50 ns | p99 ns | session ÷ it, p50 | p99 |",
        "|---|---|---|---|---|---|",
    ]
    for name, reference in found["references"].items():
        times = reference["one_way_ns"]
        p50 = _ns(times.get("p50"))
        if "p50" not in times and "mean" in times:
            p50 = f"mean {_ns(times['mean'])}"
        what = reference.get("what", "")
        if reference.get("version"):
            what += f" ({reference['version']})"
        ratios = [ratio_text(found["ratio"].get(name), key) for key in ("p50", "p99")]
        lines.append(
            f"| {name} | {what} | {p50} | {_ns(times.get('p99'))} | {ratios[0]} | {ratios[1]} |"
        )
    for name, why in found["missing_references"].items():
        lines.append(f"| {name} | {why} | – | – | – | – |")
    return lines


def _waterfall(path: Path) -> list[str]:
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    level = found["levels"]["gateway"].get("waterfall")
    if level is None:
        return []
    lines = [
        f"Where an order's time went at level gateway, {level['orders']:,} orders, clock reading",
        "included; `written` is when the send call returned:",
        "",
        "| from | to | p50 ns | p99 ns | of the round trip |",
        "|---|---|---|---|---|",
    ]
    for each in level["stages"]:
        lines.append(
            f"| {each['from']} | {each['to']} | {each['p50_ns']:.0f} | {each['p99_ns']:.0f} | "
            f"{each['share']:.0%} |"
        )
    whole = _ns(level["round_trip_p50_ns"]), _ns(level.get("round_trip_p99_ns"))
    lines.append(f"| call | report seen | {whole[0]} | {whole[1]} | 100% |")
    return [*lines, ""]


def pingpong_section(folder: Path) -> list[str]:
    """Lines of the section; none where nothing was measured."""
    path = folder / "pingpong.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    clock, build = found["clock"], found["environment"]["build"]
    lines = [
        "## Level by level, beside the alternatives",
        "",
        "From `pingpong.json`, by [rdmaorder pingpong](benchmarking.md): runs in turn, closed",
        f"loop, {found['plan']['size']} bytes, placement **{found['placement']}**, a clock reading",
        f"of {clock['read_cost_ns']:.0f} ns in each round trip, commit {build['commit']}.",
        "Times are one way (RTT/2).",
        "",
        *_levels(found),
        "",
        *_references(found),
        "",
    ]
    plots = (("pingpong.png", "by percentile"), ("pingpong-over-time.png", "over time"))
    for name, what in plots:
        if (folder / name).is_file():
            lines += [f"![Round trips {what}](../benchmarks/results/{name})", ""]
    return [*lines, *_waterfall(folder / "waterfall.json")]
