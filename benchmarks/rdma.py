"""Measures RDMA in the soft-RoCE machine, beside perftest on the same two devices in one run.

``make bench-rdma``. Everything alternates, because an emulated machine is quick and slow by turns;
what counts are ratios of medians. The result, labelled soft-RoCE, is benchmarks/results/rdma.json.
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

from benchmarks.environment import ROOT, environment
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
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results)")
    parser.add_argument(
        "--only",
        default="",
        metavar="A,B",
        help="these measurements alone; without --out nothing is kept",
    )
    options = parser.parse_args()
    out = options.out or (None if options.only else RESULT)
    build = ROOT / "build" / "release"
    facts = environment(build, (0, 1))
    with tempfile.TemporaryDirectory(prefix="rdmaorder-bench-") as folder:
        doorbell = f"{folder}/doorbell.so"
        compiler = ["cc", "-O2", "-shared", "-fPIC", "-o", doorbell]
        subprocess.run([*compiler, str(ROOT / "benchmarks" / "doorbell.c")], check=True)
        words = [str(ROOT / "tests/rdma/run"), "--share", folder, "--timeout", "1800"]
        words += ["--env", f"RDMAORDER_DOORBELL={doorbell}", "--"]
        words += [sys.executable, "-m", "benchmarks.rdma_inside", folder, str(options.repeats)]
        words += options.only.split(",") if options.only else []
        done = subprocess.run(words, cwd=ROOT, check=False)
        if done.returncode != 0:
            return done.returncode
        measured = json.loads((Path(folder) / "measured.json").read_text())
    result = {
        "label": "soft-RoCE (rdma_rxe) in QEMU without KVM: ratios only, no absolute times",
        "environment": facts | {"machine": measured["machine"]},
        "missing": measured["missing"],
        "series": {name: spread(values) for name, values in measured["series"].items()},
    }
    result["ratios"] = ratios(result["series"])
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    if out == RESULT:
        write_page(RESULTS, ROOT / "docs" / "benchmarks.md")
    return 0


def spread(values: list[float]) -> dict[str, Any]:
    """Median and range over the rounds."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": values,
    }


def ratios(series: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each ratio of medians with the range of the rounds' own ratios, beside its target."""
    found = []
    for name, above, below, target, less in RATIOS:
        if above not in series or below not in series:
            continue
        rounds = zip(series[above]["rounds"], series[below]["rounds"], strict=False)
        each = [a / b for a, b in rounds]
        value = series[above]["median"] / series[below]["median"]
        found.append(
            {
                "name": name,
                "value": value,
                "min": min(each),
                "max": max(each),
                "target": f"{'<=' if less else '>='} {target}",
                "met": value <= target if less else value >= target,
            }
        )
    return found


def show(result: dict[str, Any]) -> None:
    """A table of the medians, and of the ratios."""
    print(f"\n{result['label']}")
    for name, found in result["series"].items():
        unit = "a second" if name.startswith(("rate", "ib_write_bw")) else "us"
        unit = "a round trip" if name.endswith("_packets") else unit
        print(
            f"  {name:22} {found['median']:12,.1f} {unit}  "
            f"({found['min']:,.1f} to {found['max']:,.1f})"
        )
    for ratio in result["ratios"]:
        print(
            f"  {ratio['name']:47} {ratio['value']:8.2f}  "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}), "
            f"target {ratio['target']}{'' if ratio['met'] else '  MISSED'}"
        )
    for name, reason in result["missing"].items():
        print(f"  {name}: not measured, {reason}")


if __name__ == "__main__":
    sys.exit(main())
