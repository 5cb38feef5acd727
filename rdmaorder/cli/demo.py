"""``rdmaorder demo``: half an hour of real order flow, sent, journalled and reconciled."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rdmaorder.cli import reconcile as reconcile_command
from rdmaorder.cli import replay as replay_command

__all__ = ["add_parser"]

_DESCRIPTION = """\
Starts a gateway with the simulated venue and a journal, replays half an hour of Bitstamp's BTC/USD
orders (300,000 messages, downloaded once) through several sessions as fast as they go, stops the
gateway and compares what was sent, what the journal holds and what the reports say, order by order.
Exit status 0 only if everything agrees.
"""
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 60.0
_JOURNAL_FILE = re.compile(r"\d+\.rojl(\.damaged.*)?|.*\.lock|lock|\..*")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``demo`` to the commands."""
    parser = subparsers.add_parser(
        "demo", help="replay real order flow and reconcile it", description=_DESCRIPTION
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N messages")
    parser.add_argument("--sessions", type=int, default=4, metavar="N", help="default 4")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="default demo-out"
    )
    parser.set_defaults(run=_run)


def _replay_args(args: argparse.Namespace, recording: Path, url: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    replay_command.add_parser(parser.add_subparsers())
    words = ["replay", str(recording), "--format", "ob-analytics", "--to", url, "--flat-out"]
    words += ["--sessions", str(args.sessions), "--ledger", str(args.out / "ledger.npz")]
    words += ["--json", str(args.out / "replay.json")]
    if _has_matplotlib():
        words += ["--plot", str(args.out / "latency.png")]
    if args.limit is not None:
        words += ["--limit", str(args.limit)]
    return parser.parse_args(words)


def _has_matplotlib() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _empty_journal(folder: Path) -> None:
    """Removes the journal of an earlier demo; refuses to remove anything else."""
    from rdmaorder.errors import InputError

    if not folder.exists():
        return
    strange = [path.name for path in folder.iterdir() if not _JOURNAL_FILE.fullmatch(path.name)]
    if strange:
        raise InputError(
            f"holds {strange[0]!r}, which is no part of a journal: choose another --out",
            path=str(folder),
        )
    shutil.rmtree(folder)


@contextmanager
def _gateway(journal: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A gateway process that listens, and its URL. Killed on the way out if it still runs."""
    with tempfile.TemporaryDirectory(prefix="rdmaorder-") as folder, log.open("wb") as output:
        socket = Path(folder) / "gw.sock"
        url = f"shm://{socket}"
        command = [sys.executable, "-m", "rdmaorder", "gateway", "--listen", url]
        command += ["--journal", str(journal), "--handler", "venue"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C is for the replay: its gateway is stopped after it
        )
        try:
            _await_listening(process, socket, log)
            yield process, url
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _await_listening(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    """Returns once the gateway has said what it listens on."""
    from rdmaorder.errors import SystemFailure

    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not (socket.is_socket() and log.stat().st_size):
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip()[-500:]
            raise SystemFailure(f"the gateway ended with {process.returncode}: {said}")
        if time.monotonic() > deadline_s:
            raise SystemFailure(f"the gateway did not listen within {_START_TIMEOUT_S:g} s")
        time.sleep(0.01)


def _stop(process: subprocess.Popen[bytes]) -> int | None:
    """Asks the gateway to drain and end; its exit status, None if it did not end in time."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None


def _run(args: argparse.Namespace) -> int:
    from rdmaorder.errors import InputError
    from rdmaorder.flow.report import write_json
    from rdmaorder.flow.sample import fetch_sample

    recording = fetch_sample()
    journal, log = args.out / "journal", args.out / "gateway.log"
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        _empty_journal(journal)
    except OSError as error:
        raise InputError(f"cannot be used: {error.strerror}", path=str(args.out)) from None
    with _gateway(journal, log) as (process, url):
        report = replay_command.replay(_replay_args(args, recording, url))
        status = _stop(process)
    verdict = reconcile_command.reconcile_files(args.out / "ledger.npz", journal)
    reconcile_command.print_verdict(verdict)
    write_json(args.out / "reconcile.json", verdict.to_json())
    if status != 0:
        ending = "did not end" if status is None else f"ended with exit status {status}"
        print(f"the gateway {ending} after SIGTERM; see {log}")
    files = sorted(path.name for path in args.out.iterdir())
    print(f"everything is in {args.out}: " + ", ".join(files))
    passed = report.complete and verdict.agrees and status == 0
    print(
        f"{'PASS' if passed else 'FAIL'}: {report.sent:,} messages sent, "
        f"{verdict.journalled:,} in the journal ({verdict.orders_equal:,} the same), "
        f"{verdict.received:,} reports received ({verdict.reports_equal:,} as journalled); "
        f"lost {report.lost}, duplicated {report.duplicated}, unknown {report.unknown}",
        flush=True,
    )
    return 0 if passed else 1
