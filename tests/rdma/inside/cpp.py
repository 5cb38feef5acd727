"""Runs the C++ tests on devices and turns GoogleTest's report into lines as report.py's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(program: str, out: Path, chosen: str) -> None:
    """GoogleTest's status is in its report; a crash shows as tests that have no line."""
    report = out / "cpp.json"
    with (out / "cpp.log").open("w") as log:
        command = [program, f"--gtest_filter={chosen}", f"--gtest_output=json:{report}"]
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if not report.exists():
        return
    reasons = skip_reasons((out / "cpp.log").read_text())
    lines = []
    for group in json.loads(report.read_text())["testsuites"]:
        for test in group["testsuite"]:
            lines.append(json.dumps(line_of(group["name"], test, reasons)) + "\n")
    (out / "cpp.jsonl").write_text("".join(lines))


def skip_reasons(log: str) -> dict[str, str]:
    """GoogleTest tells them in its output only: "FILE:LINE: Skipped", the reason, the test."""
    found = re.findall(r": Skipped\n(.*?)\n+\[  SKIPPED \] (\S+)", log, re.DOTALL)
    return {name: reason.strip() for reason, name in found}


def line_of(group: str, test: dict[str, Any], reasons: dict[str, str]) -> dict[str, Any]:
    """One test of GoogleTest's JSON."""
    name = f"{group}.{test['name']}"
    failures = [each["failure"] for each in test.get("failures", [])]
    outcome = "failed" if failures else "skipped" if test["result"] == "SKIPPED" else "passed"
    return {
        "name": name,
        "outcome": outcome,
        "seconds": float(test["time"].removesuffix("s")),
        "text": "\n".join(failures) or reasons.get(name, ""),
    }


main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
