"""The auditor of the fault suite finds each kind of violation in files that were tampered with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdmaorder.chaos.audit import KINDS, Verdict, audit
from rdmaorder.chaos.ledger import EntryState, Log, open_logs
from rdmaorder.chaos.plan import make_plan
from rdmaorder.chaos.supervisor import RunSettings, Supervisor
from rdmaorder.journal import Journal, RecordKind, Writer
from rdmaorder.messages import Records

ORDERS = 400

#: journal records, changed: the rows a gateway would have to have written for the violation
Tamper = Callable[[Records], Records]


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run that went well: with a death of each side, so that all fates occur."""
    folder = tmp_path_factory.mktemp("chaos")
    listen = f"shm://{folder}/gateway.sock"
    plan = make_plan({"gateway-kill": 1, "strategy-kill": 1}, seed=5)
    settings = RunSettings(folder, 5, ORDERS, plan, listen, listen)
    outcome = Supervisor(settings).execute()
    assert outcome.failures == []
    assert outcome.kills == 2
    return folder


@pytest.fixture
def run(clean_run: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    for name in ("ledger", "reports", "links"):
        shutil.copy(clean_run / name, tmp_path / name)
    shutil.copytree(clean_run / "journal", tmp_path / "journal")
    return tmp_path


def rewrite(folder: Path, tamper: Tamper) -> None:
    """The journal anew, from its changed records."""
    records = tamper(Journal(folder / "journal").records.copy())
    shutil.rmtree(folder / "journal")
    with Writer(str(folder / "journal"), segment_bytes=1 << 20, sync="none") as writer:
        for record in records:
            payload = record["payload"].tobytes()[: int(record["payload_bytes"])]
            writer.append(
                int(record["kind"]),
                payload,
                session_index=int(record["session_index"]),
                sequence=int(record["sequence"]),
                time_ns=int(record["time_ns"]),
                detail=int(record["detail"]),
            )


def orders_of(records: Records) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.flatnonzero(records["kind"] == RecordKind.ORDER)


def blamed(verdict: Verdict) -> set[str]:
    return {kind for kind in KINDS if verdict.violations[kind]}


def seen_log(folder: Path) -> Log:
    return open_logs(folder)[1]


def test_a_run_that_went_well_is_clean(run: Path) -> None:
    verdict = audit(run)
    assert verdict.details == []
    assert verdict.clean
    assert verdict.orders >= ORDERS
    assert sum(verdict.fates.values()) == verdict.orders


def test_journal_bytes_rewritten_unchanged_are_clean(run: Path) -> None:
    rewrite(run, lambda records: records)
    assert audit(run).clean


def test_an_order_that_vanished_from_the_journal_is_lost(run: Path) -> None:
    def drop(records: Records) -> Records:
        return np.delete(records, orders_of(records)[7])

    rewrite(run, drop)
    verdict = audit(run)
    assert blamed(verdict) == {"lost"}
    assert verdict.violations["lost"] == 1


def test_an_order_without_journal_and_report_is_lost(run: Path) -> None:
    ledger, _, _ = open_logs(run)
    row = int(np.flatnonzero(ledger.written["state"] == EntryState.SENT)[-1])
    ledger.append(ledger.written[row : row + 1].copy())
    verdict = audit(run)
    assert blamed(verdict) == {"lost"}
    assert verdict.details == [f"lost: no fate: {ledger.count}"]


def test_an_order_that_is_journalled_twice_is_duplicated(run: Path) -> None:
    def repeat(records: Records) -> Records:
        row = orders_of(records)[7]
        return np.insert(records, row, records[row])

    rewrite(run, repeat)
    assert blamed(audit(run)) == {"duplicated"}


def test_an_order_that_is_answered_twice_is_duplicated(run: Path) -> None:
    """As a gateway would do that gave a recovered order to the venue although it was answered."""
    journal = Journal(run / "journal")
    reports = np.flatnonzero(journal.records["kind"] == RecordKind.REPORT)
    log = seen_log(run)
    last = int(log.written["sequence"].max())

    def answer_again(records: Records) -> Records:
        again = records[reports[3]].copy()
        again["sequence"] = last + 1
        return np.append(records, again)

    rewrite(run, answer_again)
    repeated = log.written[3:4].copy()
    repeated["sequence"] = last + 1
    log.append(repeated)
    assert blamed(audit(run)) == {"duplicated"}


def test_a_report_that_is_delivered_twice_is_duplicated(run: Path) -> None:
    log = seen_log(run)
    log.append(log.written[-1:].copy())
    assert blamed(audit(run)) == {"duplicated"}


def test_two_orders_that_change_places_are_reordered(run: Path) -> None:
    def swap(records: Records) -> Records:
        first, second = orders_of(records)[10:12]
        for field in ("payload", "time_ns"):
            a, b = records[field][first].copy(), records[field][second].copy()
            records[field][first], records[field][second] = b, a
        return records

    rewrite(run, swap)
    assert blamed(audit(run)) == {"reordered"}


def test_reports_that_change_places_are_reordered(run: Path) -> None:
    log = seen_log(run)
    log.rows[[4, 5]] = log.rows[[5, 4]]
    assert blamed(audit(run)) == {"reordered"}


@pytest.mark.parametrize("byte", [3, 20, 55])
def test_a_changed_byte_of_an_order_is_corrupted(run: Path, byte: int) -> None:
    ledger, _, _ = open_logs(run)
    kept = set(Journal(run / "journal").orders("strategy")["cl_ord_id"].tolist())
    row = next(number - 1 for number in range(5, ledger.count) if number in kept)
    message = bytearray(ledger.written["message"][row].tobytes())
    message[byte] ^= 0x10
    ledger.rows["message"][row] = np.void(bytes(message))
    assert blamed(audit(run)) == {"corrupted"}


def test_a_changed_report_is_corrupted(run: Path) -> None:
    seen_log(run).rows["leaves_quantity"][6] += 1
    assert blamed(audit(run)) == {"corrupted"}


def test_an_order_that_no_ledger_knows_is_corrupted(run: Path) -> None:
    def invent(records: Records) -> Records:
        invented = records[orders_of(records)[-1]].copy()
        payload = bytearray(invented["payload"].tobytes())
        payload[8:16] = (10**9).to_bytes(8, "little")
        invented["payload"] = np.void(bytes(payload))
        return np.append(records, invented)

    rewrite(run, invent)
    assert blamed(audit(run)) == {"corrupted"}


def test_an_applied_order_that_the_strategy_was_told_is_not_is_unknown(run: Path) -> None:
    ledger, _, _ = open_logs(run)
    row = int(np.flatnonzero(ledger.written["state"] == EntryState.SENT)[0])
    for state in (EntryState.NOT_APPLIED, EntryState.REFUSED):
        ledger.rows["state"][row] = state
        assert blamed(audit(run)) == {"unknown"}


def test_reports_that_never_arrived_leave_an_order_unknown_and_are_lost(run: Path) -> None:
    log = seen_log(run)
    with (run / "reports").open("r+b") as file:  # the count stands first
        file.write((log.count - 5).to_bytes(8, "little"))
    assert blamed(audit(run)) == {"lost", "unknown"}


def test_times_without_a_journal_excuse_only_their_own_reports(run: Path) -> None:
    journal = Journal(run / "journal")
    reports = np.flatnonzero(journal.records["kind"] == RecordKind.REPORT)
    gone = int(journal.records["sequence"][reports[9]])
    rewrite(run, lambda records: np.delete(records, reports[9]))
    assert blamed(audit(run)) == {"corrupted"}
    assert audit(run, [(gone, gone)]).clean
