"""``RDMAORDER_RDMA=native``: the suite on the devices of the machine it is started on.

Inside the soft-RoCE machine its two devices are just that, so the path that people with adapters
take, from the list of tests to the told results, is taken here with a few tests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from gateway_support import PATIENCE_S, ROOT
from rdma_suite import LIGHT
from wire import Wire

LINKS = "tests/rdma/inside/test_links.py::test_"
RUNS = LINKS + "the_device_of_the_route_is_taken_and_told_with_what_was_granted"
CUTS_THE_WIRE = LINKS + "ipv6_carries_sessions_too"


def test_the_suite_runs_on_the_devices_of_the_machine_itself(soft: Wire, tmp_path: Path) -> None:
    asked = {"RDMAORDER_RDMA": "native", "RDMAORDER_RDMA_ONLY": f"{RUNS} {CUTS_THE_WIRE}"}
    asked |= {"RDMAORDER_RDMA_ADDRESS": soft.near.address, "PYTHONPATH": ""}
    # Each run of pytest removes the folders of runs before the last three, and the folder that the
    # host looks into is among them.
    asked |= {"PYTEST_DEBUG_TEMPROOT": str(tmp_path)}
    words = [sys.executable, "-m", "pytest", *LIGHT, "-v", "-rs", "-k", "on_rdma or both_devices"]
    done = subprocess.run(
        [*words, "tests/rdma/test_suite.py", "tests/rdma/test_machine.py"],
        cwd=ROOT,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE_S,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert re.search(r"the_device_of_the_route\S+ PASSED", said), said
    assert re.search(r"ipv6_carries\S+ SKIPPED", said), said
    assert "changes the network between the devices: only in the soft-RoCE machine" in said
    assert "RDMAORDER_RDMA=native: no machine is booted" in said
    assert "RDMA devices of this machine: 1 passed, 1 skipped" in said
