"""A pytest plugin: each result as a JSON line in RDMAORDER_RDMA_OUT, as soon as it is known."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_FILE = Path(os.environ["RDMAORDER_RDMA_OUT"]) / "python.jsonl"
_phases: dict[str, list[pytest.TestReport]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test is what its set-up, call and tear-down make together."""
    phases = _phases.setdefault(report.nodeid, [])
    phases.append(report)
    if report.when != "teardown":
        return
    bad = [each for each in phases if each.failed]
    skipped = [each for each in phases if each.skipped]
    text = "\n".join(each.longreprtext for each in bad)
    if bad:
        text += "".join(f"\n-- {name}\n{content}" for name, content in bad[0].sections)
    elif skipped:
        reason = skipped[0].longrepr
        text = reason[2] if isinstance(reason, tuple) else str(reason)
    result = {
        "name": report.nodeid,
        "outcome": "failed" if bad else "skipped" if skipped else "passed",
        "seconds": round(sum(each.duration for each in phases), 2),
        "text": text,
    }
    with _FILE.open("a") as file:
        file.write(json.dumps(result) + "\n")
