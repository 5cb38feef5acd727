"""The tables of the ping-pong tool, whole at every width."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rdmaorder.pingpong.files import level_json
from rdmaorder.pingpong.measure import Measurement
from rdmaorder.pingpong.plan import LEVELS, Plan
from rdmaorder.pingpong.report import print_report
from rdmaorder.pingpong.runs import Run

REFERENCES = ("cacheline", "unix", "zeromq-spin", "iceoryx2", "fi_pingpong", "ib_write_lat")
RATIO = {
    name: value
    for key in ("p50", "p99")
    for name, value in ((key, 0.1234), (f"{key}_low", 0.1178), (f"{key}_high", 12.34))
}
TIMES = dict.fromkeys(("min", "p50", "p90", "p99", "p99_9", "p99_99", "max"), 1480.0)


def result(**plan: Any) -> dict[str, Any]:
    """As written as JSON, with every level and much longer numbers than usual."""
    measured = {"count": 1_250_000, "rtt_ns": TIMES, "one_way_ns": TIMES, "rate_per_s": 1234567.8}
    level = {**measured, "runs": [], "worst": [], "ratio": dict.fromkeys(REFERENCES, RATIO)}
    return {
        "plan": {"loop": "closed", "size": 64, "transport": "shm", "waterfall": False}
        | {"client_cpu": 0, "server_cpu": 1}
        | plan,
        "clock": {"read_cost_ns": 20.0, "python_stamp_ns": 60.0, "step_ns": 1.0},
        "environment": {
            "cpu": "X",
            "kernel": "6.1",
            "build": {"compiler": "gcc", "build_flags": "-O3", "commit": "0"},
        },
        "levels": dict.fromkeys(LEVELS, level),
        "references": dict.fromkeys(REFERENCES, measured),
        "missing_references": {},
        "steal": 0.0,
        "complete": True,
    }


def printed(content: dict[str, Any], width: int) -> list[str]:
    text = io.StringIO()
    print_report(Console(file=text, width=width), content)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 110, 140])
def test_every_reference_is_named_beside_every_level_with_its_ratios(width: int) -> None:
    lines = printed(result(), width)
    rows = [line.split() for line in lines if "(0.118 … 12.3)" in line]
    assert [row[:2] for row in rows] == [[name, each] for name in REFERENCES for each in LEVELS]
    assert all(row[2:] == ["0.123", "(0.118", "…", "12.3)"] * 2 for row in rows)


def test_a_reference_of_which_no_pair_of_runs_counts_says_so() -> None:
    content = result()
    content["levels"] = {"raw": {**content["levels"]["raw"], "ratio": dict.fromkeys(REFERENCES)}}
    lines = printed(content, 100)
    told = [line.split()[:2] for line in lines if "no pair of runs counts" in line]
    assert told == [[name, "raw"] for name in REFERENCES]


@pytest.mark.parametrize("width", [80, 100, 110, 140])
def test_no_cell_of_a_table_is_cut(width: int) -> None:
    lines = printed(result(), width)
    assert max(map(len, lines[:20])) <= width
    heads = [line.split() for line in lines if "orders" in line and "99 %" in line]
    assert len(heads) == 2 and "orders/s" in heads[0] and "adds" in heads[1]
    times = [line for line in lines if "1.48 µs" in line]
    assert len(times) == 2 * (len(LEVELS) + len(REFERENCES))
    assert all(line.count("1.48 µs") == (7 if width >= 108 else 4) for line in times)
    assert sum("1,234,568" in line for line in times) == len(LEVELS) + len(REFERENCES)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_cell_of_any_table_is_cut_however_large_the_numbers(width: int) -> None:
    content = result(loop="paced", waterfall=True)
    spread = {"median": 46930.0, "low": 46930.0, "high": 146930.0, "n": 3}
    run = {"rate_asked_per_s": 20e6, "rate_per_s": 19462123.0, "rate_reached": False}
    run |= {"late_ns": TIMES, "service_ns": TIMES, "bad_payloads": 0}
    stages = ("journalled", "report written", "report seen")
    steps = [
        {"from": a, "to": a, "p50_ns": 1870079.0, "p99_ns": 9.9e7, "share": 1.0} for a in stages
    ]
    waterfall = {"orders": 3000, "clocks": "one clock", "clock_error_ns": 0, "stages": steps}
    waterfall |= {"round_trip_p50_ns": 1e6, "round_trip_p99_ns": 1e6}
    worst = {
        "rtt_ns": 28e6,
        "repeat": 0,
        "stall_orders": 10**6,
        "index": 1_000_000,
        "at_s": 99.0,
        "causes": ["x " * 90],
    }
    for name, level in content["levels"].items():
        more = {"floor_ns": spread, "p50_to_floor": spread, "p99_to_floor": spread, "runs_kept": 10}
        more |= {"runs": [run], "waterfall": waterfall, "worst": [worst]}
        more["ratio"] = {"ib_write_lat": {key: 1e4 * value for key, value in RATIO.items()}}
        content["levels"][name] = level | more
    text = "\n".join(printed(content | {"placement": "near"}, width))
    assert not re.findall(r"\S…|…\S", text)
    assert text.count("REACHED") == len(LEVELS)


def test_a_level_has_its_rate_and_when_its_slowest_order_was_due() -> None:
    runs = []
    for repeat, every_ns in enumerate((1000, 3000)):
        samples = np.zeros((101, 6), np.uint64)
        samples[:, 0] = samples[:, 1] = 1_000_000 + np.arange(101) * every_ns
        samples[:, 2] = samples[:, 1] + 500
        samples[50, 2] += 100 * (1 + repeat)
        runs.append(Run("session", repeat, samples, 1.0, {"sent": 101}))
    plan = Plan(client_cpu=0, server_cpu=1, worst=0)
    measurement = Measurement(plan, {}, {}, None, [], runs={"session": runs})
    found = level_json(measurement, "session")
    assert found["rate_per_s"] == pytest.approx(200 / 400e-6)  # orders over time, not of means
    assert found["max_at"] == {"repeat": 1, "s": 0.00015}
