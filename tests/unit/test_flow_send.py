"""What was sent, what came back, and what became of each message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flow_support import read_csv

from rdmaorder.errors import Halted, NotConnected
from rdmaorder.flow.fates import FateTracker, fate_name
from rdmaorder.flow.latency import Latency
from rdmaorder.flow.plan import make_plan
from rdmaorder.flow.report import ReplayReport, summarise
from rdmaorder.flow.send import Lane, Outcome, Schedule, drive
from rdmaorder.messages import (
    REPORT_RECORD,
    ExecType,
    Reason,
    as_new_orders,
)

# --- fates --------------------------------------------------------------------------------------


def reports(*rows: tuple[int, int, ExecType, int], start: int = 1) -> Any:
    """(order_sequence, cl_ord_id, exec_type, reason) each, with consecutive report sequences."""
    out = np.zeros(len(rows), REPORT_RECORD)
    for record, (order, cl_ord_id, kind, reason) in zip(out, rows, strict=True):
        record["order_sequence"], record["cl_ord_id"] = order, cl_ord_id
        record["exec_type"], record["reason"] = kind, reason
    out["sequence"] = np.arange(start, start + len(rows))
    return out


def tracker(count: int, first: int = 1) -> FateTracker:
    return FateTracker(np.arange(first, first + count, dtype=np.uint64), first)


def test_the_first_report_is_the_answer_and_later_ones_are_events() -> None:
    fates = tracker(3, first=10)
    fates.add(reports((10, 10, ExecType.NEW, 0), (10, 10, ExecType.EXPIRED, Reason.NO_LIQUIDITY)))
    fates.add(reports((11, 11, ExecType.REJECTED, Reason.TOO_LATE), start=3))
    fates.add(reports((10, 10, ExecType.TRADE, 0), (10, 10, ExecType.TRADE, 0), start=4))
    assert fates.fates(3) == {"accepted": 1, "rejected:too_late": 1}
    assert fates.events == {"expired:no_liquidity": 1, "filled": 2}
    assert (fates.answered_count, fates.duplicated_count) == (2, 0)
    assert fates.unanswered(3, applied_sequence=12) == (1, 0)
    assert fates.unanswered(3, applied_sequence=11) == (0, 1)
    assert fates.unanswered(3, applied_sequence=None) == (0, 1)


@pytest.mark.parametrize("split", [False, True])
def test_a_second_answer_is_a_duplicate_in_one_batch_and_across_batches(split: bool) -> None:
    fates = tracker(2)
    twice = reports((1, 1, ExecType.NEW, 0), (1, 1, ExecType.NEW, 0))
    for batch in (twice[:1], twice[1:]) if split else (twice,):
        fates.add(batch)
    assert (fates.duplicated_count, fates.answered_count) == (1, 1)


def test_a_report_sequence_that_comes_again_is_a_duplicate_and_not_taken() -> None:
    fates = tracker(2)
    batch = reports((1, 1, ExecType.NEW, 0), (2, 2, ExecType.NEW, 0))
    fates.add(batch)
    fates.add(batch[1:])
    assert (fates.duplicated_count, fates.fates(2)) == (1, {"accepted": 2})


def test_reports_for_others_and_under_a_wrong_cl_ord_id_are_noticed() -> None:
    fates = tracker(2, first=5)
    fates.add(reports((4, 4, ExecType.NEW, 0), (5, 6, ExecType.NEW, 0), (7, 7, ExecType.NEW, 0)))
    assert (fates.foreign_count, fates.mismatched_count, fates.answered_count) == (2, 1, 1)


def test_values_without_a_name_are_shown_as_numbers() -> None:
    assert fate_name(ExecType.CANCELED, Reason.KILL) == "canceled:kill"
    assert fate_name(7, 200) == "exec_type_7:reason_200"


# --- sending ------------------------------------------------------------------------------------


class FakeHistogram:
    """As Session.latency() gives it, with three buckets."""

    def __init__(self, counts: list[int], least: int = 0, most: int = 0) -> None:
        self.counts = np.array(counts, np.uint64)
        self.min, self.max = least, most

    def bucket_uppers(self) -> Any:
        return np.array([10, 20, 30], np.uint64)


class FakeSession:
    """A gateway behind a ring of ``room`` slots that answers ``per_poll`` messages a poll."""

    def __init__(self, room: int = 4, per_poll: int = 3, first: int = 1) -> None:
        self.next_sequence = first
        self.room, self.per_poll = room, per_poll
        self.taken: list[Any] = []
        self.waiting: list[tuple[int, int]] = []
        self.report_sequence = 1
        self.swallow: set[int] = set()
        self.repeat: set[int] = set()
        self.fail_at: tuple[int, Exception] | None = None
        self.state, self.suspect_for = "live", 0

    def try_send_batch(self, messages: Any, /) -> int:
        if self.suspect_for:
            self.suspect_for -= 1
            self.state = "suspect" if self.suspect_for else "live"
            raise NotConnected("heartbeats are late")
        if self.fail_at is not None and self.next_sequence >= self.fail_at[0]:
            self.state = "live" if isinstance(self.fail_at[1], Halted) else "dead"
            raise self.fail_at[1]
        count = min(len(messages), self.room - len(self.waiting))
        if self.fail_at is not None:
            count = min(count, self.fail_at[0] - self.next_sequence)
        for message in as_new_orders(messages[:count]):
            self.taken.append(message.copy())
            self.waiting.append((self.next_sequence, int(message["cl_ord_id"])))
            self.next_sequence += 1
        return count

    def poll(self, max_count: int = 256, /) -> Any:
        out = []
        for sequence, cl_ord_id in self.waiting[: self.per_poll]:
            if sequence not in self.swallow:
                out.append((sequence, cl_ord_id, ExecType.NEW, 0))
            if sequence in self.repeat:
                out.append((sequence, cl_ord_id, ExecType.NEW, 0))
        del self.waiting[: self.per_poll]
        batch = reports(*out, start=self.report_sequence)
        self.report_sequence += len(batch)
        return batch

    def status(self) -> dict[str, Any]:
        applied = self.next_sequence - 1 - len(self.waiting)
        return {"state": self.state, "cause": "", "applied": applied}

    def latency(self) -> Any:
        return FakeHistogram([1, 0, 1], 3, 25)


def run_fake(
    tmp_path: Path, *sessions: FakeSession, rows: int = 40, timeout_ns: int = 100_000_000
) -> tuple[ReplayReport, Outcome, list[Lane]]:
    flow = read_csv(tmp_path, "".join(f"{i},N,{i},B,1,{i + 1},\n" for i in range(rows)))
    plans = make_plan(flow, len(sessions))
    schedule = Schedule()
    pairs = zip(plans, sessions, strict=True)
    lanes = [Lane(plan, session, schedule, keep=True) for plan, session in pairs]
    outcome = drive(lanes, timeout_ns=timeout_ns)
    rtt = Latency.merged(session.latency() for session in sessions)
    return summarise(flow, lanes, outcome, schedule, rtt), outcome, lanes


def test_every_message_passes_small_rings_once_and_in_order(tmp_path: Path) -> None:
    sessions = [FakeSession(room=2, per_poll=1), FakeSession(room=5, first=100)]
    report, outcome, lanes = run_fake(tmp_path, *sessions)
    assert report.complete
    assert (report.sent, report.fates, report.failures) == (40, {"accepted": 40}, [])
    assert (report.lost, report.duplicated, report.unknown) == (0, 0, 0)
    assert not outcome.timed_out
    for lane, session in zip(lanes, sessions, strict=True):
        sent = [int(message["cl_ord_id"]) for message in session.taken]
        assert sent == list(range(lane.first_sequence, lane.first_sequence + len(sent)))
        assert len(lane.received()) == lane.sent_count
    assert report.to_json()["rtt_ns"] == {
        "min": 3, "p50": 10, "p90": 25, "p99": 25, "p99_9": 25, "max": 25
    }  # fmt: skip


def test_an_answer_that_never_comes_is_lost_when_the_gateway_took_the_message(
    tmp_path: Path,
) -> None:
    session = FakeSession()
    session.swallow = {7, 8}
    report, outcome, _ = run_fake(tmp_path, session)
    assert outcome.timed_out
    assert (report.lost, report.unknown, report.complete) == (2, 0, False)
    assert report.sent == sum(report.fates.values()) + report.lost


def test_an_answer_that_comes_twice_is_counted(tmp_path: Path) -> None:
    session = FakeSession()
    session.repeat = {40}  # also of the last message, after everything is answered
    report, _, _ = run_fake(tmp_path, session)
    assert (report.duplicated, report.lost, report.complete) == (1, 0, False)


def test_a_gateway_that_stops_taking_ends_the_run_with_what_there_is(tmp_path: Path) -> None:
    session = FakeSession(room=4, per_poll=0)
    report, outcome, _ = run_fake(tmp_path, session)
    assert outcome.timed_out
    assert (report.sent, report.planned, report.unknown, report.complete) == (4, 40, 4, False)


def test_a_link_that_breaks_leaves_unknowns_and_the_other_sessions_go_on(tmp_path: Path) -> None:
    broken, whole = FakeSession(room=3, per_poll=0), FakeSession()
    broken.fail_at = (4, NotConnected("the gateway is gone"))
    report, outcome, lanes = run_fake(tmp_path, broken, whole)
    assert (lanes[0].sent_count, report.unknown, report.lost) == (3, 3, 0)
    assert lanes[1].sent_count == len(lanes[1].slots)
    assert outcome.failures == ["session replay-1: NotConnected: the gateway is gone"]
    assert not report.complete


def test_a_halted_gateway_still_answers_what_it_took(tmp_path: Path) -> None:
    session = FakeSession()
    session.fail_at = (11, Halted("kill switch"))
    report, outcome, _ = run_fake(tmp_path, session)
    assert (report.sent, report.fates, report.unknown) == (10, {"accepted": 10}, 0)
    assert not outcome.timed_out
    assert not report.complete


def test_a_link_that_is_suspect_for_a_while_is_waited_for(tmp_path: Path) -> None:
    session = FakeSession()
    session.state, session.suspect_for = "suspect", 5
    report, _, _ = run_fake(tmp_path, session)
    assert report.complete


def test_a_link_that_dies_while_answers_are_awaited_ends_the_run(tmp_path: Path) -> None:
    session = FakeSession(room=100, per_poll=0)
    session.state = "dead"
    report, outcome, _ = run_fake(tmp_path, session, timeout_ns=60_000_000_000)
    assert (report.unknown, outcome.timed_out) == (40, False)
    assert "link dead" in outcome.failures[0]


def test_an_interrupt_keeps_what_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = FakeSession(room=100)
    polls = 0

    def interrupted(max_count: int = 256, /) -> Any:
        nonlocal polls
        polls += 1
        if polls == 3:
            raise KeyboardInterrupt
        return FakeSession.poll(session, max_count)

    monkeypatch.setattr(session, "poll", interrupted)
    report, _, _ = run_fake(tmp_path, session)
    assert report.interrupted
    assert (report.sent, report.fates, report.complete) == (40, {"accepted": 6}, False)


def test_a_recorded_pace_sends_nothing_before_it_is_due(tmp_path: Path) -> None:
    flow = read_csv(tmp_path, "0,N,a,B,1,1,\n20000000,N,b,B,1,1,\n")
    schedule = Schedule(2.0)
    session = FakeSession()
    lane = Lane(make_plan(flow, 1)[0], session, schedule)
    assert lane.due_ns.tolist() == [0, 10_000_000]
    assert lane.send_due(9_999_999) == 1
    assert lane.send_due(10_000_500) == 1
    assert lane.late_ns.tolist() == [9_999_999, 500]
    assert session.next_sequence == 3


def test_a_paced_run_takes_at_least_as_long_as_its_schedule(tmp_path: Path) -> None:
    flow = read_csv(tmp_path, "0,N,a,B,1,1,\n60000000,N,b,B,1,1,\n")
    schedule = Schedule(2.0)
    lanes = [Lane(make_plan(flow, 1)[0], FakeSession(), schedule)]
    outcome = drive(lanes, timeout_ns=1_000_000)  # shorter than the gap: waiting is no stall
    assert outcome.elapsed_ns >= 30_000_000
    report = summarise(flow, lanes, outcome, schedule, Latency.merged([]))
    assert report.complete
    assert report.late_ns is not None
    assert set(report.late_ns) == {"p50", "p99", "max"}
