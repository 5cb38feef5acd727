"""``rdmaorder replay``: sends recorded order flow and accounts for every message."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rdmaorder.flow import FORMATS

if TYPE_CHECKING:
    from rdmaorder.flow.plan import SessionPlan
    from rdmaorder.flow.report import ReplayReport
    from rdmaorder.flow.table import Flow

__all__ = ["add_parser", "replay"]

_DESCRIPTION = """\
Sends the client messages of a recording (new orders, replaces, cancels) through one or more
sessions to a gateway, takes in every report, and tells what became of every message. Exit status:
0 when each has exactly one answer, 1 when any is lost, duplicated or unknown, 130 when interrupted.
"""
_PLAIN_LINE_EVERY_S = 2.0
_INTERRUPTED = 130


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``replay`` to the commands."""
    parser = subparsers.add_parser(
        "replay", help="send recorded order flow to a gateway", description=_DESCRIPTION
    )
    parser.add_argument("file", type=Path, help="recording; plain or gzip-compressed CSV")
    parser.add_argument("--to", required=True, metavar="URL", help="gateway, as shm:///run/gw.sock")
    parser.add_argument("--sessions", type=int, default=1, metavar="N", help="default 1")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed", type=_speed, default=1.0, metavar="X", help="times the recorded pace (default 1)"
    )
    pace.add_argument("--flat-out", action="store_true", help="as fast as the gateway takes them")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N client messages")
    parser.add_argument(
        "--format",
        dest="file_format",
        choices=FORMATS,
        default="csv",
        help="what the columns mean (default csv; docs/replay.md)",
    )
    parser.add_argument(
        "--trades",
        type=Path,
        metavar="FILE",
        help="ob-analytics: file of trades (default trades.csv beside the recording)",
    )
    parser.add_argument(
        "--quantity-exponent",
        type=int,
        metavar="E",
        help="send quantities in units of 10^E (default: the greatest E, at most 0, that is exact)",
    )
    parser.add_argument(
        "--session-name", default="replay", metavar="NAME", help="sessions are NAME-1 … NAME-N"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers as JSON")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the latency distribution")
    parser.add_argument(
        "--ledger", type=Path, metavar="OUT.npz", help="keep every message and report (reconcile)"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="give up when nothing moves for so long (default 10)",
    )
    parser.set_defaults(run=_run)


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{what} {text!r} is not a number") from None
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{what} {text!r} is not a finite number above 0")
    return value


def _speed(text: str) -> float:
    return _positive(text, "speed")


def _seconds(text: str) -> float:
    return _positive(text, "time")


def _run(args: argparse.Namespace) -> int:
    report = replay(args)
    if report.interrupted:
        return _INTERRUPTED
    return 0 if report.complete else 1


def _check_outputs(args: argparse.Namespace) -> None:
    """What would spoil the run at its end is found before it."""
    from rdmaorder._outputs import check_writable
    from rdmaorder.plotting import require_matplotlib

    if args.plot is not None:
        require_matplotlib()
    check_writable((args.json, args.plot, args.ledger))


def replay(args: argparse.Namespace) -> ReplayReport:
    """Does what the command line says and prints the tables; what happened is in the result."""
    from rich.console import Console

    from rdmaorder.errors import InputError
    from rdmaorder.flow.formats import read_flow
    from rdmaorder.flow.plan import make_plan
    from rdmaorder.flow.report import write_json

    _check_outputs(args)
    flow = read_flow(
        args.file,
        file_format=args.file_format,
        trades=args.trades,
        quantity_exponent=args.quantity_exponent,
    )
    if not len(flow):
        raise InputError("has no client message (N, M, C or D): nothing to send", path=flow.path)
    plans = make_plan(flow, args.sessions, limit=args.limit, name=args.session_name)
    console = Console(highlight=False)
    print(_description(flow, args), flush=True)
    report = _send(args, flow, plans)
    report.print(console)
    if args.json is not None:
        write_json(args.json, report.to_json())
    if args.plot is not None:
        _plot(args, report)
    return report


def _description(flow: Flow, args: argparse.Namespace) -> str:
    """What was read, in one line."""
    skipped = ", ".join(f"{count:,} × {why}" for why, count in flow.skipped.items())
    chosen = "given" if args.quantity_exponent is not None else "chosen from the data"
    line = f"{flow.path}: {flow.row_count:,} rows, {len(flow):,} client messages"
    if skipped:
        line += f" (not sent: {skipped})"
    line += f", {len(flow.symbols)} instrument(s)"
    line += f", quantity exponent {flow.quantity_exponent} ({chosen})"
    if flow.steps_back:
        line += f", sorted by time (the clock steps back {flow.steps_back:,} times)"
    return line


def _send(args: argparse.Namespace, flow: Flow, plans: list[SessionPlan]) -> ReplayReport:
    import rdmaorder
    from rdmaorder.flow.latency import Latency
    from rdmaorder.flow.ledger import SessionLedger, save_ledger
    from rdmaorder.flow.report import summarise
    from rdmaorder.flow.send import Lane, Schedule, drive

    schedule = Schedule(None if args.flat_out else args.speed)
    with ExitStack() as stack:
        lanes = []
        for plan in plans:
            session = stack.enter_context(rdmaorder.connect(args.to, session=plan.name))
            lanes.append(Lane(plan, session, schedule, keep=args.ledger is not None))
        with _progress(sum(len(lane.slots) for lane in lanes)) as notify:
            outcome = drive(lanes, timeout_ns=round(args.timeout * 1e9), notify=notify)
        rtt = Latency.merged(lane.session.latency() for lane in lanes)
        report = summarise(flow, lanes, outcome, schedule, rtt)
    if args.ledger is not None:
        ledgers = [
            SessionLedger(
                lane.name, lane.first_sequence, lane.slots[: lane.sent_count], lane.received()
            )
            for lane in lanes
        ]
        save_ledger(args.ledger, ledgers)
    return report


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every other second elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        yield _plain_progress(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        sending = progress.add_task("sent", total=total)
        answering = progress.add_task("answered", total=total)

        def notify(sent: int, answered: int) -> None:
            progress.update(sending, completed=sent)
            progress.update(answering, completed=answered)

        yield notify


def _plain_progress(total: int) -> Callable[[int, int], None]:
    next_s = time.monotonic() + _PLAIN_LINE_EVERY_S

    def notify(sent: int, answered: int) -> None:
        nonlocal next_s
        now_s = time.monotonic()
        if now_s < next_s:
            return
        next_s = now_s + _PLAIN_LINE_EVERY_S
        print(f"sent {sent:,} of {total:,}, answered {answered:,}", file=sys.stderr, flush=True)

    return notify


def _plot(args: argparse.Namespace, report: ReplayReport) -> None:
    from rdmaorder.plotting import plot_latency

    if not report.rtt.count:
        print(f"{args.plot} not written: no round trip was measured")
        return
    scheme = str(args.to).partition(":")[0]
    pace = "flat out" if args.flat_out else f"{args.speed:g} × the recorded pace"
    plot_latency(
        args.plot,
        {"round trip": report.rtt},
        title=f"Order to report, {report.rtt.count:,} messages",
        subtitle=f"{args.file.name} · {args.sessions} session(s) over {scheme} · {pace}",
    )
