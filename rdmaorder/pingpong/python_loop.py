"""The order path as a strategy in Python uses it: ``new_order``, then ``poll`` until the report."""

from __future__ import annotations

import ctypes
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
#: From here on looks are stamped: whoever waits longer has the time.
_POLLS_BEFORE_STAMPS = 16
_CHECK_NS = 1_000_000
#: Orders that take longer have the kernel's counts looked at.
_UNUSUAL_NS = 20_000
_BETWEEN_LOOKS_NS, _REFRESH_NS = 1_000_000, 10_000_000
#: Of a paced run: a longer time without a look is noted.
_GAP_NS = 20_000
_MOST_ANOMALIES = 4096
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
    """What the kernel did to this thread around unusual orders, as ``pingpong::Anomaly``."""

    def __init__(self, facts: dict[str, Any]) -> None:
        rate = _core.pingpong_clock()["ticks_per_ns"]
        self._unusual = int(_UNUSUAL_NS * rate)
        self._between, self._refresh = int(_BETWEEN_LOOKS_NS * rate), int(_REFRESH_NS * rate)
        self._rows = np.zeros((_MOST_ANOMALIES, 7), np.uint64)
        self._facts, self._count = facts, 0
        self._where = ctypes.CDLL(None).sched_getcpu
        self._look()

    def _look(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        self._counts = (usage.ru_nvcsw, usage.ru_nivcsw, usage.ru_minflt, usage.ru_majflt)
        self._cpu = self._where()
        self._looked = _core.ticks()

    def check(self, now: int, taken: int) -> None:
        """After an order that took ``taken`` ticks. Looks when that is unusual, and from time to
        time, so that what is found next is not of long before."""
        passed = now - self._looked
        if passed > self._refresh or (taken > self._unusual and passed > self._between):
            self._note()

    def _note(self) -> None:
        since, before, cpu = self._looked, self._counts, self._cpu
        self._look()
        changes = [after - then for after, then in zip(self._counts, before, strict=True)]
        changes.append(int(self._cpu != cpu))
        if any(changes) and self._count < _MOST_ANOMALIES:
            self._rows[self._count] = [since, self._looked, *changes]
            self._count += 1
            self._facts["anomalies"] = self._rows[: self._count]


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
    answer_timeout_ns: int,
    stamps_written: bool = False,
) -> dict[str, Any]:
    """As the native loops do it; stamps are ``_core.ticks()``, kept outside what they enclose."""
    facts: dict[str, Any] = {"sent": 0, "answered": 0, "bad_payloads": 0, "strays": 0}
    facts |= {"ending": "done", "cause": ""}
    if stamps_written:
        session = _Stamping(session, samples, warm_up if due_ns is None else 0)  # type: ignore[assignment]
    peer = _Peer(session, answer_timeout_ns, facts)
    with _Collections() as collections:
        try:
            if due_ns is None:
                _closed(session, samples, warm_up, duration_ns, peer, facts)
            else:
                _open(session, samples, duration_ns, due_ns, peer, facts)
        except KeyboardInterrupt:
            facts["ending"] = "interrupted"
        except RdmaOrderError as error:
            facts |= {"ending": "peer lost", "cause": str(error)}
    facts["collections"] = collections.seen
    return facts


class _Peer:
    """The other side, as long as it is worth waiting for."""

    def __init__(self, session: Session, answer_timeout_ns: int, facts: dict[str, Any]) -> None:
        self._status, self._facts = session.status, facts
        self._timeout_ns = answer_timeout_ns
        self._rate = _core.pingpong_clock()["ticks_per_ns"]

    def is_lost(self, waiting_since: int | None) -> bool:
        """Notes why. ``waiting_since``: in ticks, None where no answer is due."""
        status = self._status()
        waited = 0 if waiting_since is None else _core.ticks() - waiting_since
        if status["state"] in ("dead", "closed"):
            cause = str(status["cause"])
        elif waited > self._timeout_ns * self._rate:
            cause = f"no answer within {self._timeout_ns // 1_000_000} ms"
        else:
            return False
        self._facts |= {"ending": "peer lost", "cause": cause}
        return True

    def wait(self, poll: Any, sent: int) -> tuple[Any, int, int]:
        """For the answer to an order of ``sent``: reports (none where the peer is lost), looks so
        far, and the longest time between two, in ticks."""
        ticks, polls, gap = _core.ticks, _POLLS_BEFORE_STAMPS, 0
        looked = ticks()
        while True:
            reports = poll()
            now = ticks()
            if now - looked > gap:
                gap = now - looked
            looked = now
            if len(reports):
                return reports, polls, gap
            polls += 1
            if not polls & (_POLLS_PER_CHECK - 1) and self.is_lost(sent):
                return (), polls, gap


def _closed(
    session: Session,
    samples: Words,
    warm_up: int,
    duration_ns: int,
    peer: _Peer,
    facts: dict[str, Any],
) -> None:
    ticks, new_order, poll = _core.ticks, session.new_order, session.poll
    rate = _core.pingpong_clock()["ticks_per_ns"]
    column = samples.reshape(-1).data.cast("B").cast("Q")
    count = len(samples)
    end = ticks() + int(duration_ns * rate) if duration_ns else 1 << 63
    kernel = _Kernel(facts)
    order_id = session.next_sequence
    at = 0
    for index in range(-warm_up, count):
        price = _PRICE + (order_id & 0xFFFF) * 10_000_000
        polls = gap = 0
        before = ticks()
        new_order(order_id, 7, 1, price, _QUANTITY, 0)
        reports = poll()
        while not len(reports):
            polls += 1
            if polls == _POLLS_BEFORE_STAMPS:
                reports, polls, gap = peer.wait(poll, before)
                break
            reports = poll()
        after = ticks()
        if not len(reports):
            facts["sent"] = max(0, index + 1)
            return
        if index < 0:
            order_id += 1
            continue
        kernel.check(after, after - before)
        column[at] = column[at + 1] = before
        column[at + 2] = after
        column[at + 3] = gap
        column[at + 4] = polls
        at += SAMPLE_WORDS
        report = reports[0]
        if report["cl_ord_id"] != order_id or report["price"] != price or len(reports) != 1:
            facts["bad_payloads"] += 1
        order_id += 1
        facts["sent"] = facts["answered"] = index + 1
        if after > end:
            return


class _Answers:
    """Of a paced run."""

    def __init__(self, first: int, samples: Words, peer: _Peer, facts: dict[str, Any]) -> None:
        self._first, self._samples = first, samples
        self._peer, self._facts, self._kernel = peer, facts, _Kernel(facts)
        self._between_checks = int(_CHECK_NS * _core.pingpong_clock()["ticks_per_ns"])
        self._heard = 0  #: when the last one came
        self.looks = 0  #: that found nothing
        self.check = 0  #: when the peer is to be asked for
        self._gap = self._gap_end = 0  #: longest time without a look, of those that still matter

    def is_lost(self, now: int) -> bool:
        """Whether the peer has to be given up."""
        self.check = now + self._between_checks
        oldest = self._facts["answered"]  # they come in order
        if oldest == self._facts["sent"]:
            return self._peer.is_lost(None)
        return self._peer.is_lost(max(self._heard, int(self._samples[oldest, 1])))

    def looked(self, now: int, before: int) -> None:
        """Later than usual after the look ``before``."""
        if now - before > self._gap:
            self._gap, self._gap_end = now - before, now

    def take(self, reports: Any, now: int) -> None:
        """``now``: when they were here."""
        samples, facts = self._samples, self._facts
        self._heard = now
        for report in reports:
            index = int(report["order_sequence"]) - self._first
            if not 0 <= index < facts["sent"] or samples[index, 2]:
                facts["strays"] += 1
                continue
            samples[index, 2] = now
            if self._gap:
                if self._gap_end <= samples[index, 1]:  # before its time, and all later's
                    self._gap = 0
                samples[index, 3] = self._gap
            samples[index, 4] = self.looks - int(samples[index, 4])
            facts["answered"] += 1
            order_id = self._first + index
            if report["cl_ord_id"] != order_id or report["price"] != _price(order_id):
                facts["bad_payloads"] += 1
            self._kernel.check(now, now - int(samples[index, 0]))


def _price(order_id: int) -> int:
    return _PRICE + (order_id & 0xFFFF) * 10_000_000


def _open(
    session: Session,
    samples: Words,
    duration_ns: int,
    due_ns: Any,
    peer: _Peer,
    facts: dict[str, Any],
) -> None:
    ticks, poll = _core.ticks, session.poll
    rate = _core.pingpong_clock()["ticks_per_ns"]
    first = session.next_sequence
    answers = _Answers(first, samples, peer, facts)
    start = ticks() + int(200_000 * rate)
    due = (start + (due_ns.astype(np.float64) * rate).astype(np.uint64)).tolist()
    end = start + int(duration_ns * rate) if duration_ns else 1 << 63
    count = min(len(samples), len(due))
    gap, look = int(_GAP_NS * rate), start
    for index in range(count):
        when = due[index]
        if when >= end:
            break
        while (now := ticks()) < when:
            if now - look > gap:
                answers.looked(now, look)
            look = now
            reports = poll()
            if len(reports):
                answers.take(reports, ticks())
                continue
            answers.looks += 1
            if now > answers.check and answers.is_lost(now):
                return
        samples[index, 0] = when
        samples[index, 4] = answers.looks
        samples[index, 1] = sent = ticks()
        session.new_order(first + index, 7, 1, _price(first + index), _QUANTITY, 0)
        if sent - look > gap:
            answers.looked(sent, look)
        look = sent
        facts["sent"] = index + 1
        reports = poll()
        if len(reports):
            answers.take(reports, ticks())
    while facts["answered"] < facts["sent"]:
        now = ticks()
        if now - look > gap:
            answers.looked(now, look)
        look = now
        reports = poll()
        if len(reports):
            answers.take(reports, ticks())
            continue
        answers.looks += 1
        if now > answers.check and answers.is_lost(now):
            return
