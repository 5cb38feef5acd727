"""The verdict sees every way in which a ledger and a journal can disagree."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdmaorder.errors import InputError
from rdmaorder.flow.ledger import SessionLedger, load_ledger, save_ledger
from rdmaorder.flow.reconcile import JournalSession, Verdict, group_journal, reconcile
from rdmaorder.journal import RECORD, RecordKind
from rdmaorder.messages import (
    REPORT_RECORD,
    SLOT,
    ExecType,
    Reason,
    TemplateId,
    as_new_orders,
    new_orders,
)

FIRST = 2**32 - 2  # order sequences cross the 32 bits that a report carries


def make_ledger(count: int = 5, name: str = "alpha", first: int = FIRST) -> SessionLedger:
    """``count`` new orders and their acceptances."""
    sent = new_orders(count)
    sent["cl_ord_id"] = np.arange(first, first + count)
    sent["quantity"], sent["price"], sent["side"] = 7, 10**9, 1
    received = np.zeros(count, REPORT_RECORD)
    received["order_sequence"] = received["cl_ord_id"] = sent["cl_ord_id"]
    received["order_sequence_low"] = sent["cl_ord_id"] & 0xFFFFFFFF
    received["exec_type"], received["quantity"] = ExecType.NEW, 7
    received["sequence"] = np.arange(1, count + 1)
    return SessionLedger(name, first, sent.view(SLOT), received)


def as_bytes(records: Any) -> Any:
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def journal_of(ledger: SessionLedger) -> JournalSession:
    """The journal of a gateway that saw exactly this."""
    count = len(ledger.received)
    reports = np.zeros((count, 56), np.uint8)
    reports[:, :4] = [48, 0, TemplateId.EXECUTION_REPORT, 0]
    reports[:, 8:] = as_bytes(ledger.received)[:, 8:56]
    return JournalSession(
        np.arange(len(ledger.sent), dtype=np.int64) + ledger.first_sequence,
        as_bytes(ledger.sent)[:, :56].copy(),
        ledger.received["sequence"].astype(np.int64),
        reports,
    )


def check(ledger: SessionLedger, journal: JournalSession) -> Verdict:
    return reconcile([ledger], {ledger.name: journal})


def drop(journal: JournalSession, row: int, *names: str) -> None:
    for name in names:
        setattr(journal, name, np.delete(getattr(journal, name), row, axis=0))


def repeat(journal: JournalSession, row: int, *names: str) -> None:
    for name in names:
        column = getattr(journal, name)
        setattr(journal, name, np.concatenate([column, column[row : row + 1]]))


ORDERS, REPORTS = ("order_sequences", "orders"), ("report_sequences", "reports")


def test_what_agrees_passes_and_is_counted() -> None:
    ledger = make_ledger()
    verdict = check(ledger, journal_of(ledger))
    assert verdict.agrees
    assert (verdict.sent, verdict.journalled, verdict.orders_equal) == (5, 5, 5)
    assert (verdict.received, verdict.reports_journalled, verdict.reports_equal) == (5, 5, 5)
    assert verdict.answered == 5
    assert verdict.to_json()["verdict"] == "PASS"


def test_a_message_that_is_not_in_the_journal_is_found() -> None:
    ledger = make_ledger()
    journal = journal_of(ledger)
    drop(journal, 2, *ORDERS)
    verdict = check(ledger, journal)
    assert verdict.differences == [f"session alpha: sent but not in the journal: order {FIRST + 2}"]
    assert (verdict.orders_equal, verdict.to_json()["verdict"]) == (4, "FAIL")


def test_a_message_that_is_twice_in_the_journal_or_was_never_sent_is_found() -> None:
    ledger = make_ledger()
    journal = journal_of(ledger)
    repeat(journal, 1, *ORDERS)
    assert check(ledger, journal).differences == [
        f"session alpha: more than once in the journal: order {FIRST + 1}"
    ]
    assert check(ledger, journal).orders_equal == 4
    journal.order_sequences[-1] = FIRST + 99
    assert check(ledger, journal).differences == [
        f"session alpha: in the journal, never sent: order {FIRST + 99}"
    ]


def test_a_changed_byte_of_a_message_is_named_by_its_field() -> None:
    ledger = make_ledger()
    journal = journal_of(ledger)
    as_new_orders(ledger.sent)["quantity"][3] = 8
    verdict = check(ledger, journal)
    assert verdict.differences == [
        f"session alpha, order {FIRST + 3}: quantity is 8 as sent, 7 in the journal"
    ]
    assert verdict.orders_equal == 4


@pytest.mark.parametrize("offset", range(56))
def test_no_byte_of_a_message_or_report_escapes(offset: int) -> None:
    ledger = make_ledger()
    orders, reports = journal_of(ledger), journal_of(ledger)
    orders.orders[1, offset] ^= 0x40
    assert not check(ledger, orders).agrees
    if offset >= 8:  # the header of a report does not reach the strategy
        reports.reports[1, offset] ^= 0x40
        assert not check(ledger, reports).agrees


def test_reports_missing_on_either_side_are_found() -> None:
    ledger = make_ledger()
    journal = journal_of(ledger)
    drop(journal, 4, *REPORTS)
    assert check(ledger, journal).differences == [
        "session alpha: received but not in the journal: report 5"
    ]
    journal = journal_of(ledger)
    ledger.received = np.delete(ledger.received, 0)
    assert check(ledger, journal).differences == [
        "session alpha: in the journal, not received: report 1",
        "session alpha: 1 messages have no answer",
    ]


def test_a_report_that_came_twice_is_found() -> None:
    ledger = make_ledger()
    journal = journal_of(ledger)
    ledger.received = np.concatenate([ledger.received, ledger.received[:1]])
    assert check(ledger, journal).differences == ["session alpha: 1 reports came twice"]


def test_an_answer_with_another_cl_ord_id_is_found_even_where_both_sides_have_it() -> None:
    ledger = make_ledger()
    ledger.received["cl_ord_id"][0] = 77
    verdict = check(ledger, journal_of(ledger))
    assert verdict.differences == ["session alpha: 1 answers carry another message's ClOrdID"]


def test_a_record_widened_to_another_order_is_found() -> None:
    ledger = make_ledger()
    journal = journal_of(ledger)
    ledger.received["order_sequence"][1] += 2**32
    verdict = check(ledger, journal)
    assert any("order_sequence is not the one in the journal" in d for d in verdict.differences)


def test_what_came_before_the_run_and_other_sessions_are_left_aside() -> None:
    ledger = make_ledger()
    earlier = make_ledger(3, first=FIRST - 3)
    earlier.received["sequence"] = [1, 2, 3]
    ledger.received["sequence"] += 3
    run, before = journal_of(ledger), journal_of(earlier)
    for name in (*ORDERS, *REPORTS):
        both = np.concatenate([getattr(before, name), getattr(run, name)])
        setattr(run, name, both)
    verdict = reconcile([ledger], {"alpha": run, "beta": before})
    assert verdict.agrees
    assert (verdict.earlier, verdict.other_sessions, verdict.journalled) == (3, 1, 5)


def test_cancels_on_the_end_of_the_session_may_be_missing_but_no_other_event() -> None:
    ledger = make_ledger()
    journal = journal_of(ledger)
    repeat(journal, 0, *REPORTS)
    journal.report_sequences[-1] = 6
    journal.reports[-1, 8 + 46] = Reason.DISCONNECT
    verdict = check(ledger, journal)
    assert (verdict.agrees, verdict.after_end) == (True, 1)
    journal.reports[-1, 8 + 46] = Reason.NONE
    assert not check(ledger, journal).agrees


def test_a_session_the_journal_does_not_know_fails() -> None:
    verdict = reconcile([make_ledger()], {})
    assert (verdict.agrees, verdict.difference_count) == (False, 5)


def test_many_differences_are_counted_and_the_first_few_told() -> None:
    ledger = make_ledger(100)
    journal = journal_of(ledger)
    journal.orders[:, 24] ^= 1
    verdict = check(ledger, journal)
    assert (verdict.difference_count, len(verdict.differences)) == (100, 10)


def test_journal_records_are_grouped_by_session_across_batches() -> None:
    ledger = make_ledger()
    expected = journal_of(ledger)
    records = np.zeros(1 + 5 + 5, RECORD)
    raw = np.zeros((len(records), 64), np.uint8)
    raw[0, :5] = list(b"alpha")
    raw[1:6, :56], raw[6:, :56] = expected.orders, expected.reports
    records["session_index"] = 4
    records["payload"] = raw.reshape(-1).view("V64")
    records["payload_bytes"][0], records["payload_bytes"][1:] = 5, 56
    records["kind"] = [RecordKind.SESSION] + [RecordKind.ORDER] * 5 + [RecordKind.REPORT] * 5
    records["sequence"][1:6] = expected.order_sequences
    records["sequence"][6:] = expected.report_sequences
    for cuts in ([11], [1, 4, 8, 11]):
        batches = np.split(records, cuts[:-1])
        assert reconcile([ledger], group_journal(batches)).agrees
    assert group_journal([]) == {}


def test_a_session_name_that_is_no_text_is_shown_as_it_is() -> None:
    records = np.zeros(1, RECORD)
    records["kind"], records["payload_bytes"], records["payload"] = RecordKind.SESSION, 2, b"a\xff"
    assert list(group_journal([records])) == ["a\\xff"]


def test_a_ledger_comes_back_as_it_was_written(tmp_path: Path) -> None:
    ledgers = [make_ledger(), make_ledger(0, "empty", 1)]
    save_ledger(tmp_path / "l.npz", ledgers)
    for written, read in zip(ledgers, load_ledger(tmp_path / "l.npz"), strict=True):
        assert (read.name, read.first_sequence) == (written.name, written.first_sequence)
        assert (as_bytes(read.sent) == as_bytes(written.sent)).all()
        assert (as_bytes(read.received) == as_bytes(written.received)).all()
        assert (read.sent.dtype, read.received.dtype) == (SLOT, REPORT_RECORD)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off", b"\x93NUMPY"])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "l.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"l\.npz: "):
        load_ledger(tmp_path / "l.npz")
    np.savez(tmp_path / "other.npz", version=np.array(9))
    with pytest.raises(InputError, match="version 9"):
        load_ledger(tmp_path / "other.npz")
    with pytest.raises(InputError, match="cannot be read"):
        load_ledger(tmp_path / "missing.npz")


@pytest.mark.parametrize("rows", ["9" * 15, "9" * 30, "("], ids=["memory", "number", "syntax"])
def test_a_ledger_whose_arrays_cannot_be_is_refused(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "l.npz"
    save_ledger(path, [make_ledger()])
    with zipfile.ZipFile(path) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w") as stored:
        for name, part in parts.items():
            # The header keeps its length: the spaces at its end give way.
            head, shape, rest = part.partition(b"'shape': (")
            grown = rows.encode() + rest.replace(b" " * len(rows), b"", 1)
            stored.writestr(name, head + shape + grown if name == "sent_0.npy" else part)
    with pytest.raises(InputError, match=r"l\.npz: is no ledger of a replay"):
        load_ledger(path)
