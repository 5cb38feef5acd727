"""What the ping-pong tool writes is of one and the same runs, and what it leaves behind is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdmaorder.pingpong.files import to_json, write_hdr
from rdmaorder.pingpong.folders import own_folder
from rdmaorder.pingpong.measure import Measurement
from rdmaorder.pingpong.plan import Plan
from rdmaorder.pingpong.runs import Run

START_S = 1_800_000_000.0


def run_of(name: str, repeat: int, started_s: float, rtt_ns: int, discarded: str = "") -> Run:
    samples = np.zeros((100, 6), np.uint64)
    samples[:, 0] = samples[:, 1] = 1_000_000 + np.arange(100) * 10_000
    samples[:, 2] = samples[:, 1] + rtt_ns
    run = Run(name, repeat, samples, 1.0, {"sent": 100})
    run.started_s, run.discarded = START_S + started_s, discarded
    return run


def measurement(**of_reference: Any) -> Measurement:
    """Two levels in turn; the second turn of the first one does not count."""
    runs = {
        "raw": [run_of("raw", 0, 0.0, 300), run_of("raw", 1, 2.0, 90_000, "floor moved")],
        "session": [run_of("session", 0, 1.0, 400), run_of("session", 1, 3.0, 500)],
    }
    references = {"unix": [run_of("unix", n, 0.5 + n, 2000, **of_reference) for n in (0, 1)]}
    plan = Plan(client_cpu=0, server_cpu=1, worst=0)
    host = {"time": "2026-01-01T00:00:00Z", "cpu": "X"}
    return Measurement(plan, {}, host, None, [], runs=runs, references=references)


def test_the_log_has_the_runs_of_the_tables_in_the_order_they_were_made(tmp_path: Path) -> None:
    reader = pytest.importorskip("hdrh.log")
    from hdrh.histogram import HdrHistogram

    measured, path = measurement(), tmp_path / "out.hdr"
    write_hdr(path, measured)
    lines = reader.HistogramLogReader(str(path), HdrHistogram(1, 3_600_000_000_000, 3))
    found, counts = [], dict.fromkeys(("raw", "session", "unix"), 0)
    while (interval := lines.get_next_interval_histogram()) is not None:
        name = interval.get_tag()
        found.append(
            (interval.get_start_time_stamp() / 1e3 - START_S, name, interval.get_max_value())
        )
        counts[name] += interval.get_total_count()
    assert found == [
        *((0.0, "raw", 300), (0.5, "unix", 2000), (1.0, "session", 400)),
        *((1.5, "unix", 2000), (3.0, "session", 500)),
    ]
    result = to_json(measured)
    tables = result["levels"] | result["references"]
    assert counts == {name: each["count"] for name, each in tables.items()}


def test_a_reference_none_of_whose_runs_count_says_so() -> None:
    found = to_json(measurement(discarded="floor moved"))
    reference = found["references"]["unix"]
    assert (reference["runs_kept"], reference["count"]) == (0, 200)
    assert [run["kept"] for run in reference["runs"]] == [False, False]
    assert found["ratio"] == {"unix": None}


HOLDER = """
import sys, time
from pathlib import Path
from rdmaorder.pingpong.folders import own_folder
with own_folder(Path(sys.argv[1])) as folder:
    (folder / "journal").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_folder_is_removed_by_the_next_when_its_process_was_killed_and_not_before(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        (tmp_path / "other").mkdir()
        with own_folder(tmp_path) as folder:
            assert (held / "journal").exists()
        assert not folder.exists()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert (held / "journal").exists()
    with own_folder(tmp_path) as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, tmp_path / "other"])
