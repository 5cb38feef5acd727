"""The order path as a strategy in Python uses it: ``new_order``, then ``poll`` until the report."""

from __future__ import annotations

import gc
import resource
from typing import TYPE_CHECKING, Any

import numpy as np

from rdmaorder import _core
from rdmaorder.errors import RdmaOrderError
from rdmaorder.pingpong.runs import SAMPLE_WORDS, Words

if TYPE_CHECKING:
    from rdmaorder.session import Session

__all__ = ["python_stamp_ns", "run_python"]

_POLLS_PER_CHECK = 1 << 16
#: Orders that take longer have the kernel's counts looked at.
_UNUSUAL_NS = 20_000
_PRICE, _QUANTITY = 187_250_000_000, 100


class _Collections:
    """Notes when Python's garbage collector ran."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self._began = 0

    def __call__(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = _core.ticks()
        else:
            self.seen.append((self._began, _core.ticks()))

    def __enter__(self) -> _Collections:
        gc.callbacks.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self)


class _Stamping:
    """A session whose sends are stamped when they return."""

    def __init__(self, session: Session, samples: Words, warm_up: int) -> None:
        self._send, self._ticks = session.new_order, _core.ticks
        self._samples, self._at = samples, -warm_up
        self.poll, self.status = session.poll, session.status
        self.next_sequence = session.next_sequence

    def new_order(self, *order: Any) -> None:
        self._send(*order)
        now = self._ticks()
        if self._at >= 0:
            self._samples[self._at, 5] = now
        self._at += 1


class _Kernel:
    """What the kernel did to this thread between unusual orders, as ``pingpong::Anomaly``."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._rows: list[list[int]] = []
        self._facts = facts
        self._before = self._look()

    @staticmethod
    def _look() -> tuple[int, int, int, int]:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return usage.ru_nvcsw, usage.ru_nivcsw, usage.ru_minflt, usage.ru_majflt

    def note(self, index: int) -> None:
        now = self._look()
        changes = [after - before for after, before in zip(now, self._before, strict=True)]
        self._rows.append([index, *changes, 0])
        self._before = now
        self._facts["anomalies"] = np.asarray(self._rows, np.uint64)


def python_stamp_ns(ticks_per_ns: float) -> float:
    """What one stamp from Python costs: median of the distance of two in a row."""
    ticks = _core.ticks
    stamps = [ticks() for _ in range(4001)]
    return float(np.median(np.diff(np.asarray(stamps, np.uint64)))) / ticks_per_ns


def run_python(
    session: Session,
    samples: Words,
    warm_up: int,
    duration_ns: int,
    due_ns: Any,
    stamps_written: bool = False,
) -> dict[str, Any]:
    """As the native loops do it; stamps are ``_core.ticks()``, kept outside what they enclose."""
    facts: dict[str, Any] = {"sent": 0, "answered": 0, "bad_payloads": 0, "strays": 0}
    facts |= {"ending": "done", "cause": ""}
    if stamps_written:
        session = _Stamping(session, samples, warm_up if due_ns is None else 0)  # type: ignore[assignment]
    with _Collections() as collections:
        try:
            if due_ns is None:
                _closed(session, samples, warm_up, duration_ns, facts)
            else:
                _open(session, samples, duration_ns, due_ns, facts)
        except KeyboardInterrupt:
            facts["ending"] = "interrupted"
        except RdmaOrderError as error:
            facts |= {"ending": "peer lost", "cause": str(error)}
    facts["collections"] = collections.seen
    return facts


def _lost(session: Session) -> bool:
    return session.status()["state"] in ("dead", "closed")


def _give_up(session: Session, facts: dict[str, Any]) -> None:
    facts |= {"ending": "peer lost", "cause": session.status()["cause"]}


def _closed(
    session: Session, samples: Words, warm_up: int, duration_ns: int, facts: dict[str, Any]
) -> None:
    ticks, new_order, poll = _core.ticks, session.new_order, session.poll
    rate = _core.pingpong_clock()["ticks_per_ns"]
    column = samples.reshape(-1).data.cast("B").cast("Q")
    count = len(samples)
    end = ticks() + int(duration_ns * rate) if duration_ns else 1 << 63
    unusual = int(_UNUSUAL_NS * rate)
    kernel = _Kernel(facts)
    order_id = session.next_sequence
    at = 0
    for index in range(-warm_up, count):
        price = _PRICE + (order_id & 0xFFFF) * 10_000_000
        polls = 0
        before = ticks()
        new_order(order_id, 7, 1, price, _QUANTITY, 0)
        reports = poll()
        while not len(reports):
            polls += 1
            if not polls & (_POLLS_PER_CHECK - 1) and _lost(session):
                _count(facts, index, 1)
                _give_up(session, facts)
                return
            reports = poll()
        after = ticks()
        if index < 0:
            order_id += 1
            continue
        if after - before > unusual:
            kernel.note(index)
        column[at] = column[at + 1] = before
        column[at + 2] = after
        column[at + 4] = polls
        at += SAMPLE_WORDS
        report = reports[0]
        if report["cl_ord_id"] != order_id or report["price"] != price or len(reports) != 1:
            facts["bad_payloads"] += 1
        order_id += 1
        facts["sent"] = facts["answered"] = index + 1
        if after > end:
            return


def _count(facts: dict[str, Any], index: int, unanswered: int) -> None:
    if index >= 0:
        facts["sent"] = index + unanswered


def _open(
    session: Session, samples: Words, duration_ns: int, due_ns: Any, facts: dict[str, Any]
) -> None:
    ticks, poll = _core.ticks, session.poll
    rate = _core.pingpong_clock()["ticks_per_ns"]
    first = session.next_sequence
    start = ticks() + int(200_000 * rate)
    due = (start + (due_ns.astype(np.float64) * rate).astype(np.uint64)).tolist()
    end = start + int(duration_ns * rate) if duration_ns else 1 << 63
    count = min(len(samples), len(due))
    waits = 0
    for index in range(count):
        when = due[index]
        if when >= end:
            break
        while ticks() < when:
            reports = poll()
            if len(reports):
                _take(reports, ticks(), first, samples, facts)
        samples[index, 0] = when
        samples[index, 1] = ticks()
        session.new_order(
            first + index, 7, 1, _PRICE + ((first + index) & 0xFFFF) * 10_000_000, _QUANTITY, 0
        )
        facts["sent"] = index + 1
        reports = poll()
        if len(reports):
            _take(reports, ticks(), first, samples, facts)
    while facts["answered"] < facts["sent"]:
        reports = poll()
        if len(reports):
            _take(reports, ticks(), first, samples, facts)
            waits = 0
            continue
        waits += 1
        if not waits & (_POLLS_PER_CHECK - 1) and _lost(session):
            _give_up(session, facts)
            return


def _take(reports: Any, now: int, first: int, samples: Words, facts: dict[str, Any]) -> None:
    for report in reports:
        index = int(report["order_sequence"]) - first
        if not 0 <= index < facts["sent"] or samples[index, 2]:
            facts["strays"] += 1
            continue
        samples[index, 2] = now
        facts["answered"] += 1
        price = _PRICE + ((first + index) & 0xFFFF) * 10_000_000
        if report["cl_ord_id"] != first + index or report["price"] != price:
            facts["bad_payloads"] += 1
