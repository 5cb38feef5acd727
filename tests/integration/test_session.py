"""The strategy's API, call by call, over real gateways in this process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_support import (
    PATIENCE_S,
    TRANSPORT_NAMES,
    Connect,
    StartGateway,
    batch_of,
    eventually,
    order,
    take,
)

import rdmaorder as ro
from rdmaorder.messages import (
    REPORT_RECORD,
    Records,
    SessionEventKind,
    TemplateId,
    as_cancels,
    as_mass_cancels,
    as_replaces,
)


class Recorder:
    """Keeps every order and answers none."""

    def __init__(self) -> None:
        self.batches: list[Records] = []

    def on_orders(self, orders: Records) -> None:
        self.batches.append(orders)

    def orders(self, session: ro.Session, last: int) -> Records:
        """Every order that came, the last of them with sequence ``last``."""

        def came() -> bool:
            return sum(map(len, self.batches)) == last

        assert session.wait_applied(last, PATIENCE_S)
        eventually(came, "the handler saw them all")
        orders = np.concatenate(self.batches)
        assert list(orders["sequence"]) == list(range(1, last + 1))
        return orders


def check_ttl(orders: Records, ttl_ns: int) -> None:
    for stale_after_ns in orders["stale_after_ns"]:
        assert 0 < int(stale_after_ns) - time.time_ns() <= ttl_ns


TTL_NS = 600 * 10**9


# -- each call puts each argument where it belongs ---------------------------------------------


def test_a_new_order_arrives_with_every_field(
    start_gateway: StartGateway, connect: Connect
) -> None:
    handler = Recorder()
    session = connect(start_gateway(handler=handler))
    names = ["cl_ord_id", "instrument", "side", "price", "quantity", "account", "ord_type"]
    names += ["time_in_force", "smp_id", "flags"]
    market, fill_or_kill = ro.OrdType.MARKET, ro.TimeInForce.FILL_OR_KILL
    values = (11, 12, ro.SELL, ro.NO_PRICE, 14, 15, market, fill_or_kill, 16, 1)
    for send in (session.new_order, session.try_new_order):
        send(*values[:8], TTL_NS, *values[8:])
        send(**dict(zip(names, values, strict=True)), ttl_ns=TTL_NS)
    session.new_order(1, 2, 1, 3, 4)
    got = handler.orders(session, 5)
    assert (got["template_id"] == TemplateId.NEW_ORDER).all()
    assert [tuple(row) for row in got[names][:4]] == [values] * 4
    check_ttl(got[:4], TTL_NS)
    assert tuple(got[names][4]) == (1, 2, 1, 3, 4, 0, ro.OrdType.LIMIT, ro.TimeInForce.DAY, 0, 0)
    assert got["stale_after_ns"][4] == 0


def test_a_replace_arrives_with_every_field(start_gateway: StartGateway, connect: Connect) -> None:
    handler = Recorder()
    session = connect(start_gateway(handler=handler))
    names = ["cl_ord_id", "orig_cl_ord_id", "instrument", "side", "price", "quantity", "ord_type"]
    names += ["time_in_force", "flags"]
    values = (21, 20, 12, ro.BUY, 13, 14, ro.OrdType.LIMIT, ro.TimeInForce.GOOD_TILL_CANCEL, 1)
    for send in (session.replace_order, session.try_replace_order):
        send(*values[:8], TTL_NS, *values[8:])
        send(**dict(zip(names, values, strict=True)), ttl_ns=TTL_NS)
    got = as_replaces(handler.orders(session, 4))
    assert (got["template_id"] == TemplateId.REPLACE_ORDER).all()
    assert [tuple(row) for row in got[names]] == [values] * 4
    check_ttl(got, TTL_NS)


def test_a_cancel_arrives_with_every_field(start_gateway: StartGateway, connect: Connect) -> None:
    handler = Recorder()
    session = connect(start_gateway(handler=handler))
    names = ["cl_ord_id", "orig_cl_ord_id", "instrument", "quantity", "side", "account", "flags"]
    values = (31, 30, 12, 14, ro.SELL, 15, 1)
    for send in (session.cancel_order, session.try_cancel_order):
        send(*values[:6], TTL_NS, *values[6:])
        send(**dict(zip(names, values, strict=True)), ttl_ns=TTL_NS)
    got = as_cancels(handler.orders(session, 4))
    assert (got["template_id"] == TemplateId.CANCEL_ORDER).all()
    assert [tuple(row) for row in got[names]] == [values] * 4
    check_ttl(got, TTL_NS)


def test_a_mass_cancel_arrives_with_every_field(
    start_gateway: StartGateway, connect: Connect
) -> None:
    handler = Recorder()
    session = connect(start_gateway(handler=handler))
    names = ["cl_ord_id", "scope", "instrument", "side", "account", "flags"]
    values = (41, ro.MassCancelScope.SIDE, 12, ro.SELL, 15, 1)
    for send in (session.mass_cancel, session.try_mass_cancel):
        send(*values)
        send(**dict(zip(names, values, strict=True)))
    session.mass_cancel(42)
    got = as_mass_cancels(handler.orders(session, 5))
    assert (got["template_id"] == TemplateId.MASS_CANCEL).all()
    assert [tuple(row) for row in got[names][:4]] == [values] * 4
    assert tuple(got[names][4]) == (42, ro.MassCancelScope.SESSION, 0, 0, 0, 0)


# -- sequences, answers, facts -----------------------------------------------------------------


def test_orders_are_answered_under_their_sequences(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway(handler="venue"))
    assert session.next_sequence == 1
    assert order(session, 1) == 1
    assert session.replace_order(2, 1, 7, ro.BUY, ro.price("1.5"), 5) == 2
    assert session.cancel_order(3, 2, 7, side=ro.BUY) == 3
    assert order(session, 1) == 4
    assert session.next_sequence == 5
    reports = take(session, 4)
    assert reports.dtype == REPORT_RECORD
    assert list(reports["order_sequence"]) == [1, 2, 3, 4]
    assert list(reports["sequence"]) == [1, 2, 3, 4]
    kinds = [ro.ExecType.NEW, ro.ExecType.REPLACED, ro.ExecType.CANCELED, ro.ExecType.REJECTED]
    assert list(reports["exec_type"]) == kinds
    assert list(reports["reason"]) == [0, 0, 0, ro.Reason.DUPLICATE_CL_ORD_ID]


def test_status_and_positions_tell_what_happened(
    start_gateway: StartGateway, connect: Connect, transport: str
) -> None:
    gateway = start_gateway()
    session = connect(gateway, order_slots=64, report_slots=128)
    session.send_batch(batch_of(5))
    take(session, 5)
    assert session.wait_applied(5, PATIENCE_S)
    status = session.status()
    told = {
        "state": "live",
        "cause": "",
        "send_status": "ok",
        "transport": TRANSPORT_NAMES[transport],
        "order_slots": 64,
        "report_slots": 128,
        "slot_bytes": 64,
        "cancel_reserve": 16,
        "sent": 5,
        "reports": 5,
        "next_sequence": 6,
        "next_report_sequence": 6,
        "applied": 5,
        "credits": 64 - 16,
    }
    assert {key: status[key] for key in told} == told
    assert session.positions == (5, 5, 0)
    (seen,) = gateway.sessions()
    assert (seen["name"], seen["live"], seen["next_order_sequence"]) == ("alpha", True, 6)


def test_latency_counts_every_answered_order_once(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())
    for n in range(1, 11):
        order(session, n)
        take(session, 1)
    first = session.latency(reset=True)
    assert first.count == 10
    assert 0 < first.min <= first.value_at(0.5) <= first.max
    order(session, 11)
    take(session, 1)
    assert (session.latency().count, first.count) == (1, 10)


def test_waiting_ends_with_a_report_or_with_the_time(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())
    assert session.wait(0) is False
    assert session.wait(0.01) is False
    order(session, 1)
    assert session.wait(PATIENCE_S) is True
    assert session.wait(0) is True
    assert len(session.poll()) == 1
    assert session.wait(0) is False
    assert session.wait_applied(1, PATIENCE_S) is True
    assert session.wait_applied(1, 0) is True
    assert session.wait_applied(2, 0.01) is False


def test_durable_means_the_journal_and_never_comes_without_one(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    session = connect(start_gateway())
    order(session, 1)
    assert session.wait_applied(1, PATIENCE_S)
    assert session.wait_applied(1, 0.02, durable=True) is False


@pytest.mark.parametrize("sync", ["interval", "batch"])
def test_wait_applied_durable_waits_for_the_disk(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path, sync: str
) -> None:
    gateway = start_gateway(journal=str(tmp_path / "journal"), sync=sync)
    session = connect(gateway)
    session.send_batch(batch_of(100))
    assert session.wait_applied(100, PATIENCE_S, durable=True)
    assert session.positions.durable >= 100
    assert gateway.journal_state()["durable_position"] >= 100


# -- events, halting ---------------------------------------------------------------------------


def test_a_gap_in_the_sequences_is_told_as_an_event(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway()
    session = connect(gateway)
    assert session.events() == []
    order(session, 1)
    assert session.close(PATIENCE_S)
    session = connect(gateway, next_sequence=12)
    (event,) = session.events()
    assert (event.kind, event.from_sequence, event.count) == (SessionEventKind.NOT_APPLIED, 2, 10)
    assert abs(event.time_ns - time.time_ns()) < 3600 * 10**9
    assert session.events() == []
    assert order(session, 2) == 12


def test_a_halted_gateway_takes_cancels_only_until_it_resumes(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway(handler="venue")
    session = connect(gateway)
    order(session, 1)
    take(session, 1)
    gateway.halt()
    eventually(lambda: session.status()["send_status"] == "halted", "the strategy sees it")
    before = session.next_sequence
    why = r"new orders \(halted\) until an operator resumes it; cancels pass$"
    with pytest.raises(
        ro.Halted, match=rf"^new_order: halted: the gateway takes no {why}"
    ) as raised:
        order(session, 2)
    assert raised.value.sent == 0
    assert session.try_new_order(2, 7, 1, 5, 1) == ro.Status.HALTED
    assert session.try_replace_order(2, 1, 7, 1, 5, 1) == ro.Status.HALTED
    with pytest.raises(ro.Halted):
        session.send_batch(batch_of(1, first_id=2))
    assert session.next_sequence == before
    session.cancel_order(3, 1, 7, side=ro.BUY)
    assert take(session, 1)["exec_type"][0] == ro.ExecType.CANCELED
    gateway.resume()
    eventually(lambda: session.status()["send_status"] == "ok", "the strategy sees it")
    order(session, 2)
    assert take(session, 1)["exec_type"][0] == ro.ExecType.NEW


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.shm_only
def test_a_session_that_the_gateway_ended_says_so_and_may_have_a_new_link(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway(heartbeat_us=1_000_000)
    session = connect(gateway)
    gateway.stop()
    eventually(lambda: session.status()["send_status"] == "closed", "the strategy sees it")
    why = r"^new_order: closed: the gateway (is shutting down; reconnect|ended the session)"
    with pytest.raises(ro.SessionClosed, match=why):
        order(session, 1)
    start_gateway()
    session.reconnect(PATIENCE_S)
    assert order(session, 1) == 1
    take(session, 1)


def test_closing_is_confirmed_and_final(start_gateway: StartGateway, connect: Connect) -> None:
    session = connect(start_gateway())
    session.send_batch(batch_of(20))
    assert session.close(PATIENCE_S) is True
    assert session.close() is False
    with pytest.raises(ro.SessionClosed, match=r"^new_order: closed: closed by this side$"):
        order(session, 21)
    assert session.try_cancel_order(22, 1) == ro.Status.CLOSED
    with pytest.raises(ro.SessionClosed, match="try_send_batch"):
        session.try_send_batch(batch_of(1))
    for again in (session.reconnect, session.resolve, session.maintain):
        with pytest.raises(
            ro.SessionClosed, match=r"closed by this side .* connect\(\) makes a new"
        ):
            again()
    with pytest.raises(ro.errors.Refused, match=r"connect\(\) makes a new session"):
        session.measure_clock()
    status = session.status()
    assert (status["state"], status["next_sequence"]) == ("closed", 21)
    assert len(take(session, 20)) == 20  # what had arrived is still delivered
    with pytest.raises(ro.SessionClosed, match=r"^poll: closed: closed by this side$"):
        session.poll()


def test_leaving_the_block_closes_also_after_an_error(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway()
    session = connect(gateway)

    def break_off() -> None:
        with session:
            order(session, 1)
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert session.status()["state"] == "closed"
    with connect(gateway) as again:
        assert again.next_sequence == 2


def test_a_gateway_that_ends_tells_its_strategies(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway()
    session = connect(gateway)
    session.send_batch(batch_of(50))
    gateway.stop()
    assert len(take(session, 50)) == 50
    eventually(lambda: session.status()["state"] == "closed", "Terminate arrives")
    assert session.positions.applied == 50
    with pytest.raises(ro.SessionClosed, match="the gateway ended the session"):
        order(session, 51)
    with pytest.raises(ro.SessionClosed, match="the gateway ended the session"):
        session.poll()


def test_a_poll_gives_at_most_what_was_asked_for(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())
    session.send_batch(batch_of(200))
    assert session.wait_applied(200, PATIENCE_S)
    assert [len(session.poll(max=1)), len(session.poll(17)), len(session.poll(1000))] == [
        1,
        17,
        182,
    ]
    assert len(session.poll()) == 0


# -- one thread at a time ----------------------------------------------------------------------


def test_calls_from_a_second_thread_are_refused_while_one_waits(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway()
    session = connect(gateway)
    waiter = threading.Thread(target=session.wait, args=(PATIENCE_S,))
    waiter.start()
    busy = r"^this session is in use by another thread; a session belongs to one thread$"

    def is_busy() -> bool:
        try:
            session.status()
        except RuntimeError:
            return True
        return False

    eventually(is_busy, "the other thread waits")
    calls: list[Callable[[], Any]] = [
        lambda: order(session, 1),
        lambda: session.try_new_order(1, 7, 1, 5, 1),
        lambda: session.replace_order(2, 1, 7, 1, 5, 1),
        lambda: session.cancel_order(2, 1),
        lambda: session.mass_cancel(2),
        lambda: session.send_batch(batch_of(1)),
        lambda: session.try_send_batch(batch_of(1)),
        session.poll,
        session.status,
        session.events,
        session.latency,
        session.close,
        lambda: session.next_sequence,
        lambda: session.positions,
        lambda: session.wait(0),
        lambda: session.wait_applied(1, 0),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=busy):
            call()
    gateway.stop()  # which ends the link, and with it the wait
    waiter.join()
    assert session.next_sequence == 1


def test_a_signal_handler_that_raises_ends_a_wait_and_the_session_goes_on(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())

    def alarm(*_: object) -> None:
        raise InterruptedError("alarm")

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError, match="alarm"):
            session.wait(PATIENCE_S)
    finally:
        signal.signal(signal.SIGALRM, before)
    order(session, 1)
    assert len(take(session, 1)) == 1
