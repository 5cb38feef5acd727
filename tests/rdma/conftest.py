"""The suite on RDMA devices as pytest sees it; rdma_suite.py runs it."""

from __future__ import annotations

import faulthandler
import gzip
import itertools
import json
import shutil
import time
from pathlib import Path

import pytest
from rdma_suite import MACHINE_FAILED, ONLY, Suite, is_native, is_required, listed_inside, run_suite

from rdmaorder.errors import InputError
from rdmaorder.flow.sample import fetch_sample

#: Some 13,000 client messages. Reading the whole would take longer than sending these, inside.
RECORDING_ROWS = 20_000

_suites: list[Suite] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item for each test inside."""
    if "inside" in metafunc.fixturenames:
        names = listed_inside()
        metafunc.parametrize("inside", names, ids=names)


def _put_recording(folder: Path) -> None:
    """The first minutes of the demo's recording; without network the replay makes up its own."""
    try:
        whole = fetch_sample()
    except InputError:
        return
    with gzip.open(whole, "rt") as rows:
        (folder / "orders.csv").write_text("".join(itertools.islice(rows, RECORDING_ROWS)))
    shutil.copy(whole.parent / "trades.csv", folder)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """One run of everything inside; a machine that cannot be had fails or skips all of it."""
    faulthandler.cancel_dump_traceback_later()  # this one takes longer than a test may
    folder = tmp_path_factory.mktemp("rdma")
    if not ONLY:
        _put_recording(folder)
    started = time.monotonic()
    done = run_suite(folder)
    made = Suite(folder, done.returncode, time.monotonic() - started, done.stdout, done.stderr)
    if made.status == MACHINE_FAILED:
        told = f"no soft-RoCE machine: {made.stderr.strip()[-2000:]}"
        if is_required():
            pytest.fail(told, pytrace=False)
        pytest.skip(told)
    for name in ("cpp.jsonl", "python.jsonl"):
        if (folder / name).exists():
            for line in (folder / name).read_text().splitlines():
                result = json.loads(line)
                made.results[result["name"]] = result
    _suites.append(made)
    return made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How the run went, before pytest's own last line."""
    for suite in _suites:
        counts: dict[str, int] = {}
        for result in suite.results.values():
            counts[result["outcome"]] = counts.get(result["outcome"], 0) + 1
        where = "RDMA devices of this machine" if is_native() else "soft-RoCE in QEMU"
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        terminalreporter.write_line(f"{where}: {told}; {suite.seconds:.0f} s with the boot")
