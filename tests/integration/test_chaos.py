"""A short plan of faults: real processes, hundreds of deaths, every order accounted for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_support import PATIENCE_S, ROOT, eventually

from rdmaorder.chaos.plan import KINDS, make_plan, parse_faults
from rdmaorder.errors import InputError

#: what a fault of the plan has to have done for the run to mean something
KILLS_MIN = 200
VIOLATIONS = ("lost", "duplicated", "reordered", "corrupted", "unknown")


def chaos(*arguments: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rdmaorder", "chaos", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout_s,
        check=False,
    )


def test_no_order_is_lost_over_hundreds_of_deaths(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    run = chaos("--seed", "20", "--orders", "40000", "--faults", "200", "--json", str(out))
    assert run.returncode == 0, run.stdout + run.stderr
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert {kind: result[kind] for kind in VIOLATIONS} == dict.fromkeys(VIOLATIONS, 0)
    assert result["failures"] == []
    assert result["kills"] >= KILLS_MIN
    assert result["orders"] >= 40_000
    planned = parse_faults("200", "shm")
    done = {name: planned[name] for name in planned if name not in result["skipped"]}
    assert {name: result["faults"][name] for name in done} == done
    assert set(result["fates"]) >= {"answered", "not applied", "refused at the sender"}
    assert all(result["fates"].values()), "every kind of fate occurred"
    assert result["recovery_ms"].keys() == {"p50", "p99", "max"}
    assert "PASS" in run.stdout


def test_no_order_is_lost_around_a_disk_that_is_full_again_and_again(tmp_path: Path) -> None:
    """Each time all orders are accounted for from the first that the journal could not take until
    it takes a whole run of them again; gateways die meanwhile and afterwards."""
    out = tmp_path / "chaos.json"
    plan = {"both-kill": 3, "disk-full": 6, "gateway-kill": 3}
    faults = ",".join(f"{name}={count}" for name, count in plan.items())
    run = chaos("--seed", "11", "--orders", "150000", "--faults", faults, "--json", str(out))
    assert run.returncode == 0, run.stdout + run.stderr
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert {kind: result[kind] for kind in VIOLATIONS} == dict.fromkeys(VIOLATIONS, 0)
    assert (result["failures"], result["faults"]) == ([], plan)
    assert result["fates"]["refused while the journal could not write"] >= plan["disk-full"]


def test_a_plan_is_the_same_for_the_same_seed_and_spreads_over_all_kinds() -> None:
    counts = parse_faults("300", "shm")
    assert sum(counts.values()) == 300
    assert make_plan(counts, 9) == make_plan(counts, 9)
    assert make_plan(counts, 9) != make_plan(counts, 10)
    able = {name for name, kind in KINDS.items() if kind.share and "shm" in kind.transports}
    assert set(counts) == able
    assert [fault.number for fault in make_plan(counts, 9)] == list(range(1, 301))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("strategy-kil=3", "no fault 'strategy-kil'"),
        ("link-down", "link-down is not possible on shm"),
        ("gateway-kill=some", "write KIND=COUNT, such as gateway-kill=10"),
        ("1000001", "1000001 faults; a plan has 1000000 at most"),
        ("slot-torn=999999,gateway-kill=2", "1000001 faults; a plan has 1000000 at most"),
    ],
)
def test_a_fault_that_cannot_be_is_named(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_faults(text, "shm")


def test_wrong_arguments_are_one_line_on_stderr(tmp_path: Path) -> None:
    for arguments, told in (
        (("--orders", "0"), "--orders must be 1 .. 10000000, not 0"),
        (("--keep", str(tmp_path)), "name a folder that does not exist yet"),
        (("--transport", "rdma"), "give --listen rdma://HOST:PORT"),
        (("--seed", "-1"), "--seed must be 0 or above, not -1"),
        (("--json", "/proc/chaos.json"), "/proc/chaos.json: cannot be written"),
        (("--json", str(tmp_path / "no" / "j")), "no is no folder"),
    ):
        run = chaos(*arguments)
        assert run.returncode == 2
        assert told in run.stderr
        assert run.stderr.count("\n") == 1
        assert run.stdout == ""


def test_the_kinds_of_faults_are_listed() -> None:
    run = chaos("--faults", "list")
    assert run.returncode == 0
    assert [line.split()[0] for line in run.stdout.splitlines()] == list(KINDS)


def test_a_gateway_that_cannot_start_is_a_failure_with_a_replay_command(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    listen = f"shm://{tmp_path}/none/gateway.sock"  # the strategy waits for it to come
    run = chaos(
        *("--listen", listen, "--orders", "50", "--seed", "3"),
        *("--faults", "gateway-kill=1", "--keep", str(folder)),
    )
    assert run.returncode == 1
    assert "FAILURE" in run.stdout
    assert "the gateway ended with" in run.stdout
    assert "replay: rdmaorder chaos --transport shm --seed 3 --orders 50 --faults" in run.stdout
    assert run.stdout.rstrip().endswith("FAIL")
    assert (folder / "gateway.log").exists()


def test_nothing_outlives_an_interrupted_run(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "rdmaorder", "chaos"),
            *("--faults", "strategy-deaf=500", "--keep", str(folder)),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    ledger = folder / "ledger"
    try:
        eventually(lambda: ledger.exists() and ledger.read_bytes()[:8] != bytes(8), "orders flow")
        assert users_of(ledger) != []
        run.send_signal(signal.SIGKILL)  # no clean-up of its own can run
        run.wait()
        eventually(lambda: not users_of(ledger), "all processes are gone")
    finally:
        if users_of(ledger):
            os.killpg(run.pid, signal.SIGKILL)


def test_an_interrupted_run_leaves_no_folder() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "rdmaorder", "chaos", "--faults", "strategy-deaf=500"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell's background job ignores it, and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    maps = Path(f"/proc/{run.pid}/maps")
    pattern = re.compile(r"(/\S+/rdmaorder-chaos-\w+)/ledger\n")
    try:
        found = eventually(lambda: pattern.search(maps.read_text()), "it has begun")
        folder = Path(found[1])
        eventually((folder / "strategy.log").exists, "the strategy runs")
        run.send_signal(signal.SIGINT)
        assert run.wait(PATIENCE_S) == 130
        assert not folder.exists()
    finally:
        run.kill()
        run.wait()


def users_of(path: Path) -> list[str]:
    """Processes that have a file mapped."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if str(path) in (entry / "maps").read_text(encoding="utf-8"):
                found.append(entry.name)
        except OSError:
            continue
    return found
