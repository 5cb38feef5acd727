"""``make bench``: every measurement that fits in ten minutes, results into benchmarks/results.

Each run that has two processors stands between two probes of the floor (the bare cache-line
ping-pong between them); runs whose probes disagree are discarded and counted, and one placement
class is kept. Instruction counts come from callgrind and are exact. Writes ``shm-PLACEMENT.json``
and, from all of those there are, ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT, environment
from benchmarks.programs import LIMIT_S, Probe, program, run_lines
from benchmarks.report import write_page
from benchmarks.summary import Row, class_of, floor_of, is_steady, main_class, spread, summarise

RESULTS = ROOT / "benchmarks" / "results"
#: The processors move for seconds to tens of seconds; a run of the Python calls takes ten.
CALLS_ATTEMPTS = 12
CALLS_PAUSE_S = 5.0
#: Steps of bench_instructions that callgrind counts, and whether they need a journal.
STEPS = {
    "send": False,
    "pick_up": False,
    "pick_up_journal": True,
    "pick_up_and_report": False,
    "poll": False,
    "empty_poll": False,
    "nothing": False,
}


def say(text: str) -> None:
    """Progress, on stderr so that the table can be piped."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def instructions(build: Path, folder: Path) -> dict[str, float]:
    """Instructions of one step each, the driver's own loop taken off."""
    if shutil.which("valgrind") is None:
        say("valgrind is not installed: no instruction counts")
        return {}
    counts: dict[str, float] = {}
    for step, journal in STEPS.items():
        out = folder / f"callgrind.{step}"
        command = [
            *("valgrind", "--tool=callgrind", "--toggle-collect=measured_step"),
            *(f"--callgrind-out-file={out}", program(build, "instructions"), "--step", step),
            *(("--journal", str(folder / f"journal-{step}")) if journal else ()),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=ROOT
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        times = json.loads(done.stdout.splitlines()[-1])["count"]
        total = next(
            int(line.split()[1])
            for line in out.read_text().splitlines()
            if line.startswith(("summary:", "totals:"))
        )
        counts[step] = total / times
    loop = counts.pop("nothing")
    return {step: round(count - loop, 1) for step, count in counts.items()}


def costs(build: Path, folder: Path, repeats: int) -> dict[str, Row]:
    """Nanoseconds of single steps: median, lowest and highest of the repeats."""
    lines = run_lines(
        *(program(build, "costs"), "--repeats", str(repeats), "--journal", str(folder / "costs"))
    )
    groups: dict[str, list[float]] = {}
    for line in lines:
        name = line["step"]
        if "idle_sessions" in line:
            name += f"_{line['idle_sessions']}"
        groups.setdefault(name, []).append(line["ns"])
    return {name: spread(values) for name, values in groups.items()}


def pingpong(cpus: tuple[int, int], repeats: int) -> None:
    """Every level beside every reference that is installed: JSON, log and plots into RESULTS."""
    command = [
        *(sys.executable, "-m", "rdmaorder", "pingpong", "--level", "all"),
        *("--cpu", str(cpus[0]), "--server-cpu", str(cpus[1]), "--repeats", str(repeats)),
        *("-n", "20000"),
        *("--reference", "all", "--json", str(RESULTS / "pingpong.json")),
        *("--hdr", str(RESULTS / "pingpong.hdr"), "--plot", str(RESULTS / "pingpong.png")),
    ]
    done = subprocess.run(command, check=False, timeout=LIMIT_S, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}")
    say("where an order's time goes")
    waterfall = [*command[:4], "--level", "gateway", "--waterfall", "--repeats", "3"]
    waterfall += ["-n", "20000", "--cpu", str(cpus[0]), "--server-cpu", str(cpus[1])]
    waterfall += ["--json", str(RESULTS / "waterfall.json")]
    subprocess.run(waterfall, check=True, timeout=LIMIT_S, cwd=ROOT)


def python_calls(build: Path, cpus: tuple[int, int], placement: str) -> dict[str, float]:
    """Median nanoseconds of one Python call each (pytest-benchmark), every round kept.

    Of a run between two probes that saw ``placement``: a call waits for its cache line. Nothing
    when none of the attempts was such a run.
    """
    with Probe(build, cpus) as probe:
        for _ in range(CALLS_ATTEMPTS):
            around: Row = {"floor_before_ns": probe.floor_ns()}
            if class_of(around["floor_before_ns"]) != placement:
                time.sleep(CALLS_PAUSE_S)
                continue
            calls = each_call()
            around["floor_after_ns"] = probe.floor_ns()
            if is_steady(around) and class_of(floor_of(around)) == placement:
                return calls
    say(f"the processors did not stay {placement} for the Python calls: not measured")
    return {}


def each_call() -> dict[str, float]:
    """One run of benchmarks/test_calls.py."""
    out = RESULTS / "calls.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "benchmarks/test_calls.py"),
            *("-o", "addopts=", "--benchmark-only", f"--benchmark-json={out}"),
            "--benchmark-save-data",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        cwd=ROOT,
    )
    if done.returncode != 0:
        raise SystemExit(f"benchmarks/test_calls.py failed:\n{done.stdout[-4000:]}")
    each_ns: dict[str, float] = {}
    for each in json.loads(out.read_text())["benchmarks"]:
        facts = each["extra_info"]
        name = each["name"].removeprefix("test_")
        each_ns[name] = round(each["stats"]["median"] * 1e9 / facts["calls"], 1)
        if "added_ns" in facts:
            each_ns["new_order_added_to_other_work"] = round(facts["added_ns"], 1)
    return each_ns


def python_paths(build: Path, cpus: tuple[int, int], repeats: int) -> list[Row]:
    """Round trips and batches of Python strategies."""
    return run_lines(
        *(sys.executable, "-m", "benchmarks.python_paths", "--build", str(build)),
        *("--cpus", str(cpus[0]), str(cpus[1]), "--repeats", str(repeats)),
    )


def measure(build: Path, cpus: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Everything, as one JSON document."""
    result: dict[str, Any] = {"environment": environment(build, cpus), "repeats": repeats}
    with tempfile.TemporaryDirectory(prefix="rdmaorder-bench-") as name:
        folder = Path(name)
        for part in ("latency", "throughput", "costs"):
            (folder / part).mkdir()
        say("latency, interleaved with its references")
        latency = run_lines(
            *(program(build, "latency"), "--repeats", str(repeats)),
            *("--journal", str(folder / "latency")),
        )
        say("throughput")
        flows = run_lines(
            *(program(build, "throughput"), "--repeats", str(repeats)),
            *("--journal", str(folder / "throughput")),
        )
        say("Python strategies")
        paths = python_paths(build, cpus, repeats)
        placement = main_class([*latency, *flows, *paths])
        result["placement"] = placement
        result["latency"] = summarise(
            latency, "scenario", ("p50_ns", "p99_ns"), placement, ratio="p50_ns"
        )
        result["throughput"] = summarise(flows, "flow", ("million_per_s",), placement)
        trips = [row for row in paths if "p50_ns" in row]
        result["python_latency"] = summarise(
            trips, "scenario", ("p50_ns", "native_p50_ns"), placement, ratio="p50_ns"
        )
        result["python_throughput"] = summarise(
            [row for row in paths if "million_per_s" in row],
            "scenario",
            ("million_per_s",),
            placement,
        )
        say("single steps")
        result["costs_ns"] = costs(build, folder, max(3, repeats // 2))
        say("Python calls")
        result["python_calls_ns"] = python_calls(build, cpus, placement)
        say("instructions (callgrind)")
        result["instructions"] = instructions(build, folder)
    floors = [entry["floor_ns"] for entry in result["latency"].values() if "floor_ns" in entry]
    result["floor_ns"] = statistics.median(floors) if floors else None
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--cpus", type=int, nargs=2, default=(0, 1))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="JSON file (default: by placement, in results)")
    parser.add_argument(
        "--report-only", action="store_true", help="make the page from the results there are"
    )
    arguments = parser.parse_args()
    if not arguments.report_only:
        RESULTS.mkdir(parents=True, exist_ok=True)
        say("ping-pong, every level and reference")
        pingpong((arguments.cpus[0], arguments.cpus[1]), max(3, arguments.repeats // 2))
        result = measure(arguments.build, (arguments.cpus[0], arguments.cpus[1]), arguments.repeats)
        if result["floor_ns"] is None:
            raise SystemExit("bench: no run was kept: the floor moved in each; run it again")
        out = arguments.out or RESULTS / f"shm-{result['placement']}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(write_page(RESULTS, ROOT / "docs" / "benchmarks.md"))


if __name__ == "__main__":
    main()
