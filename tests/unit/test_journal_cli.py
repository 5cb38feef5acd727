"""``rdmaorder journal cat`` and ``rdmaorder journal verify``."""

from __future__ import annotations

import argparse
import csv
import io
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from journal_author import Author, damage, new_order, report, write_two_sessions
from rights_support import without_rights

from rdmaorder import cli, messages
from rdmaorder.cli import journal as command
from rdmaorder.errors import InputError
from rdmaorder.journal import RecordKind


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["journal", *words])
    status = args.run(args)
    assert isinstance(status, int)
    return status


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


@pytest.mark.parametrize("kind", RecordKind)
def test_cat_knows_every_kind_of_record_in_every_form(
    directory: Path, capsys: pytest.CaptureFixture[str], kind: RecordKind
) -> None:
    payloads = {
        RecordKind.SESSION: b"alpha",
        RecordKind.ORDER: new_order(1),
        RecordKind.REPORT: report(1, 1),
        RecordKind.LINK: struct.pack("<QQQ", 11, 1, 1),
        RecordKind.NOT_APPLIED: struct.pack("<Q", 3),
        RecordKind.KILL: struct.pack("<Q", 1),
    }
    with Author(directory) as author:
        for each in RecordKind:
            author.add(each, payloads[each], 0, 1)
    name = kind.name.lower()
    words = ("cat", str(directory), "--kind", name, "--format")
    assert run(*words, "csv") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert run(*words, "jsonl") == 0
    fields = json.loads(capsys.readouterr().out)
    assert row["kind"] == fields["kind"] == name
    assert "payload" not in fields, "decoded, not dumped"
    assert {key: str(value) for key, value in fields.items() if value is not None} == {
        key: value for key, value in row.items() if value
    }


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


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("command_name", ["cat", "verify"])
def test_a_damaged_header_is_damage_and_what_lies_before_it_is_shown(
    directory: Path, capsys: pytest.CaptureFixture[str], command_name: str, number: int
) -> None:
    with Author(directory) as author:
        author.session(0, "alpha")
        author.orders(0, *range(1, 1000))  # more than a segment
    damage(directory, 9, number)
    assert run(command_name, str(directory)) == 1
    printed = capsys.readouterr()
    told = printed.err if command_name == "cat" else printed.out
    assert "damage" in told and f"{number:010d}.rojl: written in version" in told
    shown = len(printed.out.splitlines()) if command_name == "cat" else told.count("orders")
    assert (shown > 0) == (number == 2)


@pytest.mark.parametrize("command_name", ["cat", "verify"])
@pytest.mark.parametrize("what", ["directory", "segment"])
def test_a_journal_that_may_not_be_read_is_not_called_damaged(
    capsys: pytest.CaptureFixture[str], command_name: str, what: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not in pytest's, which is closed to others
        Path(folder).chmod(0o755)
        write_two_sessions(journal := Path(folder) / "journal")
        closed = journal if what == "directory" else journal / "0000000001.rojl"
        journal.chmod(0o755)
        closed.chmod(0)
        with without_rights():
            assert cli.main(["journal", command_name, str(journal)]) == 2
        closed.chmod(0o700)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"rdmaorder: error: open journal {what} {closed}: Permission denied; "
        "run this as the gateway's user, or as root\n"
    )


@pytest.mark.parametrize("command_name", ["cat", "verify"])
def test_a_journal_that_is_not_there_is_named(
    directory: Path, capsys: pytest.CaptureFixture[str], command_name: str
) -> None:
    assert cli.main(["journal", command_name, str(directory)]) == 2
    assert f"{directory}: No such file or directory; name the directory" in capsys.readouterr().err


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
