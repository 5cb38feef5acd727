"""The part of ``docs/benchmarks.md`` that ``make bench-rdma`` measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Result = dict[str, Any]

#: What the names of the series mean.
_SERIES = {
    "ib_write_lat": "perftest: RDMA WRITE each way, polled for in memory",
    "put": "the transport's own put each way, polled for in memory",
    "session": "C++ session → gateway's loop → report → session",
    "ucx_put": "ucx_perftest ucp_put_lat over rc_verbs: RDMA WRITE each way, between IPv6 GIDs",
    "ucx_am": "ucx_perftest ucp_am_lat over rc_verbs, between IPv6 GIDs",
    "libfabric": "fi_pingpong -p verbs -e msg (prints a mean only)",
    "ib_write_bw": "perftest: messages a second",
    "rate": "orders a second, each a call and a WRITE of its own",
    "post": "the call that posts a put, doorbell included",
    "pyverbs_post": "pyverbs, the same 64 bytes written and posted to the same place",
    "pyverbs_order": "pyverbs, six fields packed, sealed, posted to the next slot",
    "pyverbs_built": "the same, its work request made for each order",
    "python_new_order": "one new_order from Python over rdma://",
}
_ENDINGS = {
    "_user": "the same in user space: without the doorbell's system call",
    "_packets": "packets that the strategy's device sent in a round trip",
    "_p99": "99th percentile",
}


def is_rate(name: str) -> bool:
    """Of a series: messages a second, more is better."""
    return name.startswith(("rate", "ib_write_bw"))


def rdma_section(folder: Path) -> list[str]:
    """Lines, empty where rdma.json is not there."""
    path = folder / "rdma.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    facts = found["environment"]
    load, processors = facts["load_average_at_start"][0], facts["cpu_count"]
    rounds = max(len(series["rounds"]) for series in found["series"].values())
    return [
        "## RDMA on soft-RoCE",
        "",
        f"From `rdma.json`, by `make bench-rdma`: **{found['label']}**. Everything in",
        f"turn in one run, {rounds} rounds, commit {facts['git_commit']}; the load of the host at",
        f"its start was {load:.1f}, of {processors} processors. The host is half as fast for",
        "seconds at a time: ratios are of each one's best round, those of medians beside them.",
        "Why each is as it is: [docs/rdma.md](rdma.md#numbers-on-soft-roce).",
        "",
        *_ratios(found),
        "",
        *_series(found),
        "",
        *[f"- {name}: not measured, {reason}" for name, reason in found["missing"].items()],
        *([""] if found["missing"] else []),
    ]


def _ratios(found: Result) -> list[str]:
    lines = ["| what | ratio, best | of medians | target | met |", "|---|---|---|---|---|"]
    for ratio in found["ratios"]:
        met = "yes" if ratio["met"] else "**no**"
        target = ratio["target"].replace("<=", "≤").replace(">=", "≥")
        values = f"{ratio['value']:.2f} | {ratio['of_medians']:.2f}"
        lines.append(f"| {ratio['name']} | {values} | {target} | {met} |")
    return lines


def _series(found: Result) -> list[str]:
    lines = ["| series | best | median | worst | what |", "|---|---|---|---|---|"]
    for name, each in found["series"].items():
        a_second = is_rate(name)
        unit = "/s" if a_second else "" if name.endswith("_packets") else " us"
        digits = 0 if a_second else 2
        cells = [f"{each[key]:,.{digits}f}{unit}" for key in ("best", "median", "worst")]
        lines.append(f"| {name} | {' | '.join(cells)} | {_meaning(name)} |")
    return lines


def _meaning(name: str) -> str:
    for ending, meaning in _ENDINGS.items():
        if name.endswith(ending):
            return meaning
    stem = name.removesuffix("_64").removesuffix("_256")
    size = name.removeprefix(stem).removeprefix("_")
    return _SERIES[stem] + (f", {size} bytes" if size else "")
