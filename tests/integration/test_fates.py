"""Fates out of the journal, orders after a restart, the kill switch, and cancels on disconnect."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
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
from rdmaorder import cli, journal
from rdmaorder.messages import FATE_RECORD, FLAG_POSS_RESEND, Fate, SessionEventKind

Start = Callable[..., GatewayProcess]


def test_every_order_has_its_fate_after_the_gateway_died(
    start_process: Start, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--handler", "null", "--journal", str(tmp_path / "journal"))
    monkeypatch.setenv("RDMAORDER_FAULT", "after_journal:100")
    gateway = start_process(*arguments)
    monkeypatch.delenv("RDMAORDER_FAULT")
    session = connect(gateway)
    session.send_batch(batch_of(200))
    gateway.process.wait(PATIENCE_S)
    unknown = session.orders()
    assert list(unknown["sequence"]) == list(range(1, 201))
    assert (unknown["fate"] == Fate.UNKNOWN).all()
    start_process(*arguments)
    fates = session.resolve(PATIENCE_S)
    assert fates.dtype == FATE_RECORD
    # The handler answers nothing: what is in the journal stays open, the rest never arrived.
    taken = fates[fates["fate"] == Fate.TAKEN]
    (event,) = [e for e in session.events() if e.kind == SessionEventKind.NOT_APPLIED]
    assert (event.from_sequence, event.count) == (101, 100)
    assert list(taken["sequence"]) == list(range(1, 101))
    assert list(taken["cl_ord_id"]) == list(range(1, 101))
    assert len(session.resolve()) == 100, "those that never arrived are unknown no longer"


def test_an_answer_that_comes_late_is_not_taken_for_that_to_another_question(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    gateway = start_gateway(journal=str(tmp_path / "journal"), handler="accept", instruments=[7])
    session = connect(gateway)
    session.send_batch(batch_of(100))
    take(session, 100)
    for n in range(101, 104):
        order(session, n, instrument=8)
    session.wait_applied(103, PATIENCE_S)
    with pytest.raises(ro.errors.ConnectTimeout):
        session.orders(1e-9)
    fates = session.resolve(PATIENCE_S)
    assert list(fates["sequence"]) == [101, 102, 103]
    assert list(fates["exec_type"]) == [ro.ExecType.REJECTED] * 3
    assert len(session.orders(PATIENCE_S)) == 100
    with pytest.raises(ro.errors.ConnectTimeout):
        session.orders(1e-9)
    assert session.close(PATIENCE_S), "confirmed, whatever answer came before"


def test_fates_tell_answers_refusals_and_what_never_arrived(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    gateway = start_gateway(journal=str(tmp_path / "journal"), handler="venue")
    session = connect(gateway)
    order(session, 1)
    order(session, 2, ttl_ns=1)
    order(session, 1)
    session.wait_applied(3, PATIENCE_S)
    session.close()
    session = connect(gateway, next_sequence=3000)
    order(session, 7)
    session.wait_applied(3000, PATIENCE_S)
    fates = session.resolve()
    assert list(fates["sequence"]) == [3000]
    assert fates["fate"][0] == Fate.ANSWERED
    assert (fates["exec_type"][0], fates["leaves_quantity"][0]) == (ro.ExecType.NEW, 10)
    core = gateway._core
    raw = core.fates(0, 1, 1000)
    fates = np.frombuffer(raw, FATE_RECORD)
    assert list(fates["fate"][:4]) == [Fate.ANSWERED] * 3 + [Fate.NOT_APPLIED]
    reasons = [ro.Reason.NONE, ro.Reason.STALE, ro.Reason.DUPLICATE_CL_ORD_ID]
    assert list(fates["reason"][:3]) == reasons
    assert (fates["fate"][3:] == Fate.NOT_APPLIED).all()
    assert np.frombuffer(core.fates(0, 3001, 1), FATE_RECORD)["fate"][0] == Fate.NOT_TAKEN


def test_a_strategy_started_anew_finds_its_open_orders(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    arguments = ("--handler", "venue", "--journal", str(tmp_path / "journal"))
    gateway = start_process(*arguments)
    first = connect(gateway)
    other = connect(gateway, "beta")
    other.send_batch(batch_of(3))
    first.send_batch(
        batch_of(2500),
    )
    first.cancel_order(9001, 5)
    first.cancel_order(9002, 6, quantity=4)
    first.replace_order(9003, 7, 7, ro.BUY, ro.price("2"), 3)
    first.wait_applied(2503, PATIENCE_S)
    gateway.end(signal.SIGKILL)
    first.close(0)
    again = connect(start_process(*arguments))
    orders = again.orders(PATIENCE_S)
    ids = dict(zip(orders["cl_ord_id"].tolist(), orders["leaves_quantity"].tolist(), strict=True))
    assert set(ids) == (set(range(1, 2501)) - {5, 7}) | {9003}
    assert (ids[6], ids[9003], ids[8]) == (6, 3, 10)
    assert (orders["fate"] == Fate.ANSWERED).all()
    assert again.next_sequence == 2504


def test_without_a_journal_nobody_knows(start_gateway: StartGateway, connect: Connect) -> None:
    session = connect(start_gateway())
    order(session, 1)
    session.wait_applied(1, PATIENCE_S)
    with pytest.raises(ro.Refused, match="has no journal"):
        session.resolve()
    order(session, 2)
    assert len(take(session, 2)) == 2, "the link goes on"


def test_what_never_arrived_is_sent_again_where_that_is_asked_for(
    start_process: Start, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--handler", "venue", "--journal", str(tmp_path / "journal"))
    monkeypatch.setenv("RDMAORDER_FAULT", "after_journal:4")
    gateway = start_process(*arguments)
    monkeypatch.delenv("RDMAORDER_FAULT")
    session = connect(gateway, on_gap="resend", order_slots=64)
    batch = batch_of(10)
    batch["stale_after_ns"][8] = time.time_ns() + 1_000_000
    session.send_batch(batch)
    gateway.process.wait(PATIENCE_S)
    start_process(*arguments)
    session.reconnect(PATIENCE_S)
    told = {e.kind: e for e in session.events()}
    gap, resent = told[SessionEventKind.NOT_APPLIED], told[SessionEventKind.RESENT]
    assert (gap.from_sequence, gap.count) == (5, 6)
    assert (resent.from_sequence, resent.count) == (11, 6)
    reports = take(session, 10)
    assert list(reports["cl_ord_id"]) == list(range(1, 11))
    assert reports["reason"][8] == ro.Reason.STALE
    kept = journal.Journal(tmp_path / "journal").orders("alpha")
    assert (kept["flags"][4:] == FLAG_POSS_RESEND).all()
    assert (kept["flags"][:4] == 0).all()


# -- kill switch -------------------------------------------------------------------------------


def told_of_cancels(session: ro.Session) -> list[tuple[int, ro.Reason]]:
    """Count and reason of the events behind the reports, whose slot may come after theirs."""
    found: list[tuple[int, ro.Reason]] = []

    def told() -> bool:
        assert session.poll().size == 0
        events = [e for e in session.events() if e.kind == SessionEventKind.CANCELED]
        found.extend((e.count, e.reason) for e in events)
        return found != []

    eventually(told, "the session is told of its cancelled orders")
    return found


def test_the_operators_kill_fences_cancels_and_blocks_until_released(
    start_process: Start,
    connect: Connect,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gateway = start_process("--handler", "venue", "--journal", str(tmp_path / "journal"))
    session, other = connect(gateway), connect(gateway, "beta")
    for each in (session, other):
        each.send_batch(batch_of(5))
        take(each, 5)
    assert cli.main(["kill", gateway.operator_url, "--session", "alpha"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("killed 1 sessions: fenced in ")
    assert said.endswith("5 orders cancelled\n")

    def refused() -> bool:
        try:
            order(session, 100)
        except (ro.NotConnected, ro.SessionClosed):
            return True
        return False

    eventually(refused, "the killed session sends no more")
    assert "killed by the operator" in session.status()["cause"]
    order(other, 100)
    take(other, 1)
    with pytest.raises(ro.Refused, match="was killed; an operator has to release it"):
        session.reconnect(PATIENCE_S)
    assert cli.main(["kill", gateway.operator_url, "--session", "alpha", "--release"]) == 0
    assert capsys.readouterr().out == "released 1 sessions\n"
    session.reconnect(PATIENCE_S)
    reports = take(session, 5)
    assert (reports["reason"] == ro.Reason.KILL).all()
    assert list(reports["cl_ord_id"]) == [1, 2, 3, 4, 5]
    assert told_of_cancels(session) == [(5, ro.Reason.KILL)]
    assert cli.main(["kill", gateway.operator_url, "--session", "nobody"]) == 2


def test_a_strategy_can_kill_itself(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    gateway = start_gateway(handler="venue", journal=str(tmp_path / "journal"))
    session = connect(gateway)
    session.send_batch(batch_of(3))
    take(session, 3)
    assert session.kill() == 3
    eventually(lambda: session.status()["state"] == "closed", "the link ends")
    assert gateway.sessions()[0]["killed"]
    assert gateway.counters()["last_fence_ns"] > 0


def test_an_order_written_late_by_a_killed_link_hits_nothing(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    gateway = start_gateway(journal=str(tmp_path / "journal"))
    session = connect(gateway)
    order(session, 1)
    take(session, 1)
    # The session does not look at its socket between two heartbeats: these go into the old window.
    gateway.kill("alpha")
    late = [session.try_new_order(n, 7, ro.BUY, 5, 1) for n in range(2, 12)]
    gateway.release("alpha")
    eventually(lambda: session.status()["state"] != "live", "the end is seen")
    session.reconnect(PATIENCE_S)
    gap = [e for e in session.events() if e.kind == SessionEventKind.NOT_APPLIED]
    written = sum(1 for status in late if status > 0)
    assert sum(e.count for e in gap) == written
    assert gateway.counters()["orders_applied"] == 1


# -- cancel on disconnect ----------------------------------------------------------------------

STRATEGY = (
    "import os, sys, time, rdmaorder as ro\n"
    "s = ro.connect(sys.argv[1], sys.argv[2], suspect_after_s=10, dead_after_s=20)\n"
    "for i in range(1, 4): s.new_order(i, 7, ro.BUY, 5, 10)\n"
    "assert s.wait_applied(3, 10)\n"
    "n = 0\n"
    "while n < 3: n += len(s.poll())\n"
    "end = time.monotonic() + 0.2\n"  # one that finds nothing tells the gateway
    "while time.monotonic() < end: s.poll()\n"
    "os.kill(os.getpid(), 9) if sys.argv[3] == 'die' else s.close()\n"
)


def run_strategy(gateway: ro.Gateway, session: str, end: str) -> None:
    command = [sys.executable, "-c", STRATEGY, strategy_url(gateway.url), session, end]
    subprocess.run(command, cwd=ROOT, check=False)


@pytest.mark.parametrize(
    ("cancel_on", "end", "cancelled"),
    [
        ("never", "die", 0),
        ("disconnect", "die", 3),
        ("disconnect", "close", 0),
        ("logout", "close", 3),
        ("logout", "die", 0),
        ("both", "close", 3),
    ],
)
def test_orders_are_cancelled_when_the_link_ends_as_configured(
    start_gateway: StartGateway,
    connect: Connect,
    tmp_path: Path,
    cancel_on: str,
    end: str,
    cancelled: int,
) -> None:
    gateway = start_gateway(
        handler="venue",
        journal=str(tmp_path / "journal"),
        session_cancel={"alpha": (cancel_on, 50)},
    )
    run_strategy(gateway, "alpha", end)
    time.sleep(0.3)
    session = connect(gateway, resume=True)
    if cancelled:
        reports = take(session, cancelled)
        assert (reports["reason"] == ro.Reason.DISCONNECT).all()
        assert (reports["flags"] == FLAG_POSS_RESEND).all()
    assert len(session.orders()) == 3 - cancelled
    if cancelled:
        assert told_of_cancels(session) == [(3, ro.Reason.DISCONNECT)]
    else:
        session.poll()
        assert SessionEventKind.CANCELED not in [e.kind for e in session.events()]


def test_a_session_that_comes_back_in_time_keeps_its_orders(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    gateway = start_gateway(
        handler="venue",
        journal=str(tmp_path / "journal"),
        cancel_on="disconnect",
        cancel_grace_ms=3000,
    )
    run_strategy(gateway, "alpha", "die")
    session = connect(gateway, resume=True)
    time.sleep(3.3)
    assert len(session.orders()) == 3


# -- throttle ----------------------------------------------------------------------------------


def test_orders_above_the_rate_are_refused_and_cancels_pass(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway(max_orders_per_s=1, orders_burst=3))
    session.send_batch(batch_of(10))
    session.cancel_order(100, 1)
    reports = take(session, 11)
    throttled = reports["reason"] == ro.Reason.THROTTLED
    assert not throttled[:3].any()
    assert throttled[3:9].sum() >= 5, "one a second may pass on a slow machine"
    assert reports["exec_type"][10] == ro.ExecType.CANCELED
    told = [e.kind for e in session.events()]
    assert told.count(SessionEventKind.THROTTLED) >= 1
    assert session.status()["state"] == "live"


def test_who_goes_on_above_the_rate_loses_the_link(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway(max_orders_per_s=1, throttle_disconnect=50))
    session.send_batch(batch_of(200))
    eventually(lambda: session.status()["state"] == "closed", "the link is ended")
    assert "refused for their rate" in session.status()["cause"]
    session.reconnect(PATIENCE_S)


# -- events and the clock ----------------------------------------------------------------------


def test_events_come_by_callback_while_the_session_is_maintained(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    arguments = ("--journal", str(tmp_path / "journal"))
    gateway = start_process(*arguments)
    seen: list[ro.SessionEvent] = []
    session = connect(gateway, on_event=seen.append)
    assert session.maintain()
    gateway.end(signal.SIGKILL)
    eventually(lambda: session.maintain(0) is False, "the death is noticed")
    start_process(*arguments)
    eventually(lambda: session.maintain(1.0), "a link again")
    kinds = [event.kind for event in seen]
    assert kinds == [SessionEventKind.DEAD, SessionEventKind.ESTABLISHED]
    order(session, 1)
    take(session, 1)


def test_events_come_as_an_async_iterator(start_gateway: StartGateway, connect: Connect) -> None:
    gateway = start_gateway()
    session = connect(gateway)

    async def collect() -> list[SessionEventKind]:
        kinds = []
        gateway.halt()
        async for event in session.event_stream():
            kinds.append(event.kind)
            if event.kind == SessionEventKind.HALTED:
                gateway.resume()
            elif event.kind == SessionEventKind.RESUMED:
                session.close()
        return kinds

    kinds = asyncio.run(asyncio.wait_for(collect(), PATIENCE_S))
    assert kinds[:2] == [SessionEventKind.HALTED, SessionEventKind.RESUMED]


def test_the_clock_of_the_gateway_is_measured_with_a_bound(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())
    assert session.status()["clock_bound_ns"] is None
    offset_ns, bound_ns = session.measure_clock()
    assert bound_ns > 0
    assert abs(offset_ns) <= bound_ns, "one machine has one clock"
    assert session.status()["clock_offset_ns"] == offset_ns


def test_the_debug_profile_says_so_loudly(
    start_gateway: StartGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    url = strategy_url(start_gateway().url)
    with ro.connect(url, "alpha", debug=True):
        assert "DEBUG TIMEOUTS" in capsys.readouterr().err
    with pytest.raises(ro.ConfigError, match="on_gap must be"):
        ro.connect(url, "alpha", on_gap="maybe")
