"""Handlers written in Python: a batch in, an array of reports out, and what a bad one does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_support import PATIENCE_S, Connect, StartGateway, batch_of, eventually, order, take

import rdmaorder as ro
from rdmaorder.messages import HANDLER_REPORT, ORDER_RECORD, Records


def accepted(orders: Records) -> Records:
    reports = ro.execution_reports(len(orders))
    reports["order_sequence"] = orders["sequence"]
    for name in ("session_index", "cl_ord_id", "price", "quantity"):
        reports[name] = orders[name]
    reports["leaves_quantity"] = orders["quantity"]
    reports["exec_type"] = ro.ExecType.NEW
    reports["ord_status"] = ro.OrdStatus.NEW
    return reports


class Answering:
    """Answers each batch with what ``answer`` makes of it."""

    def __init__(self, answer: Callable[[Records], Any] = accepted) -> None:
        self.answer = answer
        self.batches: list[Records] = []

    def on_orders(self, orders: Records) -> Any:
        self.batches.append(orders)
        return self.answer(orders)


class Passing:
    """The same, and keeps nothing."""

    def __init__(self, answer: Callable[[Records], Any]) -> None:
        self.answer = answer

    def on_orders(self, orders: Records) -> Any:
        return self.answer(orders)


class Filling:
    """Accepts at once, fills when there is nothing else to do."""

    def __init__(self) -> None:
        self.open: list[Records] = []

    def on_orders(self, orders: Records) -> Records:
        self.open.append(orders)
        return accepted(orders)

    def on_idle(self) -> Records | None:
        if not self.open:
            return None
        fills = accepted(self.open.pop(0))
        fills["exec_type"] = ro.ExecType.TRADE
        fills["ord_status"] = ro.OrdStatus.FILLED
        fills["leaves_quantity"] = 0
        return fills


def test_a_batch_comes_in_as_orders_and_goes_out_as_reports(
    start_gateway: StartGateway, connect: Connect
) -> None:
    handler = Answering()
    session = connect(start_gateway(handler=handler), order_slots=1024)
    sent = batch_of(500)
    session.send_batch(sent)
    reports = take(session, 500)
    assert list(reports["order_sequence"]) == list(range(1, 501))
    assert (reports["exec_type"] == ro.ExecType.NEW).all()
    for name in ("cl_ord_id", "price", "quantity"):
        assert (reports[name] == sent[name]).all()
    seen = np.concatenate(handler.batches)
    assert seen.dtype == ORDER_RECORD
    assert (seen["sequence"] == np.arange(1, 501)).all()
    for name in ("cl_ord_id", "price", "quantity", "instrument", "side", "ord_type"):
        assert (seen[name] == sent[name]).all()


def test_a_batch_that_a_handler_keeps_never_changes(
    start_gateway: StartGateway, connect: Connect
) -> None:
    handler = Answering()
    session = connect(start_gateway(handler=handler))
    for n in range(1, 31):
        order(session, n)
        take(session, 1)
    assert [int(batch["cl_ord_id"][0]) for batch in handler.batches] == list(range(1, 31))


@pytest.mark.parametrize(
    "keep", [lambda orders: orders["cl_ord_id"], lambda orders: orders[:1]["cl_ord_id"], memoryview]
)
def test_a_view_of_a_batch_that_a_handler_keeps_never_changes(
    start_gateway: StartGateway, connect: Connect, keep: Callable[[Records], Any]
) -> None:
    kept: list[Any] = []
    session = connect(
        start_gateway(handler=Passing(lambda orders: kept.append(keep(orders)) or accepted(orders)))
    )
    for n in range(1, 11):
        order(session, n)
        take(session, 1)
    ids = [
        int(np.asarray(view)["cl_ord_id"][0]) if isinstance(view, memoryview) else int(view[0])
        for view in kept
    ]
    assert ids == list(range(1, 11))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda orders: orders.setflags(write=False),
        lambda orders: orders.resize(0, refcheck=False),
        lambda orders: setattr(orders, "shape", (1, 1)),
        lambda orders: setattr(orders, "dtype", np.uint8),
    ],
)
def test_what_a_handler_does_to_its_array_does_not_reach_the_next_batch(
    start_gateway: StartGateway, connect: Connect, spoil: Callable[[Records], Any]
) -> None:
    seen: list[tuple[int, ...]] = []

    def answer(orders: Records) -> Records:
        seen.append((*orders.shape, int(orders["cl_ord_id"][0]), orders.flags.writeable))
        reports = accepted(orders)
        spoil(orders)
        return reports

    session = connect(start_gateway(handler=Passing(answer)))
    for n in range(1, 6):
        order(session, n)
        take(session, 1)
    assert seen == [(1, n, True) for n in range(1, 6)]


def test_reports_may_come_later_and_belong_to_their_orders(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway(handler=Filling()))
    session.send_batch(batch_of(10))
    reports = take(session, 20)
    fills = reports[reports["exec_type"] == ro.ExecType.TRADE]
    assert sorted(fills["order_sequence"]) == list(range(1, 11))
    assert sorted(fills["cl_ord_id"]) == list(range(1, 11))
    assert (fills["leaves_quantity"] == 0).all()


def test_reports_go_to_the_session_they_name(start_gateway: StartGateway, connect: Connect) -> None:
    gateway = start_gateway(handler=Filling())
    sessions = [connect(gateway, name) for name in ("alpha", "beta", "gamma")]
    for number, session in enumerate(sessions):
        session.send_batch(batch_of(5 + number, first_id=100 * number + 1))
    for number, session in enumerate(sessions):
        reports = take(session, 2 * (5 + number))
        assert set(reports["cl_ord_id"]) == set(range(100 * number + 1, 100 * number + 6 + number))


def test_a_handler_may_answer_nothing(start_gateway: StartGateway, connect: Connect) -> None:
    handler = Answering(lambda orders: None)
    gateway = start_gateway(handler=handler)
    session = connect(gateway)
    session.send_batch(batch_of(5))
    assert session.wait_applied(5, PATIENCE_S)
    eventually(lambda: sum(map(len, handler.batches)) == 5, "all were handed on")
    assert len(session.poll()) == 0
    assert gateway.handler_error() == ""


def test_reports_need_not_be_contiguous(start_gateway: StartGateway, connect: Connect) -> None:
    session = connect(start_gateway(handler=Answering(lambda o: accepted(np.repeat(o, 2))[::2])))
    session.send_batch(batch_of(8))
    assert list(take(session, 8)["cl_ord_id"]) == list(range(1, 9))


# -- bad handlers ------------------------------------------------------------------------------


def fail_on_id_2(orders: Records) -> Records:
    if 2 in orders["cl_ord_id"]:
        raise ValueError("no idea what to do with order 2")
    return accepted(orders)


def test_a_handler_that_raises_rejects_its_batch_and_the_gateway_goes_on(
    start_gateway: StartGateway, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = start_gateway(handler=Answering(fail_on_id_2))
    session = connect(gateway)
    for n in (1, 2, 3):
        order(session, n)
        (report,) = take(session, 1)
        assert report["order_sequence"] == n
        kind, reason = ro.ExecType.NEW, ro.Reason.NONE
        if n == 2:
            kind, reason = ro.ExecType.REJECTED, ro.Reason.HANDLER_FAILED
        assert (report["exec_type"], report["reason"]) == (kind, reason)
    assert "ValueError: no idea what to do with order 2" in gateway.handler_error()
    assert ": fail_on_id_2\n" in gateway.handler_error()  # where it came from
    assert gateway.counters()["handler_errors"] == 1

    def logged() -> bool:
        return any(
            record.levelno == logging.ERROR
            and record.message.startswith("handler Answering raised; what it had not answered was")
            and "no idea what to do with order 2" in record.message
            for record in caplog.records
        )

    eventually(logged, "the error is in the log")


WRONG_ANSWERS: dict[str, tuple[Any, str]] = {
    "a list": ([1, 2], "not <class 'list'>"),
    "a number": (5, "not <class 'int'>"),
    "an array of numbers": (np.zeros(8), "not <class 'numpy.ndarray'>"),
    "orders instead of reports": (np.zeros(2, ORDER_RECORD), "not <class 'numpy.ndarray'>"),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
def test_a_handler_that_returns_something_else_rejects_its_batch(
    start_gateway: StartGateway, connect: Connect, wrong: str
) -> None:
    answer, told = WRONG_ANSWERS[wrong]
    gateway = start_gateway(handler=Answering(lambda orders: answer))
    session = connect(gateway)
    session.send_batch(batch_of(3))
    reports = take(session, 3)
    assert (reports["reason"] == ro.Reason.HANDLER_FAILED).all()
    assert list(reports["cl_ord_id"]) == [1, 2, 3]
    message = "must return None or an array of HANDLER_REPORT (rdmaorder.execution_reports(n) makes"
    assert message in gateway.handler_error()
    assert told in gateway.handler_error()


def test_a_report_for_no_session_is_skipped_and_told(
    start_gateway: StartGateway, connect: Connect
) -> None:
    def astray(orders: Records) -> Records:
        reports = np.repeat(accepted(orders), 2)
        reports["session_index"][::2] = 77
        assert reports.dtype == HANDLER_REPORT
        return reports

    gateway = start_gateway(handler=Answering(astray))
    session = connect(gateway)
    order(session, 1)
    assert list(take(session, 1)["cl_ord_id"]) == [1]
    assert "session_index 77, which does not exist" in gateway.handler_error()


def test_an_on_idle_that_raises_is_told_and_orders_go_on(
    start_gateway: StartGateway, connect: Connect
) -> None:
    class Tired(Answering):
        def on_idle(self) -> None:
            raise RuntimeError("let me sleep")

    gateway = start_gateway(handler=Tired())
    session = connect(gateway)
    eventually(lambda: "let me sleep" in gateway.handler_error(), "the error is kept")
    order(session, 1)
    assert take(session, 1)["exec_type"][0] == ro.ExecType.NEW


def test_what_is_no_handler_is_refused_at_the_start(start_gateway: StartGateway) -> None:
    with pytest.raises(
        ro.ConfigError, match=r"^handler: object has no method on_order or on_orders$"
    ):
        start_gateway(handler=object())


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        ("venu", "give accept, venue, null or package.module:Class"),
        ("no_such_module:Handler", "No module named 'no_such_module'"),
        ("collections:NoSuchClass", "has no attribute 'NoSuchClass'"),
        ("collections:OrderedDict", "OrderedDict has no method on_order or on_orders"),
    ],
)
def test_a_handler_name_that_leads_nowhere_is_told(
    start_gateway: StartGateway, handler: str, told: str
) -> None:
    with pytest.raises(ro.ConfigError, match=told):
        start_gateway(handler=handler)


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("faulty_handlers:NeedsMore", TypeError, "TypeError: .*missing 1 required positional"),
        ("faulty_handlers:Raises", RuntimeError, "RuntimeError: no venue"),
        ("faulty_handlers:NUMBER", TypeError, "TypeError: 'int' object is not callable"),
        ("no_python:Handler", SyntaxError, r"SyntaxError: .*no_python\.py, line 1"),
    ],
)
def test_a_handler_that_cannot_be_made_is_one_error_with_its_cause(
    start_gateway: StartGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: type[Exception],
    told: str,
) -> None:
    (tmp_path / "no_python.py").write_text("class Handler(:\n")
    (tmp_path / "faulty_handlers.py").write_text(
        "class NeedsMore:\n    def __init__(self, venue): pass\n"
        "class Raises:\n    def __init__(self): raise RuntimeError('no venue')\n"
        "NUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ro.ConfigError, match=rf"\[gateway\] handler = '{name}': {told}") as raised:
        start_gateway(handler=name)
    assert isinstance(raised.value.__cause__, error)


def test_the_end_of_the_gateway_is_the_end_of_the_calls(
    start_gateway: StartGateway, connect: Connect
) -> None:
    callers = []

    class Watched(Answering):
        def on_idle(self) -> None:
            callers.append(threading.get_native_id())

    gateway = start_gateway(handler=Watched(lambda _: callers.append(threading.get_native_id())))
    order(connect(gateway), 1)
    eventually(lambda: len(callers) > 3, "the handler is called")
    gateway.stop()
    count = len(callers)
    assert len(set(callers)) == 1  # the receiver's thread
    assert threading.main_thread().native_id not in callers
    time.sleep(0.02)
    assert len(callers) == count
