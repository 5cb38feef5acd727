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

RESULT = ROOT / "benchmarks" / "results" / "rdma.json"
#: What is set beside what: name, numerator, denominator, target, whether less is better.
RATIOS = (
    ("raw put 64 B / ib_write_lat", "put_64", "ib_write_lat_64", 1.0, True),
    ("raw put 256 B / ib_write_lat", "put_256", "ib_write_lat_256", 1.0, True),
    ("session 64 B / ib_write_lat", "session_64", "ib_write_lat_64", 1.0, True),
    ("session 256 B / ib_write_lat", "session_256", "ib_write_lat_256", 1.0, True),
    ("orders a second / ib_write_bw 64 B", "rate_64", "ib_write_bw_64", 1.0, False),
    ("session 64 B / UCX am", "session_64", "ucx_am_64", 1.0, True),
    ("session 64 B / libfabric msg", "session_64", "libfabric_64", 1.0, True),
    ("pyverbs post / Python new_order", "pyverbs_post", "python_new_order", 10.0, False),
)


def main() -> int:
    """Runs it and writes the result; the status is that of the machine."""
    parser = argparse.ArgumentParser(prog="benchmarks.rdma", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file")
    options = parser.parse_args()
    build = ROOT / "build" / "release"
    facts = environment(build, (0, 1))
    with tempfile.TemporaryDirectory(prefix="rdmaorder-bench-") as folder:
        words = [str(ROOT / "tests/rdma/run"), "--share", folder, "--timeout", "1800", "--"]
        words += [sys.executable, "-m", "benchmarks.rdma_inside", folder, str(options.repeats)]
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
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
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
        print(
            f"  {name:20} {found['median']:12,.1f} {unit}  "
            f"({found['min']:,.1f} to {found['max']:,.1f})"
        )
    for ratio in result["ratios"]:
        print(
            f"  {ratio['name']:38} {ratio['value']:8.2f}  "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}), "
            f"target {ratio['target']}{'' if ratio['met'] else '  MISSED'}"
        )
    for name, reason in result["missing"].items():
        print(f"  {name}: not measured, {reason}")


if __name__ == "__main__":
    sys.exit(main())
