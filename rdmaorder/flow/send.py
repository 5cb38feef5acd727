"""One thread that drives all sessions of a replay: sends what is due, takes in every report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rdmaorder.errors import Halted, NotConnected, RdmaOrderError
from rdmaorder.flow.decimals import Int64Array
from rdmaorder.flow.fates import FateTracker
from rdmaorder.flow.latency import Snapshot
from rdmaorder.flow.plan import SessionPlan
from rdmaorder.messages import REPORT_RECORD, as_new_orders

__all__ = ["Lane", "Outcome", "ReplaySession", "Schedule", "drive"]

Records = npt.NDArray[np.void]

_OVER = ("dead", "closed")
_SEND_MAX = 256
_POLL_MAX = 4096
#: nothing is due for longer than this and all is answered: sleep instead of polling
_SLEEP_ABOVE_NS = 2_000_000
_SLEEP_MARGIN_NS = 1_000_000
_SLEEP_MAX_NS = 50_000_000
_CHECK_AFTER_NS = 50_000_000
_SETTLE_NS = 50_000_000
_NOTIFY_EVERY_NS = 100_000_000


class ReplaySession(Protocol):
    """What a replay needs of ``rdmaorder.Session``."""

    @property
    def next_sequence(self) -> int: ...
    def try_send_batch(self, slots: Any, /) -> int: ...  # an array of SLOT
    def poll(self, max_count: int = ..., /) -> Records: ...
    def status(self) -> dict[str, Any]: ...
    def latency(self) -> Snapshot: ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """When messages are sent: ``speed`` times as fast as recorded; None: as fast as they go."""

    speed: float | None = None

    def due_ns(self, recorded_ns: Int64Array) -> Int64Array:
        """Times after the start of the replay."""
        if self.speed is None:
            return np.zeros_like(recorded_ns)
        return np.asarray(recorded_ns / self.speed, np.int64)


class Lane:
    """One session, what it has to send and what came back."""

    def __init__(
        self, plan: SessionPlan, session: ReplaySession, schedule: Schedule, *, keep: bool = False
    ) -> None:
        """``keep``: hold every report, for a ledger."""
        self.name = plan.name
        self.session = session
        self.first_sequence = session.next_sequence
        self.slots = plan.numbered(self.first_sequence)
        self.kinds = plan.kinds
        self.due_ns = schedule.due_ns(plan.due_ns)
        self.late_ns = np.zeros(len(self.slots), np.int64)  #: sent after it was due
        self.tracker = FateTracker(as_new_orders(self.slots)["cl_ord_id"], self.first_sequence)
        self.sent_count = 0
        self.failure = ""  #: why this session stopped sending before its end
        self._received: list[Records] | None = [] if keep else None
        self._link_lost = False
        self._drained = False

    @property
    def unanswered_count(self) -> int:
        return self.sent_count - self.tracker.answered_count

    @property
    def sending(self) -> bool:
        return not self.failure and self.sent_count < len(self.slots)

    @property
    def done(self) -> bool:
        """Nothing more is sent, and nothing more is expected or can come."""
        return not self.sending and (
            self._drained if self._link_lost else not self.unanswered_count
        )

    @property
    def link_lost(self) -> bool:
        return self._link_lost

    def send_due(self, now_ns: int) -> int:
        """Sends what is due ``now_ns`` after the start; how many messages went out."""
        if not self.sending:
            return 0
        first = self.sent_count
        last = first + int(np.searchsorted(self.due_ns[first : first + _SEND_MAX], now_ns, "right"))
        if first == last:
            return 0
        try:
            self.session.try_send_batch(self.slots[first:last])
        except RdmaOrderError as error:
            # Late heartbeats refuse a send; they, and with them the link, may come again.
            if not isinstance(error, NotConnected) or self._link_state() in _OVER:
                self._fail(f"{type(error).__name__}: {error}", lost=not isinstance(error, Halted))
        finally:
            # Also when interrupted between the call and its result: the session knows.
            self.sent_count = self.session.next_sequence - self.first_sequence
        self.late_ns[first : self.sent_count] = now_ns - self.due_ns[first : self.sent_count]
        return self.sent_count - first

    def _link_state(self) -> str:
        return str(self.session.status()["state"]).lower()

    def check_link(self) -> None:
        """Notices a link that broke or was closed while reports are waited for."""
        if not self._link_lost and self._link_state() in _OVER:
            status = self.session.status()
            self._fail(f"link {status['state']}: {status['cause'] or 'no cause given'}", lost=True)

    def take_reports(self) -> int:
        """Takes in what has arrived; how many reports that was."""
        if self._drained:
            return 0
        try:
            reports = self.session.poll(_POLL_MAX)
        except RdmaOrderError as error:
            self._fail(f"{type(error).__name__}: {error}", lost=True)
            self._drained = True
            return 0
        if len(reports):
            if self._received is not None:
                self._received.append(reports.copy())
            self.tracker.add(reports)
        elif self._link_lost:
            self._drained = True
        return len(reports)

    def _fail(self, cause: str, *, lost: bool) -> None:
        """Ends sending. ``lost``: no answers come either, except those that are here already (a
        halted gateway takes no new orders but answers those it took)."""
        self.failure = self.failure or cause
        self._link_lost = self._link_lost or lost

    def received(self) -> Records:
        """Every report so far, in order of arrival (``keep``)."""
        return np.concatenate([np.zeros(0, REPORT_RECORD), *(self._received or [])])


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    elapsed_ns: int = 0  #: from the first send to the last report
    interrupted: bool = False
    timed_out: bool = False  #: nothing moved for the time allowed
    failures: list[str] = field(default_factory=list)


def _wait(lanes: list[Lane], now_ns: int) -> None:
    """Lets time pass when nothing could be done: asleep while nothing is expected."""
    next_due = min((int(lane.due_ns[lane.sent_count]) for lane in lanes if lane.sending), default=0)
    wait_ns = next_due - now_ns
    if wait_ns > _SLEEP_ABOVE_NS and not any(lane.unanswered_count for lane in lanes):
        time.sleep(min(wait_ns - _SLEEP_MARGIN_NS, _SLEEP_MAX_NS) / 1e9)
    else:
        os.sched_yield()


def drive(
    lanes: list[Lane], *, timeout_ns: int, notify: Callable[[int, int], None] | None = None
) -> Outcome:
    """Runs until every message has its answer, or nothing moves for ``timeout_ns``.

    Then listens a little longer for reports that should not come. A full ring is waited out; a
    session whose link breaks is given up and the others go on. ``notify(sent, answered)`` is called
    about ten times a second. KeyboardInterrupt ends the run and is told in the outcome.
    """
    outcome = Outcome()
    start_ns = time.monotonic_ns()
    last_report_ns = last_move_ns = notified_ns = checked_ns = 0
    try:
        while not all(lane.done for lane in lanes):
            now_ns = time.monotonic_ns() - start_ns
            sent = sum(lane.send_due(now_ns) for lane in lanes)
            taken = sum(lane.take_reports() for lane in lanes)
            if sent or taken:
                last_move_ns = now_ns
                last_report_ns = time.monotonic_ns() - start_ns if taken else last_report_ns
            else:
                if not _expecting(lanes, now_ns):
                    last_move_ns = now_ns
                elif now_ns - last_move_ns > timeout_ns:
                    outcome.timed_out = True
                    break
                if now_ns - max(last_move_ns, checked_ns) > _CHECK_AFTER_NS:
                    checked_ns = now_ns
                    for lane in lanes:
                        lane.check_link()
                _wait(lanes, now_ns)
            if notify is not None and now_ns - notified_ns >= _NOTIFY_EVERY_NS:
                notified_ns = now_ns
                notify(*_totals(lanes))
        _settle(lanes)
    except KeyboardInterrupt:
        outcome.interrupted = True
    if notify is not None:
        notify(*_totals(lanes))
    outcome.elapsed_ns = last_report_ns or time.monotonic_ns() - start_ns
    outcome.failures = [f"session {lane.name}: {lane.failure}" for lane in lanes if lane.failure]
    return outcome


def _settle(lanes: list[Lane]) -> None:
    """Takes reports in until none has come for a moment: a second answer follows the first."""
    quiet_since_ns = time.monotonic_ns()
    while time.monotonic_ns() - quiet_since_ns < _SETTLE_NS:
        if sum(lane.take_reports() for lane in lanes):
            quiet_since_ns = time.monotonic_ns()
        else:
            os.sched_yield()


def _expecting(lanes: list[Lane], now_ns: int) -> bool:
    """Whether anything should move now: an answer is due, or a message that did not go out."""
    return any(
        lane.unanswered_count or (lane.sending and lane.due_ns[lane.sent_count] <= now_ns)
        for lane in lanes
    )


def _totals(lanes: list[Lane]) -> tuple[int, int]:
    return (
        sum(lane.sent_count for lane in lanes),
        sum(lane.tracker.answered_count for lane in lanes),
    )
