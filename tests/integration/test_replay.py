"""Recorded order flow through a real gateway process, to the verdict over ledger and journal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdmaorder import cli
from rdmaorder.flow.ledger import load_ledger, save_ledger
from rdmaorder.messages import as_new_orders

HEADER = "t_ns,msg,order_id,side,price,qty,sym\n"
#: Long enough that only a hang gets there; no test waits for it to pass.
PATIENCE_S = 60.0


@pytest.fixture
def socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "gw.sock"


@contextmanager
def gateway(socket: Path, journal: Path, handler: str = "venue") -> Iterator[subprocess.Popen[str]]:
    """A gateway process that listens; killed at the end if the test has not ended it."""
    command = [sys.executable, "-m", "rdmaorder", "gateway", "--listen", f"shm://{socket}"]
    command += ["--journal", str(journal), "--handler", handler]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        assert "listening" in process.stdout.readline()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE_S)


def recording(path: Path, order_count: int, gap_ns: int = 1000) -> Path:
    """New, partial cancel, replace and cancel of each order; every tenth cancel comes twice."""
    rows, now = [], 0
    for order in range(order_count):
        messages = [
            f"N,{order},B,1.25,8",
            f"C,{order},B,,3",
            f"M,{order},B,1.5,9",
            f"D,{order},B,,",
        ]
        if order % 10 == 0:
            messages += [f"D,{order},B,,", f"D,never{order},S,,"]
        for message in messages:
            now += gap_ns
            rows.append(f"{now},{message},SYM{order % 3}\n")
    path.write_text(HEADER + "".join(rows))
    return path


def replay(path: Path, socket: Path, *options: str) -> int:
    return cli.main(["replay", str(path), "--to", f"shm://{socket}", *options])


def reconcile(folder: Path) -> tuple[int, dict[str, Any]]:
    out = folder / "verdict.json"
    words = ["reconcile", "--ledger", str(folder / "l.npz"), "--journal", str(folder / "journal")]
    status = cli.main([*words, "--json", str(out)])
    return status, json.loads(out.read_text())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_every_message_is_sent_journalled_answered_and_reconciled(
    tmp_path: Path, socket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path / "flow.csv", 1000)
    options = ["--sessions", "3", "--flat-out", "--ledger", str(tmp_path / "l.npz")]
    options += ["--json", str(tmp_path / "run.json")]
    with gateway(socket, tmp_path / "journal") as process:
        assert replay(path, socket, *options) == 0
        assert stop(process) == 0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["sent"] == 4200
    assert (run["lost"], run["duplicated"], run["unknown"]) == (0, 0, 0)
    assert run["fates"] == {
        "accepted": 1000,
        "canceled": 2000,
        "replaced": 1000,
        "rejected:too_late": 100,
        "rejected:unknown_order": 100,
    }
    assert set(run["rtt_ns"]) == {"min", "p50", "p90", "p99", "p99_9", "max"}
    assert 0 < run["rtt_ns"]["min"] <= run["rtt_ns"]["p50"] <= run["rtt_ns"]["max"]
    assert run["elapsed_s"] > 0
    assert run["messages"] == {"new": 1000, "replace": 1000, "partial cancel": 1000, "cancel": 1200}
    shown = capsys.readouterr().out
    assert "rejected: too late" in shown
    assert "lost 0, duplicated 0, unknown 0" in shown
    status, verdict = reconcile(tmp_path)
    assert (status, verdict["verdict"]) == (0, "PASS")
    assert verdict["messages"] == {"sent": 4200, "journalled": 4200, "equal": 4200}
    assert verdict["reports"]["equal"] == verdict["reports"]["received"] == 4200


def test_a_second_replay_into_the_same_sessions_repeats_no_cl_ord_id(
    tmp_path: Path, socket: Path
) -> None:
    path = recording(tmp_path / "flow.csv", 50)
    options = ["--flat-out", "--ledger", str(tmp_path / "l.npz"), "--json", str(tmp_path / "j")]
    with gateway(socket, tmp_path / "journal") as process:
        for _ in range(2):
            assert replay(path, socket, *options) == 0
            fates = json.loads((tmp_path / "j").read_text())["fates"]
            assert (fates["accepted"], fates["replaced"]) == (50, 50)
        assert stop(process) == 0
    assert load_ledger(tmp_path / "l.npz")[0].first_sequence == 211
    status, verdict = reconcile(tmp_path)
    assert (status, verdict["earlier_messages"]) == (0, 210)


def test_a_paced_replay_keeps_the_recorded_spacing(tmp_path: Path, socket: Path) -> None:
    path = recording(tmp_path / "flow.csv", 10, gap_ns=1_000_000)
    with gateway(socket, tmp_path / "journal"):
        assert replay(path, socket, "--speed", "0.5", "--json", str(tmp_path / "j")) == 0
    run = json.loads((tmp_path / "j").read_text())
    assert run["elapsed_s"] >= 41 * 2e-3  # 42 messages, 1 ms apart, at half the pace
    assert set(run["late_ns"]) == {"p50", "p99", "max"}


def test_the_verdict_finds_a_ledger_that_was_changed(
    tmp_path: Path, socket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path / "flow.csv", 20)
    with gateway(socket, tmp_path / "journal") as process:
        assert replay(path, socket, "--flat-out", "--ledger", str(tmp_path / "l.npz")) == 0
        assert stop(process) == 0
    ledgers = load_ledger(tmp_path / "l.npz")
    as_new_orders(ledgers[0].sent)["price"][0] += 1
    ledgers[0].received = np.delete(ledgers[0].received, 5)
    save_ledger(tmp_path / "l.npz", ledgers)
    status, verdict = reconcile(tmp_path)
    assert (status, verdict["difference_count"]) == (1, 3)
    shown = capsys.readouterr().out
    assert "order 1: price is 1250000001 as sent, 1250000000 in the journal" in shown
    assert "in the journal, not received: report 6" in shown
    assert "FAIL" in shown


def test_a_gateway_killed_in_the_middle_leaves_a_partial_account(
    tmp_path: Path, socket: Path
) -> None:
    path = recording(tmp_path / "flow.csv", 5000, gap_ns=1_000_000)  # 21 s
    words = [sys.executable, "-m", "rdmaorder", "replay", str(path), "--to", f"shm://{socket}"]
    words += ["--json", str(tmp_path / "j"), "--ledger", str(tmp_path / "l.npz")]
    with gateway(socket, tmp_path / "journal") as process:
        strategy = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert strategy.stdout is not None
        assert b"client messages" in strategy.stdout.readline()
        wait_for(lambda: b"answered" in strategy.stdout.readline())  # type: ignore[union-attr]
        process.kill()
        output, _ = strategy.communicate(timeout=PATIENCE_S)
    assert strategy.returncode == 1
    assert b"session replay-1: " in output
    run = json.loads((tmp_path / "j").read_text())
    assert 0 < run["sent"] < run["planned"] == 21_000
    assert run["sent"] == sum(run["fates"].values()) + run["lost"] + run["unknown"]
    assert len(run["failures"]) == 1
    assert load_ledger(tmp_path / "l.npz")[0].sent.size == run["sent"]


def test_an_interrupted_replay_prints_what_had_happened(tmp_path: Path, socket: Path) -> None:
    path = recording(tmp_path / "flow.csv", 5000, gap_ns=1_000_000)
    words = [sys.executable, "-m", "rdmaorder", "replay", str(path), "--to", f"shm://{socket}"]
    with gateway(socket, tmp_path / "journal"):
        strategy = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A shell's background job ignores it, and hands that down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert strategy.stdout is not None
        wait_for(lambda: b"answered" in strategy.stdout.readline())  # type: ignore[union-attr]
        strategy.send_signal(signal.SIGINT)
        output, _ = strategy.communicate(timeout=PATIENCE_S)
    assert strategy.returncode == 130
    assert b"interrupted" in output
    assert b"accepted" in output


def test_a_gateway_that_never_answers_ends_in_a_timeout(tmp_path: Path, socket: Path) -> None:
    path = recording(tmp_path / "flow.csv", 10)
    options = ["--flat-out", "--timeout", "0.2", "--json", str(tmp_path / "j")]
    with gateway(socket, tmp_path / "journal", handler="null"):
        assert replay(path, socket, *options) == 1
    run = json.loads((tmp_path / "j").read_text())
    assert (run["sent"], run["lost"] + run["unknown"], run["timed_out"]) == (42, 42, True)
    assert run["lost"] == 42  # the gateway says it took every one of them


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("1,N,1,B,1,0,\n", "flow.csv:2: quantity '0' is not above 0"),
        ("1,N,1,B,1\n", "flow.csv:2: has 5 fields where 7 columns are expected"),
        ("1,T,1,B,1,1,\n", "has no client message"),
    ],
)
def test_bad_files_end_with_one_line_and_send_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, words: str
) -> None:
    path = tmp_path / "flow.csv"
    path.write_text(HEADER + body)
    assert replay(path, tmp_path / "no.sock") == 2  # read before anybody connects
    assert words in capsys.readouterr().err


def test_a_wrong_socket_path_and_folders_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path / "flow.csv", 1)
    assert replay(path, tmp_path / "no.sock") == 2
    assert "no.sock" in capsys.readouterr().err
    assert replay(path, tmp_path / "no.sock", "--json", str(tmp_path / "no" / "j")) == 2
    assert "is no folder" in capsys.readouterr().err
    for option in ("--json", "--ledger", "--plot"):
        if option == "--plot":
            pytest.importorskip("matplotlib")
        assert replay(path, tmp_path / "no.sock", option, "/proc/out") == 2  # before it connects
        assert "/proc/out: cannot be written" in capsys.readouterr().err
    words = ["reconcile", "--ledger", str(tmp_path / "none"), "--journal", str(tmp_path)]
    assert cli.main([*words, "--json", "/proc/out"]) == 2  # before it reads
    assert "/proc/out: cannot be written" in capsys.readouterr().err
    assert cli.main(["reconcile", "--ledger", str(path), "--journal", str(tmp_path)]) == 2
    assert "is no ledger" in capsys.readouterr().err


def test_the_latency_plot_is_a_png(tmp_path: Path, socket: Path) -> None:
    pytest.importorskip("matplotlib")
    path = recording(tmp_path / "flow.csv", 100)
    with gateway(socket, tmp_path / "journal"):
        assert replay(path, socket, "--flat-out", "--plot", str(tmp_path / "p.png")) == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_demo_passes_on_a_recording_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = "id,timestamp,exchange_timestamp,price,volume,action,direction\n"
    for order in range(500):
        orders += f"{order},{order + 2},{order + 1},100.5,0.25,created,bid\n"
        orders += f"{order},{order + 2},{order + 1},100.5,0.25,deleted,bid\n"
    (tmp_path / "orders.csv").write_text(orders)
    (tmp_path / "trades.csv").write_text("trade_id,buy_order_id,sell_order_id\n")
    monkeypatch.setattr("rdmaorder.flow.sample.fetch_sample", lambda: tmp_path / "orders.csv")
    out = tmp_path / "out"
    for _ in range(2):  # the second clears the first one's journal away
        assert cli.main(["demo", "--out", str(out), "--sessions", "2", "--limit", "900"]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("PASS: 900 messages sent, 900 in the journal (900 the same)")
    (out / "journal" / "letter.txt").write_text("mine")
    assert cli.main(["demo", "--out", str(out)]) == 2
    assert (out / "journal" / "letter.txt").read_text() == "mine"
