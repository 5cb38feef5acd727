"""The journal from Python: arrays, sessions, damage, sequences, the writer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from journal_author import (
    SEGMENT_BYTES,
    TIME_NS,
    Author,
    damage,
    new_order,
    report,
    write_two_sessions,
)

from rdmaorder import journal, messages
from rdmaorder.errors import ConfigError, JournalError
from rdmaorder.journal import RecordKind

GOLDEN = Path(__file__).parent.parent / "golden" / "journal-v1.rojl"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


# --- arrays ---------------------------------------------------------------------------------------


def test_records_come_back_as_they_were_written_over_several_segments(directory: Path) -> None:
    count = 3000
    with Author(directory) as author:
        for i in range(1, count + 1):
            assert author.add(RecordKind.ORDER, new_order(i), i % 3, i * 5, i % 7) == i
    batches = list(journal.read(directory, batch_records=1000))
    assert [len(batch) for batch in batches] == [1000, 1000, 1000]
    rows = np.concatenate(batches)
    n = np.arange(1, count + 1)
    assert rows.dtype == journal.RECORD
    assert (rows["position"] == n).all()
    assert (rows["time_ns"] == TIME_NS + n).all()
    assert (rows["sequence"] == n * 5).all()
    assert (rows["session_index"] == n % 3).all()
    assert (rows["detail"] == n % 7).all()
    assert (rows["payload_bytes"] == 56).all()
    assert rows["payload"][41].tobytes() == new_order(42) + bytes(8)
    assert len(list(directory.glob("*.rojl"))) == 5


def test_a_long_payload_widens_its_batch_only(directory: Path) -> None:
    long = bytes(range(256)) * 16
    with Author(directory) as author:
        author.orders(0, 1)
        author.add(RecordKind.ORDER, long, 0, 2)
    short_batch, long_batch = journal.read(directory, batch_records=1)
    assert short_batch.dtype == journal.RECORD
    assert long_batch.dtype == journal.record_dtype(4096)
    assert long_batch["payload"][0].tobytes() == long
    loaded = journal.Journal(directory)
    assert loaded.records["payload_bytes"].tolist() == [56, 4096]
    with pytest.raises(JournalError, match=r"^session '.+' has orders in slots of 4104 bytes"):
        loaded.orders()


def test_a_journal_knows_its_sessions_orders_and_reports(directory: Path) -> None:
    write_two_sessions(directory)
    loaded = journal.Journal(directory)
    assert loaded.result.clean
    assert loaded.sessions == {0: "alpha", 1: "beta"}

    orders = loaded.orders("alpha")
    assert orders.dtype == messages.ORDER_RECORD
    assert orders["sequence"].tolist() == [1, 2]
    assert orders["cl_ord_id"].tolist() == [1, 2]
    assert orders["price"].tolist() == [187_250_000_000] * 2
    assert orders["session_index"].tolist() == [0, 0]
    refusals = loaded.select("alpha", RecordKind.ORDER)["detail"]
    assert refusals.tolist() == [0, messages.Reason.MAX_QUANTITY]

    reports = loaded.reports("alpha")
    assert reports.dtype == messages.REPORT_RECORD
    assert reports["sequence"].tolist() == [1, 2]
    assert reports["order_sequence"].tolist() == [1, 2]
    assert reports["reason"].tolist() == [0, messages.Reason.MAX_QUANTITY]
    assert loaded.session_events("alpha")["from_sequence"].tolist() == [4]
    assert len(loaded.orders()) == 3 and len(loaded.reports("beta")) == 0
    with pytest.raises(JournalError, match=r"no session 'gamma' .* it has: alpha, beta"):
        loaded.orders("gamma")


def test_an_index_given_to_another_session_belongs_to_it_from_then_on(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, 1, 2)
        author.session(0, "omega")
        author.orders(0, 1)
    loaded = journal.Journal(directory)
    assert len(loaded.orders("alpha")) == 2
    assert len(loaded.orders("omega")) == 1
    assert journal.verify(directory).ok


def test_report_sequences_widen_to_the_session_s_orders(directory: Path) -> None:
    first = 2**32 - 1
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, first, first + 1)
        author.add(RecordKind.REPORT, report(1, first), 0, 1)
        author.add(RecordKind.REPORT, report(2, first + 1), 0, 2)
    assert journal.Journal(directory).reports()["order_sequence"].tolist() == [first, first + 1]


def test_the_golden_segment_stays_readable(directory: Path) -> None:
    directory.mkdir()
    shutil.copy(GOLDEN, directory / "0000000001.rojl")
    loaded = journal.Journal(directory)
    assert loaded.result == journal.ScanResult(8, 8, True, "", 1)
    assert loaded.sessions == {0: "alpha"}
    assert loaded.records["kind"].tolist() == [1, 4, 2, 3, 2, 3, 5, 3]
    assert loaded.orders("alpha")["cl_ord_id"].tolist() == [1001, 1002]
    assert loaded.reports("alpha")["order_sequence"].tolist() == [1, 2]
    assert loaded.records["time_ns"].tolist() == [TIME_NS + i for i in range(1, 9)]
    verdict = journal.verify(directory)
    assert verdict.ok and verdict.sessions[0].not_applied_count == 2
    with Author(directory) as author:
        assert author.writer.recovered["last_position"] == 8
        assert author.add(RecordKind.ORDER, new_order(9), 0, 5) == 9


# --- damage ---------------------------------------------------------------------------------------


def test_damage_ends_reading_and_is_described(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, *range(1, 20))
    damage(directory, 4096 + 64 + 10 * 96 + 30)
    loaded = journal.Journal(directory)
    assert len(loaded.records) == 11
    assert not loaded.result.clean
    assert "0000000001.rojl at offset 5120, position 12: checksum" in loaded.result.damage
    verdict = journal.verify(directory)
    assert not verdict.ok and verdict.scan == loaded.result
    assert verdict.sessions[0].orders.count == 10


def test_a_broken_segment_header_is_reported_after_what_lies_before_it(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, *range(1, 1001))
    damage(directory, 30, number=2)
    with pytest.raises(JournalError, match=r"0000000002\.rojl: checksum of the header"):
        list(journal.read(directory))
    before = next(journal.read(directory))
    assert 600 < len(before) < 650
    verdict = journal.verify(directory)
    assert not verdict.ok and "checksum of the header" in verdict.scan.damage
    assert verdict.scan.record_count == len(before)


def test_a_directory_without_a_journal_is_an_error(tmp_path: Path) -> None:
    for what in (journal.Journal, journal.verify):
        with pytest.raises(JournalError, match="holds no segment files"):
            what(tmp_path)
        with pytest.raises(JournalError, match="absent"):
            what(tmp_path / "absent")


# --- sequences ------------------------------------------------------------------------------------


def check_alpha(directory: Path) -> journal.SessionCheck:
    (check,) = journal.verify(directory).sessions
    assert check.name == "alpha"
    return check


def test_missing_sequences_are_found(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.link(0, 1, 1, 1)
        author.orders(0, 1, 2, 5, 6, 9)
    check = check_alpha(directory)
    assert check.orders.gaps == [(3, 2), (7, 2)]
    assert check.orders.missing_count == 4
    assert not check.consistent


def test_missing_sequences_declared_not_applied_are_in_order(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.link(0, 1, 1, 1)
        author.orders(0, 1, 2)
        author.not_applied(0, 3, 2)
        author.orders(0, 5, 9)
        author.not_applied(0, 6, 3)  # declared after the order that showed the gap
    check = check_alpha(directory)
    assert check.consistent and check.orders.gaps == []
    assert check.not_applied_count == 5


def test_a_declaration_that_covers_half_a_gap_leaves_the_other_half(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, 1, 10)
        author.not_applied(0, 4, 3)
    check = check_alpha(directory)
    assert check.orders.gaps == [(2, 2), (7, 3)]
    assert check.orders.missing_count == 5


def test_repeated_sequences_are_found(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, 1, 2, 2, 3, 1)
    assert check_alpha(directory).orders.repeat_count == 2
    assert not journal.verify(directory).ok


def test_a_session_taken_over_from_an_older_journal_starts_where_its_link_says(
    directory: Path,
) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.link(0, 7, 501, 801)
        author.orders(0, 501, 502)
        author.add(RecordKind.REPORT, report(1, 501), 0, 801)
    check = check_alpha(directory)
    assert check.consistent and check.orders.first == 501 and check.reports.last == 801


# --- writer ---------------------------------------------------------------------------------------


def test_a_writer_refuses_what_cannot_be_right(directory: Path) -> None:
    with pytest.raises(ConfigError, match="segment_bytes is 5"):
        journal.Writer(str(directory), segment_bytes=5)
    with pytest.raises(ConfigError, match="'always' is unknown"):
        journal.Writer(str(directory), sync="always")
    with journal.Writer(str(directory), segment_bytes=SEGMENT_BYTES) as writer:
        with pytest.raises(ValueError, match="0 bytes"):
            writer.append(RecordKind.ORDER, b"")
        with pytest.raises(ValueError, match="9000 bytes"):
            writer.append(RecordKind.ORDER, bytes(9000))
        with pytest.raises(JournalError, match=f"process {os.getpid()}"):
            journal.Writer(str(directory), segment_bytes=SEGMENT_BYTES)
        assert writer.last_position == 0
    writer.close()
    with pytest.raises(JournalError, match="closed"):
        writer.append(RecordKind.ORDER, b"x")


def test_sync_moves_the_durable_position(directory: Path) -> None:
    with Author(directory) as author:
        author.orders(0, 1, 2, 3)
        assert author.writer.durable_position == 0
        author.writer.sync()
        assert author.writer.durable_position == 3
        assert author.writer.last_error == ""
