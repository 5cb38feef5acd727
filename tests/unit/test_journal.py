"""The journal from Python: arrays, sessions, verification, and the two commands."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rdmaorder import journal, messages
from rdmaorder.cli import journal as command
from rdmaorder.errors import ConfigError, InputError, JournalError
from rdmaorder.journal import RecordKind

GOLDEN = Path(__file__).parent.parent / "golden" / "journal-v1.rojl"
SEGMENT_BYTES = 64 * 1024
TIME_NS = 1_700_000_000_123_456_789


def new_order(cl_ord_id: int, price: int = 187_250_000_000, quantity: int = 100) -> bytes:
    slot = np.zeros(1, messages.NEW_ORDER)
    slot["block_length"], slot["template_id"] = 48, messages.TemplateId.NEW_ORDER
    slot["schema_id"] = 1
    slot["cl_ord_id"], slot["price"], slot["quantity"] = cl_ord_id, price, quantity
    slot["instrument"], slot["side"], slot["ord_type"] = 7, messages.BUY, messages.OrdType.LIMIT
    slot["time_in_force"] = messages.TimeInForce.IMMEDIATE_OR_CANCEL
    return slot.tobytes()[:56]


def report(cl_ord_id: int, order_sequence: int, reason: int = 0) -> bytes:
    slot = np.zeros(1, messages.EXECUTION_REPORT)
    slot["block_length"], slot["template_id"] = 48, messages.TemplateId.EXECUTION_REPORT
    slot["schema_id"] = 1
    slot["cl_ord_id"], slot["price"] = cl_ord_id, messages.NO_PRICE
    slot["order_sequence_low"] = order_sequence & 0xFFFFFFFF
    slot["exec_type"] = messages.ExecType.REJECTED if reason else messages.ExecType.NEW
    slot["ord_status"] = messages.OrdStatus.REJECTED if reason else messages.OrdStatus.NEW
    slot["reason"] = reason
    return slot.tobytes()[:56]


def session_event() -> bytes:
    slot = np.zeros(1, messages.SESSION_EVENT)
    slot["block_length"], slot["template_id"] = 48, messages.TemplateId.SESSION_EVENT
    slot["schema_id"], slot["from_sequence"], slot["count"] = 1, 4, 2
    slot["kind"] = messages.SessionEventKind.NOT_APPLIED
    return slot.tobytes()[:56]


class Author:
    """Writes the records a gateway would write."""

    def __init__(self, directory: Path) -> None:
        self.writer = journal.Writer(str(directory), segment_bytes=SEGMENT_BYTES, sync="none")
        self._time_ns = TIME_NS

    def __enter__(self) -> Author:
        return self

    def __exit__(self, *exc: object) -> None:
        self.writer.close()

    def add(self, kind: int, payload: bytes, index: int, sequence: int, detail: int = 0) -> int:
        self._time_ns += 1
        return self.writer.append(
            kind,
            payload,
            session_index=index,
            sequence=sequence,
            time_ns=self._time_ns,
            detail=detail,
        )

    def session(self, index: int, name: str) -> None:
        self.add(RecordKind.SESSION, name.encode(), index, 1)

    def link(self, index: int, epoch: int, order: int, report_: int) -> None:
        self.add(RecordKind.LINK, struct.pack("<QQQ", epoch, order, report_), index, order)

    def not_applied(self, index: int, start: int, count: int) -> None:
        self.add(RecordKind.NOT_APPLIED, struct.pack("<Q", count), index, start)

    def orders(self, index: int, *sequences: int) -> None:
        for sequence in sequences:
            self.add(RecordKind.ORDER, new_order(sequence), index, sequence)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def write_two_sessions(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.link(0, 11, 1, 1)
        author.session(1, "beta")
        author.link(1, 12, 1, 1)
        author.orders(0, 1)
        author.orders(1, 1)
        author.add(RecordKind.REPORT, report(1, 1), 0, 1)
        author.add(RecordKind.ORDER, new_order(2), 0, 2, messages.Reason.MAX_QUANTITY)
        author.add(RecordKind.REPORT, report(2, 2, messages.Reason.MAX_QUANTITY), 0, 2)
        author.add(RecordKind.REPORT, session_event(), 0, 3)


def damage(directory: Path, offset: int, number: int = 1) -> None:
    path = directory / f"{number:010d}.rojl"
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["journal", *words])
    status = args.run(args)
    assert isinstance(status, int)
    return status


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
    with pytest.raises(JournalError, match="slots of 4104 bytes"):
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


# --- rdmaorder journal ----------------------------------------------------------------------------


def test_cat_prints_fields_by_name(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_two_sessions(directory)
    assert run("cat", str(directory)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0].split() == [
        *("1", "2023-11-14T22:13:20.123456790Z", "alpha", "session", "seq=1", "name=alpha"),
    ]
    assert lines[1].split()[3:] == [
        *("link", "seq=1", "epoch=11", "first_order_sequence=1", "first_report_sequence=1"),
    ]
    assert "alpha order seq=1 new_order cl_ord_id=1 price=187.25 quantity=100" in lines[4]
    assert "side=buy ord_type=limit time_in_force=immediate_or_cancel" in lines[4]
    assert "order seq=2 new_order refused=max_quantity" in lines[7]
    assert "exec_type=rejected ord_status=rejected reason=max_quantity" in lines[8]
    assert "order_sequence=2" in lines[8] and "price" not in lines[8]
    assert "session_event from_sequence=4 count=2" in lines[9] and "event=not_applied" in lines[9]


def test_cat_prints_json_lines(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_two_sessions(directory)
    assert run("cat", str(directory), "--format", "jsonl") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["position"] for row in rows] == list(range(1, 11))
    assert rows[4]["price"] == "187.25" and rows[4]["side"] == "buy"
    assert rows[8]["price"] is None and rows[8]["order_sequence"] == 2
    assert rows[7]["refused"] == "max_quantity"


def test_cat_prints_csv_with_a_column_for_every_field(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Author(directory) as author:
        author.session(0, "alpha,beta")
        for template, dtype in messages.MESSAGE_DTYPES.items():
            slot = np.zeros(1, dtype)
            slot["template_id"], slot["schema_id"] = template, 1
            author.add(RecordKind.ORDER, slot.tobytes()[:56], 0, int(template))
        author.not_applied(0, 5, 3)
        author.add(77, b"\x01\x02", 0, 9)
    assert run("cat", str(directory), "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 9
    assert rows[0]["name"] == "alpha,beta"
    assert [row["template"] for row in rows[1:7]] == [
        *("new_order", "replace_order", "cancel_order", "mass_cancel"),
        *("execution_report", "session_event"),
    ]
    assert rows[7]["count"] == "3"
    assert rows[8]["kind"] == "77" and rows[8]["payload"] == "0102"


def test_cat_selects_by_session_kind_position_and_number(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_two_sessions(directory)

    def positions(*options: str) -> list[int]:
        assert run("cat", str(directory), "--format", "jsonl", *options) == 0
        return [json.loads(line)["position"] for line in capsys.readouterr().out.splitlines()]

    assert positions("--session", "beta") == [3, 4, 6]
    assert positions("--kind", "order") == [5, 6, 8]
    assert positions("--kind", "report", "--session", "alpha", "--from", "8") == [9, 10]
    assert positions("--from", "4", "--limit", "2") == [4, 5]
    with pytest.raises(InputError, match=r"no session 'gamma'.*alpha, beta"):
        run("cat", str(directory), "--session", "gamma")
    with pytest.raises(SystemExit):
        run("cat", str(directory), "--limit", "0")


def test_cat_of_a_damaged_journal_prints_the_prefix_and_fails(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_two_sessions(directory)
    damage(directory, 4096 + 2 * 64 + 10)
    assert run("cat", str(directory)) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert "damaged" in printed.err and "position 3" in printed.err


def test_cat_into_a_pipe_that_closes_ends_quietly(directory: Path) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, *range(1, 5000))
    program = (
        "import argparse, sys\n"
        "from rdmaorder.cli import journal\n"
        "parser = argparse.ArgumentParser()\n"
        "journal.add_parser(parser.add_subparsers(required=True))\n"
        "args = parser.parse_args(sys.argv[1:])\n"
        "sys.exit(args.run(args))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, "journal", "cat", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stderr is not None
    with child.stdout, child.stderr:
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.wait() == 0


def test_verify_reports_sessions_and_the_verdict(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_two_sessions(directory)
    assert run("verify", str(directory)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "records   10 in 1 segments"
    assert "session   alpha: 1 links" in lines
    assert "  orders  2 (1 .. 2), 1 refused" in lines
    assert "  reports 3 (1 .. 3)" in lines
    assert lines[-1] == "verdict   clean"

    assert run("verify", str(directory), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ok"] and facts["record_count"] == 10
    assert [s["name"] for s in facts["sessions"]] == ["alpha", "beta"]


def test_verify_fails_on_damage_and_on_missing_sequences(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, 1, 4)
    assert run("verify", str(directory)) == 1
    out = capsys.readouterr().out
    assert "2 MISSING (2 .. 3)" in out and "verdict   sequences missing or repeated" in out
    damage(directory, 4096 + 10)
    assert run("verify", str(directory)) == 1
    out = capsys.readouterr().out
    assert "damage " in out and "position 1" in out and "verdict   damaged" in out
