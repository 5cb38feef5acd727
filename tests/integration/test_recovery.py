"""What a restart leaves: sessions, live orders, orders in doubt, and the reports nobody took."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gateway_support import (
    PATIENCE_S,
    ROOT,
    Connect,
    GatewayProcess,
    StartGateway,
    batch_of,
    eventually,
    order,
    strategy_url,
    take,
)

import rdmaorder as ro
from rdmaorder import journal
from rdmaorder.gateway.protocol import encode_frame
from rdmaorder.messages import FLAG_POSS_RESEND, SessionEventKind

Start = Callable[..., GatewayProcess]

#: Forgets nothing on disk, answers every second order, and after a restart says what it was given.
HALF_DEAF = """
import numpy as np
import rdmaorder as ro

class HalfDeaf:
    def answer(self, orders, reason):
        reports = ro.execution_reports(len(orders))
        reports["order_sequence"] = orders["sequence"]
        reports["session_index"] = orders["session_index"]
        reports["cl_ord_id"] = orders["cl_ord_id"]
        reports["exec_type"] = ro.ExecType.NEW
        reports["ord_status"] = ro.OrdStatus.NEW
        reports["reason"] = reason
        return reports

    def on_orders(self, orders):
        return self.answer(orders[orders["sequence"] % 2 == 0], 0)

    def recover(self, orders):
        assert (orders["flags"] == 1).all()
        return self.answer(orders, ro.Reason.NOT_ENTITLED)
"""


def live_ids(session: ro.Session, cl_ord_id: int) -> list[int]:
    """The venue's live orders, as a mass cancel finds them."""
    session.mass_cancel(cl_ord_id)
    ids: list[int] = []
    while True:
        for report in take(session, 1):
            if report["cl_ord_id"] == cl_ord_id:
                return ids
            ids.append(int(report["cl_ord_id"]))


def test_live_orders_of_the_venue_survive_its_death(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    arguments = ("--handler", "venue", "--journal", str(tmp_path / "journal"))
    gateway = start_process(*arguments)
    session = connect(gateway)
    session.send_batch(batch_of(10))
    session.cancel_order(101, 3)
    session.replace_order(102, 5, 7, ro.BUY, ro.price("2"), 4)
    order(session, 103, time_in_force=ro.TimeInForce.IMMEDIATE_OR_CANCEL)
    before = take(session, 14)
    gateway.end(signal.SIGKILL)
    gateway = start_process(*arguments)
    session.reconnect(PATIENCE_S)
    assert session.status()["sent"] == 13
    order(session, 3)
    order(session, 104)
    reports = take(session, 2)
    assert session.status()["sent"] == 15
    assert reports["reason"][0] == ro.Reason.DUPLICATE_CL_ORD_ID
    assert reports["order_id"][1] > before["order_id"].max()
    session.replace_order(105, 102, 7, ro.BUY, ro.price("3"), 8)
    (replaced,) = take(session, 1)
    assert replaced["order_id"] == before["order_id"][4]
    assert live_ids(session, 106) == [1, 2, 4, 105, 6, 7, 8, 9, 10, 104]


@pytest.mark.parametrize(
    "fault", ["after_journal:7", "before_handler:7", "before_report:7", "after_report:7"]
)
def test_a_gateway_that_dies_at_a_named_step_has_one_answer_for_each_order(
    start_process: Start,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    arguments = ("--handler", "venue", "--journal", str(tmp_path / "journal"))
    monkeypatch.setenv("RDMAORDER_FAULT", fault)
    gateway = start_process(*arguments)
    monkeypatch.delenv("RDMAORDER_FAULT")
    session = connect(gateway)
    session.send_batch(batch_of(20))
    assert gateway.process.wait(PATIENCE_S) == -signal.SIGKILL
    assert f"RDMAORDER_FAULT={fault}" in gateway.stderr
    seen = session_left(session)
    gateway = start_process(*arguments)
    session.reconnect(PATIENCE_S)
    not_applied = [e for e in session.events() if e.kind == SessionEventKind.NOT_APPLIED]
    missing = sum(event.count for event in not_applied)
    reports = take(session, 20 - missing - len(seen))
    answered = [*seen, *map(int, reports["order_sequence"])]
    assert answered == list(range(1, 21 - missing))
    assert (reports["flags"] & FLAG_POSS_RESEND).all()
    assert missing == 0 or not_applied[0].from_sequence + missing == 21
    assert session.next_sequence == 21
    gateway.end()
    assert journal.verify(tmp_path / "journal").ok


def session_left(session: ro.Session) -> list[int]:
    """Order sequences of the reports in the ring of a link that is gone."""
    found: list[int] = []
    while True:
        try:
            reports = session.poll()
        except ro.NotConnected:
            return found
        found += map(int, reports["order_sequence"])


def test_orders_in_doubt_go_to_recover_of_a_python_handler(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "half_deaf.py").write_text(HALF_DEAF)
    arguments = ("--handler", "half_deaf:HalfDeaf", "--journal", str(tmp_path / "journal"))
    gateway = start_process(*arguments)
    session = connect(gateway)
    session.send_batch(batch_of(6))
    assert list(take(session, 3)["order_sequence"]) == [2, 4, 6]
    gateway.end(signal.SIGKILL)
    gateway = start_process(*arguments)
    assert "3 orders were handed to the handler before the restart" in gateway.stderr
    session.reconnect(PATIENCE_S)
    reports = take(session, 3)
    assert list(reports["order_sequence"]) == [1, 3, 5]
    assert (reports["reason"] == ro.Reason.NOT_ENTITLED).all()
    assert (reports["sequence"] == [4, 5, 6]).all()


def test_a_refusal_that_was_never_sent_is_sent_after_the_restart(
    start_process: Start, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--journal", str(tmp_path / "journal"))
    monkeypatch.setenv("RDMAORDER_FAULT", "after_journal:1")
    gateway = start_process(*arguments)
    monkeypatch.delenv("RDMAORDER_FAULT")
    session = connect(gateway)
    order(session, 1, ttl_ns=1)
    gateway.process.wait(PATIENCE_S)
    start_process(*arguments)
    session.reconnect(PATIENCE_S)
    (report,) = take(session, 1)
    assert (report["exec_type"], report["reason"]) == (ro.ExecType.EXPIRED, ro.Reason.STALE)
    assert report["order_sequence"] == 1


def test_a_reconnect_repeats_the_reports_that_were_not_polled(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    gateway = start_gateway(journal=str(tmp_path / "journal"))
    session = connect(gateway, report_slots=64, order_slots=64)
    other = connect(gateway, "beta")
    polled = []
    for first in range(1, 3001, 50):
        session.send_batch(batch_of(50, first_id=first))
        other.send_batch(batch_of(50, first_id=first))
        if first < 2000:
            polled += list(take(session, 50)["sequence"])
    epoch = gateway.sessions()[0]["epoch"]
    session.reconnect(PATIENCE_S)
    assert gateway.sessions()[0]["epoch"] != epoch
    order(session, 5000)
    reports = take(session, 1001)
    assert list(polled) + list(reports["sequence"]) == list(range(1, 3002))
    assert (reports["flags"][:900] == FLAG_POSS_RESEND).all()
    assert list(reports["order_sequence"]) == list(range(2001, 3002))
    eventually(lambda: session.positions.applied == 3001, "positions after the replay")
    order(session, 5001)
    assert take(session, 1)["flags"][0] == 0, "live again"
    assert len(take(other, 3000)) == 3000


def test_a_strategy_started_anew_gets_what_the_old_one_did_not_take(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    gateway = start_gateway(journal=str(tmp_path / "journal"))
    script = (
        "import os, sys, time, rdmaorder as ro\n"
        "s = ro.connect(sys.argv[1], 'alpha', suspect_after_s=10, dead_after_s=20)\n"
        "for i in range(1, 5): s.new_order(i, 7, ro.BUY, 5, 10)\n"
        "n = 0\n"
        "while n < 4: n += len(s.poll())\n"
        # One that finds nothing tells the gateway, over RDMA at the next heartbeat.
        "end = time.monotonic() + 0.2\n"
        "while time.monotonic() < end: s.poll()\n"
        "for i in range(5, 11): s.new_order(i, 7, ro.BUY, 5, 10)\n"
        "assert s.wait_applied(10, 10)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    words = [sys.executable, "-c", script, strategy_url(gateway.url)]
    ended = subprocess.run(words, cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    session = connect(gateway, resume=True)
    assert session.next_sequence == 11
    reports = take(session, 6)
    assert list(reports["sequence"]) == [5, 6, 7, 8, 9, 10]
    assert (reports["flags"] == FLAG_POSS_RESEND).all()
    session.close()
    all_again = connect(gateway, next_report_sequence=1)
    assert list(take(all_again, 10)["sequence"]) == list(range(1, 11))


def test_a_stopped_gateway_leaves_its_journal_to_the_next_one(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    settings = {"journal": str(tmp_path / "journal")}
    first = start_gateway(**settings)
    session = connect(first)
    order(session, 1)
    take(session, 1)
    first.stop()
    if first.url.startswith("shm:"):
        settings["listen"] = f"shm://{tmp_path}/next.sock"
    second = start_gateway(**settings)  # while the first one is still there
    assert order(connect(second), 2) == 2
    assert first.journal_state()["last_error"] == ""
    assert first.kill()["recorded"] == 0, "and it writes there no more"


def test_without_a_journal_the_loss_of_reports_is_told(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())
    session.send_batch(batch_of(5))
    session.wait_applied(5, PATIENCE_S)
    session.reconnect(PATIENCE_S)
    lost = [event for event in session.events() if event.kind == SessionEventKind.REPORTS_LOST]
    assert [(event.from_sequence, event.count) for event in lost] == [(1, 5)]
    assert np.size(session.poll()) == 0


@pytest.mark.shm_only  # a socket file is put in the place of the gateway's
def test_a_reconnect_whose_handshake_was_too_slow_tries_again(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    session = connect(start_gateway())
    path, aside = tmp_path / "gw.sock", tmp_path / "aside.sock"
    path.rename(aside)
    refusal: dict[str, object] = {
        "type": "NegotiationReject",
        "code": "TooSlow",
        "text": "try again",
    }
    refusal |= {"protocol_version": 0, "layout_version": 0, "gateway_version": ""}
    with socket.socket(socket.AF_UNIX) as crowded:
        crowded.bind(str(path))
        crowded.listen()

        def refuse() -> None:
            connection, _ = crowded.accept()
            with connection:
                connection.recv(4096)
                aside.rename(path)
                connection.sendall(encode_frame(refusal))

        thread = threading.Thread(target=refuse)
        thread.start()
        session.reconnect(PATIENCE_S)
        thread.join()
    order(session, 1)
    assert len(take(session, 1)) == 1
