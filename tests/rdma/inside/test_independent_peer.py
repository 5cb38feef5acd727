"""A peer that shares no code with the library, over pyverbs (independent_peer.py)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gateway_support import PATIENCE_S, Connect, StartGateway, eventually, order, take
from wire import Wire

import rdmaorder as ro
from rdmaorder.journal import Journal

KEY = "5a" * 32
PEER = Path(__file__).parent / "independent_peer.py"
#: rdma-core's IBV_WC_REM_ACCESS_ERR.
REMOTE_ACCESS_ERROR = 10


def run_peer(gateway: ro.Gateway, wire: Wire, **asked: Any) -> dict[str, Any]:
    facts = {"gateway": wire.near.address, "port": int(gateway.url.rsplit(":", 1)[1])}
    facts |= {"local": wire.far.address, "device": wire.far.device, "key": ""}
    done = subprocess.run(
        ["/usr/bin/python3", PEER, json.dumps(facts | asked)],
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_it_shakes_hands_writes_orders_and_reads_reports_and_status_lines(
    start_gateway: StartGateway, connect: Connect, wire: Wire, tmp_path: Path
) -> None:
    gateway = start_gateway(
        journal=str(tmp_path / "journal"), session_keys={"alpha": KEY, "beta": KEY}
    )
    count = 100  # three laps of the order ring, six of the report ring
    told = run_peer(gateway, wire, session="alpha", key=KEY, count=count, do="trade")
    reports = told["reports"]
    assert [report[0] for report in reports] == list(range(1001, 1001 + count))
    assert [report[5] for report in reports] == list(range(1, 1 + count))  # order sequences
    assert {(report[2], report[3]) for report in reports} == {(1_250_000_000, 10)}
    consumed, applied, _, next_sequence, heartbeat, _, state, _ = told["line"]
    assert (consumed, applied, next_sequence, state) == (count, count, count + 1, 1)
    assert heartbeat > 0
    assert told["answer"] == {
        "type": "Terminate",
        "code": "Finished",
        "last_sequence": count,
        "text": "",
    }
    # Its session is one like any other: the library's own strategy goes on with it.
    session = connect(gateway, session_key=KEY)
    assert order(session, 2000) == count + 1
    take(session, 1)
    gateway.stop()
    kept = Journal(tmp_path / "journal").orders("alpha")
    assert list(kept["cl_ord_id"]) == [*range(1001, 1001 + count), 2000]


@pytest.mark.parametrize("astray", ["wrong key", "beyond"])
def test_a_write_without_permission_ends_its_link_alone_with_the_cause(
    start_gateway: StartGateway, connect: Connect, wire: Wire, astray: str
) -> None:
    gateway = start_gateway()
    other = connect(gateway, "other")
    told = run_peer(gateway, wire, session="stray", do=astray)
    assert told["status"] == REMOTE_ACCESS_ERROR
    assert (told["answer"]["type"], told["answer"]["code"]) == ("Terminate", "LinkFailed")
    assert "queue pair went to error" in told["answer"]["text"]
    assert "the peer wrote outside its permission" in told["answer"]["text"]
    order(other, 1)
    assert len(take(other, 1)) == 1
    eventually(lambda: gateway.counters()["links_failed"] == 1, "one link failed")
