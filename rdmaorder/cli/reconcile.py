"""``rdmaorder reconcile``: a replay's ledger against the gateway's journal, order by order."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdmaorder.flow.reconcile import Verdict

__all__ = ["add_parser", "print_verdict", "reconcile_files"]

_DESCRIPTION = """\
Compares what a replay sent and received (its --ledger) with what the gateway's journal holds: every
message in the journal exactly once with the same bytes, nothing there that was not sent, every
report received as journalled, exactly one answer a message. Exit status: 0 when all agrees, 1 when
anything differs, 2 when a file cannot be read.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``reconcile`` to the commands."""
    parser = subparsers.add_parser(
        "reconcile", help="compare a replay's ledger with a journal", description=_DESCRIPTION
    )
    parser.add_argument(
        "--ledger", type=Path, required=True, metavar="L.npz", help="written by replay --ledger"
    )
    parser.add_argument(
        "--journal", type=Path, required=True, metavar="DIR", help="the gateway's journal"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the verdict as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from rdmaorder._outputs import check_writable
    from rdmaorder.flow.report import write_json

    check_writable((args.json,))
    verdict = reconcile_files(args.ledger, args.journal)
    print_verdict(verdict)
    if args.json is not None:
        write_json(args.json, verdict.to_json())
    return 0 if verdict.agrees else 1


def reconcile_files(ledger: Path, journal: Path) -> Verdict:
    """Reads both and compares them. A journal that ends in damage is a difference of its own."""
    from rdmaorder.flow.ledger import load_ledger
    from rdmaorder.flow.reconcile import group_journal, reconcile
    from rdmaorder.journal import Journal

    ledgers = load_ledger(ledger)
    kept = Journal(journal)
    verdict = reconcile(ledgers, group_journal([kept.records]))
    if not kept.result.clean:
        verdict.differ(1, f"the journal is damaged: {kept.result.damage}")
    return verdict


def print_verdict(verdict: Verdict) -> None:
    """A table of counts, the first differences, and PASS or FAIL."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "strategy", "journal", "same bytes"):
        table.add_column(name, justify="right" if name else "left")
    rows = (
        ("messages", verdict.sent, verdict.journalled, verdict.orders_equal),
        ("reports", verdict.received, verdict.reports_journalled, verdict.reports_equal),
    )
    for name, *counts in rows:
        table.add_row(name, *(f"{count:,}" for count in counts))
    console.print(table)
    notes = (
        (verdict.earlier, "messages of these sessions from before the run"),
        (verdict.after_end, "reports on the end of a session, after its last poll"),
        (verdict.other_sessions, "other sessions in the journal, not in the ledger"),
    )
    for count, what in notes:
        if count:
            console.print(f"left aside: {count:,} {what}", soft_wrap=True)
    for text in verdict.differences:
        console.print(Text(text, "red"), soft_wrap=True)
    more = verdict.difference_count - len(verdict.differences)
    if more > 0 and verdict.differences:
        console.print(Text(f"{verdict.difference_count:,} differences in all", "red"))
    console.print(
        Text(
            f"{'PASS' if verdict.agrees else 'FAIL'}: {verdict.answered:,} of {verdict.sent:,} "
            "messages have exactly one answer",
            "bold green" if verdict.agrees else "bold red",
        ),
        soft_wrap=True,
    )
