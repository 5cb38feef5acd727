"""Handlers written in Python that take orders one by one, and the answers that an Order gives."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_support import PATIENCE_S, Connect, StartGateway, batch_of, eventually, order, take

import rdmaorder as ro
from rdmaorder.messages import Records, TemplateId
from rdmaorder.pingpong.handler import Accept


class Doing:
    """Does the same with each order and remembers what an exception was."""

    def __init__(self, do: Callable[[ro.Order], Any]) -> None:
        self.do = do
        self.raised: list[BaseException] = []

    def on_order(self, order: ro.Order) -> Any:
        try:
            return self.do(order)
        except (TypeError, ValueError, RuntimeError) as error:
            self.raised.append(error)
            raise


FIELDS = [
    *("template_id", "session_index", "sequence", "cl_ord_id", "orig_cl_ord_id"),
    *("price", "quantity", "instrument", "account", "smp_id", "side", "ord_type"),
    *("time_in_force", "scope", "flags"),
]


def send_one_of_each(session: ro.Session) -> None:
    session.new_order(1, 7, ro.BUY, 187, 100, 42, ro.OrdType.LIMIT, 1, smp_id=9)
    session.replace_order(2, 1, 8, ro.SELL, 188, 50)
    session.cancel_order(3, 2, 9, 20, ro.SELL, 43)
    session.mass_cancel(4, ro.MassCancelScope.SIDE, 10, ro.BUY, 44)


def test_every_kind_of_request_shows_its_fields(
    start_gateway: StartGateway, connect: Connect
) -> None:
    seen: list[tuple[int, ...]] = []
    texts: list[str] = []

    def look(order: ro.Order) -> None:
        seen.append(tuple(getattr(order, name) for name in FIELDS))
        texts.append(repr(order))

    gateway = start_gateway(handler=Doing(look))
    connect(gateway, "first")  # takes session_index 0
    send_one_of_each(connect(gateway, "second"))
    eventually(lambda: len(texts) == 4, "all came")
    no_price = ro.NO_PRICE
    assert seen == [
        (TemplateId.NEW_ORDER, 1, 1, 1, 0, 187, 100, 7, 42, 9, ro.BUY, 2, 1, 0, 0),
        (TemplateId.REPLACE_ORDER, 1, 2, 2, 1, 188, 50, 8, 0, 0, ro.SELL, 2, 0, 0, 0),
        (TemplateId.CANCEL_ORDER, 1, 3, 3, 2, no_price, 20, 9, 43, 0, ro.SELL, 0, 0, 0, 0),
        (TemplateId.MASS_CANCEL, 1, 4, 4, 0, no_price, 0, 10, 44, 0, ro.BUY, 0, 0, 3, 0),
    ]
    assert texts[2] == "<rdmaorder.Order template_id=3 session_index=1 sequence=3 cl_ord_id=3>"


def test_the_time_to_live_shows_as_a_deadline(
    start_gateway: StartGateway, connect: Connect
) -> None:
    seen: list[int] = []
    session = connect(start_gateway(handler=Doing(lambda o: seen.append(o.stale_after_ns))))
    order(session, 1, ttl_ns=10**15)
    eventually(lambda: seen, "it came")
    assert seen[0] > 10**15


def test_accept_says_what_the_built_in_handler_says(
    start_gateway: StartGateway, connect: Connect
) -> None:
    answers = []
    for handler in ("accept", Accept()):
        gateway = start_gateway(handler=handler)
        with connect(gateway) as session:
            send_one_of_each(session)
            answers.append(take(session, 4))
        gateway.stop()
    assert (answers[0] == answers[1]).all()
    assert list(answers[0]["exec_type"]) == [
        *(ro.ExecType.NEW, ro.ExecType.REPLACED, ro.ExecType.CANCELED, ro.ExecType.CANCELED)
    ]


def test_a_handler_gives_orders_its_own_ids(start_gateway: StartGateway, connect: Connect) -> None:
    handler = Doing(lambda o: o.accept(order_id=1000 + o.sequence))
    session = connect(start_gateway(handler=handler))
    session.send_batch(batch_of(3))
    assert list(take(session, 3)["order_id"]) == [1001, 1002, 1003]


def test_reject_gives_the_reason(start_gateway: StartGateway, connect: Connect) -> None:
    session = connect(start_gateway(handler=Doing(lambda o: o.reject(ro.Reason.NO_LIQUIDITY))))
    order(session, 5)
    (report,) = take(session, 1)
    assert report["exec_type"] == ro.ExecType.REJECTED
    assert report["ord_status"] == ro.OrdStatus.REJECTED
    assert report["reason"] == ro.Reason.NO_LIQUIDITY
    assert (report["cl_ord_id"], report["order_sequence"]) == (5, 1)


def test_report_says_anything_about_the_order(
    start_gateway: StartGateway, connect: Connect
) -> None:
    def fill(order: ro.Order) -> None:
        order.accept()
        order.report(ro.ExecType.TRADE, ro.OrdStatus.PARTIALLY_FILLED, order.price - 1, 4, 6, 77, 0)
        order.report(
            ord_status=ro.OrdStatus.CANCELED,
            exec_type=ro.ExecType.CANCELED,
            quantity=6,
            reason=ro.Reason.DISCONNECT,
        )

    session = connect(start_gateway(handler=Doing(fill)))
    order(session, 1, price=187)
    names = ["exec_type", "ord_status", "price", "quantity", "leaves_quantity"]
    names += ["order_id", "reason"]
    reports = [tuple(int(report[name]) for name in names) for report in take(session, 3)]
    assert reports[1:] == [
        (ro.ExecType.TRADE, ro.OrdStatus.PARTIALLY_FILLED, 186, 4, 6, 77, 0),
        (ro.ExecType.CANCELED, ro.OrdStatus.CANCELED, ro.NO_PRICE, 6, 0, 0, ro.Reason.DISCONNECT),
    ]


def test_several_orders_come_one_by_one_and_in_order(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway(handler=Accept()), order_slots=1024)
    session.send_batch(batch_of(500))
    assert list(take(session, 500)["cl_ord_id"]) == list(range(1, 501))


def test_with_both_methods_lone_orders_go_to_one_and_several_to_the_other(
    start_gateway: StartGateway, connect: Connect
) -> None:
    class Both(Accept):
        def __init__(self) -> None:
            self.batches: list[int] = []
            self.lone = 0

        def on_order(self, order: ro.Order) -> None:
            self.lone += 1
            super().on_order(order)

        def on_orders(self, orders: Records) -> None:
            self.batches.append(len(orders))

    handler = Both()
    session = connect(start_gateway(handler=handler))
    order(session, 1)
    take(session, 1)
    assert (handler.lone, handler.batches) == (1, [])
    session.send_batch(batch_of(100, first_id=2))
    eventually(lambda: handler.lone + sum(handler.batches) == 101, "all came")
    assert min(handler.batches) > 1


def test_an_order_may_be_kept_and_answered_later(
    start_gateway: StartGateway, connect: Connect
) -> None:
    class Patient:
        def __init__(self) -> None:
            self.kept: list[ro.Order] = []

        def on_order(self, order: ro.Order) -> None:
            self.kept.append(order)

        def on_idle(self) -> None:
            if len(self.kept) == 10:
                for order in reversed(self.kept):
                    order.accept(order.cl_ord_id)
                self.kept.clear()

    session = connect(start_gateway(handler=Patient()))
    for n in range(1, 11):
        order(session, n)
    reports = take(session, 10)
    for name in ("cl_ord_id", "order_sequence", "order_id"):
        assert list(reports[name]) == list(range(10, 0, -1))


def test_an_order_is_not_answered_outside_the_calls_of_its_handler(
    start_gateway: StartGateway, connect: Connect
) -> None:
    kept: list[ro.Order] = []
    told: list[str] = []

    def answer_elsewhere(order: ro.Order) -> None:
        def answer() -> None:
            with pytest.raises(RuntimeError, match=r"^accept: orders are answered in the calls"):
                order.accept()
            told.append("in another thread")

        other = threading.Thread(target=answer)
        other.start()
        other.join()
        kept.append(order)

    gateway = start_gateway(handler=Doing(answer_elsewhere))
    session = connect(gateway)
    order(session, 1)
    eventually(lambda: kept, "it came")
    assert told == ["in another thread"]
    assert session.wait_applied(1, PATIENCE_S)
    with pytest.raises(RuntimeError, match=r"^reject: orders are answered"):
        kept[0].reject(ro.Reason.TOO_LATE)
    assert len(session.poll()) == 0
    session.close()
    gateway.stop()
    # A thread made now may well be given the id of the receiver's, which has ended.
    order_of_the_dead = kept[0]

    def answer_the_dead() -> None:
        with pytest.raises(RuntimeError, match=r"^report: orders are answered"):
            order_of_the_dead.report(ro.ExecType.NEW, ro.OrdStatus.NEW)
        told.append("after the end")

    for _ in range(4):
        late = threading.Thread(target=answer_the_dead)
        late.start()
        late.join()
    assert told[1:] == ["after the end"] * 4
    assert order_of_the_dead.cl_ord_id == 1


# -- bad handlers ------------------------------------------------------------------------------


def test_an_order_whose_handler_raises_is_rejected_alone(
    start_gateway: StartGateway, connect: Connect
) -> None:
    def fail_on_2(order: ro.Order) -> None:
        if order.cl_ord_id == 2:
            raise ValueError("no idea what to do with order 2")
        order.accept()

    gateway = start_gateway(handler=Doing(fail_on_2))
    session = connect(gateway)
    session.send_batch(batch_of(3))
    assert list(take(session, 3)["reason"]) == [0, ro.Reason.HANDLER_FAILED, 0]
    assert "ValueError: no idea what to do with order 2" in gateway.handler_error()
    assert ": fail_on_2\n" in gateway.handler_error()  # where it came from
    assert gateway.counters()["handler_errors"] == 1


def test_an_answer_sent_before_the_handler_raised_stands(
    start_gateway: StartGateway, connect: Connect
) -> None:
    def accept_and_fail(order: ro.Order) -> None:
        order.accept()
        raise ValueError("too late")

    gateway = start_gateway(handler=Doing(accept_and_fail))
    session = connect(gateway)
    order(session, 1)
    order(session, 2)
    assert list(take(session, 2)["exec_type"]) == [ro.ExecType.NEW] * 2
    eventually(lambda: gateway.counters()["handler_errors"] == 2, "both are counted")
    assert len(session.poll()) == 0


def test_a_handler_that_returns_something_is_told(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway(handler=Doing(lambda order: np.zeros(1)))
    session = connect(gateway)
    order(session, 1)
    assert take(session, 1)["reason"][0] == ro.Reason.HANDLER_FAILED
    assert "on_order must return None" in gateway.handler_error()
    assert "not <class 'numpy.ndarray'>" in gateway.handler_error()


WRONG_ANSWERS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "no reason": (lambda o: o.reject(), TypeError, r"^reject\(\) needs reason$"),
    "reason NONE": (lambda o: o.reject(0), ValueError, r"^reject: reason must be 1 .. 25, not 0$"),
    "reason unknown": (lambda o: o.reject(26), ValueError, r"not 26$"),
    "id below 0": (lambda o: o.accept(-1), ValueError, r"^accept: order_id must be 0 \.\. "),
    "id a text": (lambda o: o.accept("7"), TypeError, r"^accept: order_id must be an integer"),
    "no such argument": (lambda o: o.accept(id=7), TypeError, r"has no argument 'id'$"),
    "exec_type unknown": (
        lambda o: o.report(ord("1"), ro.OrdStatus.NEW),
        ValueError,
        r"^report: exec_type must be an ExecType and ord_status an OrdStatus, not 49 and 48$",
    ),
    "ord_status unknown": (
        lambda o: o.report(ro.ExecType.NEW, ord("3")),
        ValueError,
        r"not 48 and 51$",
    ),
    "quantity below 0": (
        lambda o: o.report(ro.ExecType.NEW, ro.OrdStatus.NEW, quantity=-1),
        ValueError,
        r"^report: quantity must be 0 \.\. ",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
def test_a_wrong_answer_is_refused_and_sends_nothing(
    start_gateway: StartGateway, connect: Connect, wrong: str
) -> None:
    answer, kind, told = WRONG_ANSWERS[wrong]
    handler = Doing(answer)
    session = connect(start_gateway(handler=handler))
    order(session, 1)
    (report,) = take(session, 1)
    assert report["reason"] == ro.Reason.HANDLER_FAILED
    with pytest.raises(kind, match=told):
        raise handler.raised[0]


def test_an_order_comes_from_a_gateway_only() -> None:
    with pytest.raises(TypeError, match=r"cannot create 'rdmaorder\._core\.Order' instances"):
        ro.Order()


def test_the_thread_that_drops_a_gateway_stays_known_to_python(
    tmp_path: Path, connect: Connect
) -> None:
    """Since Python 3.12 a thread that deletes the state of another loses its own, and the next
    PyGILState_Ensure there ends the process."""
    known = ctypes.pythonapi.PyGILState_GetThisThreadState
    known.restype = ctypes.c_void_p
    before = known()
    gateway = ro.Gateway(listen=f"shm://{tmp_path}/gw.sock", handler=Accept()).start()
    session = connect(gateway)
    order(session, 1)
    assert len(take(session, 1)) == 1
    session.close()
    gateway.stop()
    del gateway
    gc.collect()
    assert known() == before
