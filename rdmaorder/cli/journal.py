"""``rdmaorder journal``: what a journal holds, and whether it is whole."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from rdmaorder.journal import RecordKind

if TYPE_CHECKING:
    from rdmaorder.cli.journal_records import Fields
    from rdmaorder.journal import Sequences, VerifyResult

_KINDS = tuple(kind.name.lower() for kind in RecordKind)
_SHOWN_RANGES = 5
_BATCH_RECORDS = 8192


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``journal cat`` and ``journal verify``."""
    parser = subparsers.add_parser("journal", help="show or check a gateway's journal")
    commands = parser.add_subparsers(dest="journal_command", required=True, metavar="COMMAND")

    cat = commands.add_parser(
        "cat",
        help="print the records, decoded",
        description="Prints the records of a journal in order, decoded. Safe beside a running "
        "gateway. Exit status 1 when the journal is damaged (what lies before is printed).",
    )
    cat.add_argument("directory", metavar="DIR", help="the journal directory of the gateway")
    cat.add_argument("--format", choices=("text", "jsonl", "csv"), default="text")
    cat.add_argument("--session", metavar="NAME", help="only this session")
    cat.add_argument("--kind", choices=_KINDS, help="only records of this kind")
    cat.add_argument(
        "--from",
        dest="from_position",
        type=_positive,
        default=1,
        metavar="POS",
        help="begin with this position (records count from 1)",
    )
    cat.add_argument("--limit", type=_positive, metavar="N", help="stop after N records")
    cat.set_defaults(run=run_cat)

    check = commands.add_parser(
        "verify",
        help="check every record and every session's sequences",
        description="Checks every record and every session's sequences. Exit status 0 when all is "
        "whole, 1 when the journal is damaged or a session misses or repeats a sequence, 2 when it "
        "cannot be read.",
    )
    check.add_argument("directory", metavar="DIR", help="the journal directory of the gateway")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(run=run_verify)


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return value


def _quiet_pipe(action: Callable[[], int]) -> int:
    """Runs `action`; a reader that went away (``| head``) ends it without a word."""
    try:
        status = action()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _printer(form: str, out: TextIO) -> Callable[[Fields], None]:
    if form == "csv":
        from rdmaorder.cli.journal_records import COLUMNS

        writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        return writer.writerow
    if form == "jsonl":
        return lambda fields: print(json.dumps(fields), file=out)
    return lambda fields: print(_text(fields), file=out)


def _text(fields: Fields) -> str:
    rest = dict(fields)
    head = f"{rest.pop('position'):>8} {rest.pop('time')} {rest.pop('session')} {rest.pop('kind')}"
    words = [f"seq={rest.pop('sequence')}"]
    if "template" in rest:
        words.append(rest.pop("template"))
    words += [f"{name}={value}" for name, value in rest.items() if value is not None]
    return " ".join((head, *words))


def run_cat(args: argparse.Namespace) -> int:
    """``rdmaorder journal cat``."""
    return _quiet_pipe(lambda: _cat(args))


def _cat(args: argparse.Namespace) -> int:
    from rdmaorder._journal_records import Reading, require_segments
    from rdmaorder.cli.journal_records import Decoder
    from rdmaorder.errors import InputError

    kind = RecordKind[args.kind.upper()] if args.kind else None
    show = _printer(args.format, sys.stdout)
    decoder = Decoder()
    reading = Reading(args.directory, _BATCH_RECORDS)
    session_seen = False
    left = args.limit

    def wanted(session: str, record_kind: int) -> bool:
        nonlocal session_seen
        if args.session is not None and session != args.session:
            return False
        session_seen = True
        return kind is None or record_kind == kind

    for batch in reading:
        for fields in decoder.records(batch, wanted):
            if fields["position"] < args.from_position:
                continue
            show(fields)
            if left is not None:
                left -= 1
                if left == 0:
                    return 0
    result = reading.result
    require_segments(args.directory, result)
    if not result.clean:
        print(f"rdmaorder: journal damaged: {result.damage}", file=sys.stderr)
        return 1
    if args.session is not None and not session_seen:
        known = ", ".join(decoder.sessions) or "none"
        raise InputError(f"no session {args.session!r} in this journal; it has: {known}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """``rdmaorder journal verify``."""
    from rdmaorder.journal import verify

    result = verify(args.directory)
    show = _print_json if args.json else _print_report
    return _quiet_pipe(lambda: show(result))


def _numbers(sequences: Sequences) -> str:
    if sequences.count == 0:
        return "none"
    text = f"{sequences.count} ({sequences.first} .. {sequences.last})"
    if sequences.missing_count:
        ranges = ", ".join(
            f"{start} .. {start + count - 1}" for start, count in sequences.gaps[:_SHOWN_RANGES]
        )
        more = ", …" if len(sequences.gaps) > _SHOWN_RANGES else ""
        text += f", {sequences.missing_count} MISSING ({ranges}{more})"
    if sequences.repeat_count:
        text += f", {sequences.repeat_count} REPEATED"
    return text


def _print_report(result: VerifyResult) -> int:
    scan = result.scan
    print(f"records   {scan.record_count} in {scan.segment_count} segments")
    print(f"position  {scan.last_position}")
    for session in result.sessions:
        print(f"session   {session.name}: {session.link_count} links")
        refused = f", {session.refused_count} refused" if session.refused_count else ""
        print(f"  orders  {_numbers(session.orders)}{refused}")
        print(f"  reports {_numbers(session.reports)}")
        if session.not_applied_count:
            print(f"  not applied, as declared: {session.not_applied_count}")
    if not scan.clean:
        print(f"damage    {scan.damage}")
    if not result.ok:
        print("verdict   damaged" if not scan.clean else "verdict   sequences missing or repeated")
        return 1
    print("verdict   clean")
    return 0


def _print_json(result: VerifyResult) -> int:
    from dataclasses import asdict

    sessions = [asdict(session) for session in result.sessions]
    print(json.dumps({"ok": result.ok, **asdict(result.scan), "sessions": sessions}))
    return 0 if result.ok else 1
