"""Handshake and recovery against a model of ten lines, over whatever hypothesis thinks of.

A real gateway with a journal and real sessions over shared memory; the model is two lists and three
numbers. Each rule does one thing to both and compares what can be seen.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from gateway_support import LENIENT, PATIENCE_S, batch_of, eventually, take
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import rdmaorder as ro
from rdmaorder import journal
from rdmaorder.messages import FLAG_POSS_RESEND, SessionEventKind

has_session = precondition(lambda self: self.session is not None)
no_session = precondition(lambda self: self.session is None)


class Recovery(RuleBasedStateMachine):
    """One session of one gateway, through links, closes, restarts and claims of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rdmaorder-model-"))
        self.gateway = self.start()
        self.session: ro.Session | None = None
        # the model
        self.next_sequence = 1  #: of the next order
        self.answered: list[int] = []  #: order sequence of each report, from report 1 on
        self.next_report = 1  #: the first report that the live session has not polled
        self.polled = 0  #: the last report that was ever polled, or said to have been
        self.not_applied: list[tuple[int, int]] = []  #: (from, count) that was not told yet

    def start(self) -> ro.Gateway:
        return ro.Gateway(
            listen=f"shm://{self.folder}/gw.sock",
            journal=str(self.folder / "journal"),
            segment_mib=1,
            idle="backoff",
        ).start()

    def teardown(self) -> None:
        if self.session is not None:
            self.session.close(0)
        self.gateway.stop()
        checked = journal.verify(self.folder / "journal")
        assert checked.ok
        if checked.sessions:
            kept = journal.Journal(self.folder / "journal")
            assert kept.orders("alpha")["sequence"].tolist() == self.answered
            assert kept.reports("alpha")["order_sequence"].tolist() == self.answered
        shutil.rmtree(self.folder)

    def connect(self, **claims: Any) -> ro.Session:
        return ro.connect(self.gateway.url, "alpha", **LENIENT | claims)

    # -- a strategy begins -----------------------------------------------------------------------

    @no_session
    @rule()
    def take_the_gateways_word(self) -> None:
        self.session = self.connect()
        self.give_up_earlier_reports()

    @no_session
    @rule(data=st.data())
    def ask_for_reports_from(self, data: st.DataObject) -> None:
        self.begin_with_report(data.draw(st.integers(1, len(self.answered) + 1)))

    def begin_with_report(self, sequence: int) -> None:
        """Who names the next report has the earlier ones, the gateway takes it."""
        self.next_report = sequence
        self.polled = max(self.polled, sequence - 1)
        self.session = self.connect(next_report_sequence=sequence)

    @no_session
    @rule()
    def resume(self) -> None:
        """Never skips a report that was not polled; may repeat some that were."""
        self.session = self.connect(resume=True)
        first = int(self.session.status()["next_report_sequence"])
        assert 1 <= first <= self.polled + 1
        self.next_report = first

    @no_session
    @rule(gap=st.integers(1, 40))
    def claim_orders_that_never_arrived(self, gap: int) -> None:
        self.session = self.connect(next_sequence=self.next_sequence + gap)
        self.not_applied.append((self.next_sequence, gap))
        self.next_sequence += gap
        self.give_up_earlier_reports()

    @no_session
    @rule(back=st.integers(1, 40))
    def claim_to_be_behind(self, back: int) -> None:
        self.session = self.connect(next_sequence=max(1, self.next_sequence - back))
        self.give_up_earlier_reports()

    def give_up_earlier_reports(self) -> None:
        """A link that asks for no report takes only what comes; the rest counts as taken."""
        self.next_report = len(self.answered) + 1
        self.polled = len(self.answered)

    # -- it works --------------------------------------------------------------------------------

    @has_session
    @rule(count=st.integers(1, 100))
    def send(self, count: int) -> None:
        assert self.session is not None
        assert self.session.send_batch(batch_of(count, self.next_sequence)) == count
        last = self.next_sequence + count - 1
        assert self.session.wait_applied(last, PATIENCE_S)
        self.answered += range(self.next_sequence, last + 1)
        self.next_sequence = last + 1

    @has_session
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        assert self.session is not None
        waiting = len(self.answered) - self.next_report + 1
        count = data.draw(st.integers(0, waiting))
        reports = take(self.session, count)
        first = self.next_report
        assert reports["sequence"].tolist() == list(range(first, first + count))
        expected = self.answered[first - 1 : first - 1 + count]
        assert reports["order_sequence"].tolist() == expected
        assert reports["cl_ord_id"].tolist() == expected
        again = reports["sequence"] <= self.polled
        assert (reports["flags"][again] & FLAG_POSS_RESEND).all(), "what comes again is marked"
        self.next_report += count
        self.polled = max(self.polled, self.next_report - 1)

    @has_session
    @rule()
    def hear(self) -> None:
        assert self.session is not None
        events = self.session.events()
        told = [
            (e.from_sequence, e.count) for e in events if e.kind == SessionEventKind.NOT_APPLIED
        ]
        assert told == self.not_applied
        assert SessionEventKind.REPORTS_LOST not in [event.kind for event in events]
        self.not_applied = []

    @has_session
    @rule()
    def intrude(self) -> None:
        with pytest.raises(ro.Refused) as refusal:
            self.connect()
        assert refusal.value.code == "DuplicateId"

    # -- it ends, one way or another --------------------------------------------------------------

    @has_session
    @rule()
    def reconnect(self) -> None:
        assert self.session is not None
        self.session.reconnect(PATIENCE_S)

    @has_session
    @rule(gracefully=st.booleans())
    def close(self, gracefully: bool) -> None:
        assert self.session is not None
        closed = self.session.close(PATIENCE_S if gracefully else 0)
        assert closed or not gracefully
        self.session = None
        self.not_applied = []
        eventually(  # until the gateway has seen the end, the name is taken
            lambda: (
                not any(each["live"] for each in self.gateway.sessions() if each["name"] == "alpha")
            ),
            "the link is detached",
        )

    @rule()
    def restart_the_gateway(self) -> None:
        self.gateway.stop()
        del self.gateway
        gc.collect()  # the journal is closed with the last reference to its gateway
        self.gateway = self.start()
        if self.session is not None:
            self.session.reconnect(PATIENCE_S)

    # -- always ----------------------------------------------------------------------------------

    @invariant()
    def next_sequences_agree(self) -> None:
        if self.session is not None:
            assert self.session.next_sequence == self.next_sequence
        known = [each for each in self.gateway.sessions() if each["name"] == "alpha"]
        if known:
            assert known[0]["next_order_sequence"] == self.next_sequence
            assert known[0]["next_report_sequence"] == len(self.answered) + 1


Recovery.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestRecoveryModel = Recovery.TestCase


def test_resume_gives_what_a_replay_gave_to_nobody_before_a_restart() -> None:
    machine = Recovery()
    try:
        machine.take_the_gateways_word()
        machine.send(3)
        machine.reconnect()  # its link begins with report 1, which stays unpolled
        machine.restart_the_gateway()
        machine.close(gracefully=False)
        machine.resume()
        assert machine.next_report == 1
        assert machine.session is not None
        assert take(machine.session, 3)["sequence"].tolist() == [1, 2, 3]
    finally:
        machine.teardown()


def test_resume_goes_on_behind_the_reports_that_a_strategy_named() -> None:
    machine = Recovery()
    try:
        machine.take_the_gateways_word()
        machine.send(3)
        machine.close(gracefully=False)
        machine.begin_with_report(3)  # it says that it has two; the third stays unpolled
        machine.close(gracefully=False)
        machine.resume()
        assert machine.next_report == 3
    finally:
        machine.teardown()


def test_a_model_that_is_wrong_is_contradicted() -> None:
    machine = Recovery()
    try:
        machine.take_the_gateways_word()
        machine.send(3)
        machine.next_sequences_agree()
        machine.next_sequence += 1
        with pytest.raises(AssertionError):
            machine.next_sequences_agree()
        machine.next_sequence -= 1
    finally:
        machine.teardown()
