"""Measures RDMA in the soft-RoCE machine, beside perftest on the same two devices in one run.

``make bench-rdma``. An emulated machine is as fast as its host's processors, which are half as fast
for seconds at a time when their neighbours are busy. So everything alternates in many short rounds,
each a median of thousands, and ratios are of the best round of each: what both do undisturbed. The
medians of the rounds stand beside them. The result is benchmarks/results/rdma.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import rdma_inside
from benchmarks.environment import ROOT, environment
from benchmarks.rdma_page import is_rate
from benchmarks.report import write_page

RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "rdma.json"
#: What is set beside what: name, numerator, denominator, target, whether less is better.
RATIOS = (
    ("raw put 64 B / ib_write_lat", "put_64", "ib_write_lat_64", 1.0, True),
    ("raw put 256 B / ib_write_lat", "put_256", "ib_write_lat_256", 1.0, True),
    ("session 64 B / ib_write_lat", "session_64", "ib_write_lat_64", 1.0, True),
    ("session 256 B / ib_write_lat", "session_256", "ib_write_lat_256", 1.0, True),
    ("orders a second / ib_write_bw 64 B", "rate_64", "ib_write_bw_64", 1.0, False),
    ("raw put 64 B / UCX put", "put_64", "ucx_put_64", 1.0, True),
    ("session 64 B / UCX put", "session_64", "ucx_put_64", 1.0, True),
    ("session 64 B / UCX am", "session_64", "ucx_am_64", 1.0, True),
    ("session 64 B / libfabric msg (its mean)", "session_64", "libfabric_64", 1.0, True),
    # A doorbell of soft-RoCE is a system call of tens of microseconds on both sides: with it, the
    # ratio says nothing of the two; without it, what each costs in user space.
    (
        "pyverbs order / new_order, doorbell included",
        "pyverbs_order",
        "python_new_order",
        10.0,
        False,
    ),
    (
        "pyverbs order, request built each time / new_order, user space alone",
        "pyverbs_built_user",
        "python_new_order_user",
        10.0,
        False,
    ),
    (
        "pyverbs order / new_order, user space alone",
        "pyverbs_order_user",
        "python_new_order_user",
        10.0,
        False,
    ),
    (
        "pyverbs bare post / new_order, user space alone",
        "pyverbs_post_user",
        "python_new_order_user",
        10.0,
        False,
    ),
)


def main() -> int:
    """Runs it and writes the result; the status is that of the machine."""
    parser = argparse.ArgumentParser(prog="benchmarks.rdma", description=__doc__)
    parser.add_argument("--repeats", type=int, default=12, help="rounds (default 12)")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results)")
    parser.add_argument(
        "--only",
        default="",
        metavar="A,B",
        help="these measurements alone; without --out nothing is kept",
    )
    options = parser.parse_args()
    out = options.out or (None if options.only else RESULT)
    chosen = options.only.split(",") if options.only else list(rdma_inside.MEASURES)
    facts = environment(ROOT / "build" / "release", (0, 1))
    found: dict[str, Any] = {"machine": {}, "missing": {}, "series": {}}
    # QEMU computes crc32q bit by bit, 80 ns a word: where nothing else needs the feature (numpy
    # does), the machine has none, and our tables do it.
    for measures, without in ((rdma_inside.NATIVE, ["sse4.2"]), (rdma_inside.PYTHON, [])):
        names = [name for name in measures if name in chosen]
        if names:
            for key, values in measured(names, options.repeats, without).items():
                found[key] |= values
    result = {
        "label": "soft-RoCE (rdma_rxe) in QEMU without KVM: ratios only, no absolute times",
        "environment": facts | {"machine": found["machine"]},
        "missing": found["missing"],
        "series": {name: spread(name, values) for name, values in found["series"].items()},
    }
    result["ratios"] = ratios(result["series"])
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    if out == RESULT:
        write_page(RESULTS, ROOT / "docs" / "benchmarks.md")
    return 0


def measured(names: list[str], repeats: int, without: list[str]) -> dict[str, Any]:
    """What rdma_inside measured in one boot of a machine without these features."""
    with tempfile.TemporaryDirectory(prefix="rdmaorder-bench-") as folder:
        doorbell = f"{folder}/doorbell.so"
        compiler = ["cc", "-O2", "-shared", "-fPIC", "-o", doorbell]
        subprocess.run([*compiler, str(ROOT / "benchmarks" / "doorbell.c")], check=True)
        words = [str(ROOT / "tests/rdma/run"), "--share", folder, "--timeout", "3600"]
        words += [f"--without={feature}" for feature in without]
        words += ["--env", f"RDMAORDER_DOORBELL={doorbell}", "--"]
        words += [sys.executable, "-m", "benchmarks.rdma_inside", folder, str(repeats), *names]
        done = subprocess.run(words, cwd=ROOT, check=False)
        if done.returncode != 0:
            raise SystemExit(done.returncode)
        result: dict[str, Any] = json.loads((Path(folder) / "measured.json").read_text())
        return result


def spread(name: str, values: list[float]) -> dict[str, Any]:
    """Best, median and worst of the rounds."""
    ordered = sorted(values, reverse=is_rate(name))
    return {
        "best": ordered[0],
        "median": statistics.median(values),
        "worst": ordered[-1],
        "rounds": values,
    }


def ratios(series: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each ratio of the best rounds beside its target, and that of the medians."""
    found = []
    for name, above, below, target, less in RATIOS:
        if above not in series or below not in series:
            continue
        value = series[above]["best"] / series[below]["best"]
        found.append(
            {
                "name": name,
                "value": value,
                "of_medians": series[above]["median"] / series[below]["median"],
                "target": f"{'<=' if less else '>='} {target}",
                "met": value <= target if less else value >= target,
            }
        )
    return found


def show(result: dict[str, Any]) -> None:
    """A table of the series, and of the ratios."""
    print(f"\n{result['label']}")
    print(f"  {'':24} {'best':>12} {'median':>12} {'worst':>12}")
    for name, found in result["series"].items():
        unit = "a second" if is_rate(name) else "us"
        unit = "a round trip" if name.endswith("_packets") else unit
        cells = " ".join(f"{found[key]:12,.2f}" for key in ("best", "median", "worst"))
        print(f"  {name:24} {cells} {unit}")
    print(f"  {'':71} {'best':>8} {'medians':>8}")
    for ratio in result["ratios"]:
        print(
            f"  {ratio['name']:71} {ratio['value']:8.2f} {ratio['of_medians']:8.2f}  "
            f"target {ratio['target']}{'' if ratio['met'] else '  MISSED'}"
        )
    for name, reason in result["missing"].items():
        print(f"  {name}: not measured, {reason}")


if __name__ == "__main__":
    sys.exit(main())
