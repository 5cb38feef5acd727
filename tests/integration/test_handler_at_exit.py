"""A gateway with a Python handler that nobody lets go of before the interpreter ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gateway_support import PATIENCE_S, ROOT

PROGRAM = """
import sys
import rdmaorder as ro
from rdmaorder.pingpong.handler import Accept

gateway = ro.Gateway(handler=Accept(), listen=f"shm://{sys.argv[1]}/gw.sock", idle="backoff",
                     counters=f"{sys.argv[1]}/counters").start()
session = ro.connect(gateway.url, "x", suspect_after_s=10.0, dead_after_s=20.0)
session.new_order(1, 7, 1, 1_000_000_000, 5, 0)
assert session.wait(30.0)
session.close()
gateway.stop()
gateway.itself = gateway  # a cycle: collected when the interpreter ends
"""


def test_a_stopped_gateway_may_outlive_the_interpreters_threads(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
