"""``rdmaorder gateway`` as a process: its start, its end, and what kill -9 and SIGSTOP leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_support import (
    PATIENCE_S,
    ROOT,
    Connect,
    GatewayProcess,
    batch_of,
    eventually,
    order,
    strategy_url,
    take,
)

import rdmaorder as ro
from rdmaorder import cli, journal

Start = Callable[..., GatewayProcess]

# -- start -------------------------------------------------------------------------------------


@pytest.mark.shm_only
def test_the_first_line_names_address_handler_journal_and_counters(
    start_process: Start, tmp_path: Path
) -> None:
    gateway = start_process("--handler", "venue", "--journal", str(tmp_path / "journal"))
    assert gateway.first_line == (
        f"rdmaorder gateway {ro.__version__}: listening on {gateway.url}, handler venue, "
        f"journal {tmp_path}/journal (sync interval), counters {gateway.counters_path}, "
        f"pid {gateway.pid}\n"
    )
    assert gateway.counters_path.exists()


@pytest.mark.shm_only
def test_its_counters_can_be_read_while_it_runs_and_are_gone_after(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "gw.counters"
    gateway = start_process("--counters", str(path))
    session = connect(gateway)
    session.send_batch(batch_of(7))
    take(session, 7)
    stat = subprocess.run(
        [sys.executable, "-m", "rdmaorder", "stat", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "orders_applied" in stat.stdout
    gateway.end()
    assert not path.exists()


@pytest.mark.shm_only
def test_settings_come_from_the_file_and_the_command_line_wins(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    config = tmp_path / "gw.toml"
    config.write_text(
        '[gateway]\nhandler = "venue"\ninstruments = [7]\norder_slots = 64\ncancel_reserve = 8\n'
    )
    gateway = start_process("--config", str(config), "--handler", "accept")
    assert "handler accept" in gateway.first_line
    session = connect(gateway)
    assert (session.status()["order_slots"], session.status()["cancel_reserve"]) == (64, 8)
    order(session, 1)
    order(session, 2, instrument=8)
    order(session, 1)  # the venue would refuse it
    reasons = [ro.Reason.NONE, ro.Reason.UNKNOWN_INSTRUMENT, ro.Reason.NONE]
    assert list(take(session, 3)["reason"]) == reasons


@pytest.mark.shm_only
def test_a_handler_of_the_users_own_is_found(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "my_handler.py").write_text(
        "import rdmaorder as ro\n"
        "class RefuseAll:\n"
        "    def on_orders(self, orders):\n"
        "        reports = ro.execution_reports(len(orders))\n"
        "        reports['order_sequence'] = orders['sequence']\n"
        "        reports['session_index'] = orders['session_index']\n"
        "        reports['exec_type'] = ro.ExecType.REJECTED\n"
        "        reports['reason'] = ro.Reason.NOT_ENTITLED\n"
        "        return reports\n"
    )
    gateway = start_process("--handler", "my_handler:RefuseAll")
    session = connect(gateway)
    order(session, 1)
    assert take(session, 1)["reason"][0] == ro.Reason.NOT_ENTITLED


def run_gateway(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rdmaorder", "gateway", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def counters_files() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("rdmaorder-*.counters")}


@pytest.mark.shm_only
def test_a_second_gateway_on_the_same_socket_is_refused_and_the_first_goes_on(
    start_process: Start, connect: Connect
) -> None:
    gateway = start_process()
    session = connect(gateway)
    before = counters_files()
    second = run_gateway("--listen", gateway.url)
    assert second.returncode == 2
    assert second.stdout == ""
    socket_path = gateway.url.removeprefix("shm://")
    assert second.stderr == (
        f"rdmaorder: error: listen {socket_path}: a live process (pid {gateway.pid}) listens "
        "there; stop it, or choose another path\n"
    )
    assert counters_files() == before
    order(session, 1)
    take(session, 1)


@pytest.mark.shm_only
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[gateway\n", "is not TOML"),
        ('[gateway]\nhandlr = "venue"\n', "did you mean handler?"),
        ("[gateway]\nmax_quantity = 0\n", "max_quantity = 0: is out of range"),
        ('[gateway]\nsync = "often"\n', "sync = 'often': is none of the choices"),
        ('[gateway]\ninstruments = ["9-7"]\n', "the lower one first"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_bad_config_file_ends_the_start_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str
) -> None:
    config = tmp_path / "gw.toml"
    if text is not None:
        config.write_text(text)
    listen = f"shm://{tmp_path}/gw.sock"
    assert cli.main(["gateway", "--config", str(config), "--listen", listen]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"rdmaorder: error: {config}: ")
    assert errors.count("\n") == 1
    assert told in errors
    assert not (tmp_path / "gw.sock").exists()


@pytest.mark.shm_only
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "listen is not set"),
        (["--listen", "tcp://x"], "is not an address"),
        (["--listen", "shm:///no/such/folder/gw.sock"], "directory /no/such/folder cannot be used"),
        (["--listen", "shm:gw.sock", "--handler", "nobody:Nothing"], "No module named 'nobody'"),
        (["--listen", "shm:gw.sock", "--cpu", "8000"], "cpu 8000 does not exist"),
        (["--listen", "shm:gw.sock", "--journal", "/dev/null/journal"], "/dev/null/journal"),
        (["--listen", "shm:gw.sock", "--counters", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(arguments: list[str], told: str) -> None:
    before = counters_files()
    run = run_gateway(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("rdmaorder: error: ")
    assert run.stderr.count("\n") == 1
    assert told in run.stderr
    assert counters_files() == before


# -- a clean end -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_what_was_sent_just_before(
    start_process: Start, connect: Connect, tmp_path: Path, number: signal.Signals
) -> None:
    gateway = start_process("--journal", str(tmp_path / "journal"))
    sessions = [connect(gateway, name, order_slots=4096) for name in ("alpha", "beta")]
    for session in sessions:
        session.send_batch(batch_of(2000))
    status, output = gateway.end(number)
    assert status == 0
    assert f"rdmaorder gateway: {number.name}, draining\n" in output
    assert "ended after 4000 orders (0 rejected at the gateway), 4000 reports" in output
    for session in sessions:
        assert session.positions.applied == 2000
        assert list(take(session, 1024)["order_sequence"]) == list(range(1, 1025))
        eventually(lambda s=session: s.status()["state"] == "closed", "the end is seen")
        with pytest.raises(ro.SessionClosed, match="the gateway ended the session"):
            order(session, 9999)
    verified = journal.verify(tmp_path / "journal")
    assert verified.ok, verified
    kept = journal.Journal(tmp_path / "journal")
    assert len(kept.orders("alpha")) == len(kept.orders("beta")) == 2000
    assert not gateway.counters_path.exists()
    assert not Path(gateway.url.removeprefix("shm://")).exists()
    assert gateway.stderr == ""


SLOW = """
import os, pathlib, signal, time
import rdmaorder as ro
class Waits:
    def on_order(self, order):
        while not pathlib.Path("{folder}/go-on").exists():
            time.sleep(0.001)
        order.accept()
class SignalledAtStart(Waits):
    def __init__(self):
        for number in ({signals}):
            os.kill(os.getpid(), number)
"""


def test_more_signals_while_it_drains_change_nothing(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW.format(folder=tmp_path, signals=""))
    gateway = start_process("--handler", "slow:Waits")
    session = connect(gateway)
    order(session, 1)
    gateway.send_signal(signal.SIGTERM)
    assert gateway.process.stdout is not None
    assert gateway.process.stdout.readline() == "rdmaorder gateway: SIGTERM, draining\n"
    for number in (signal.SIGTERM, signal.SIGINT):
        gateway.send_signal(number)
    (tmp_path / "go-on").touch()
    status, output = gateway.end()
    assert (status, gateway.stderr) == (0, "")
    assert "ended after 1 orders (0 rejected at the gateway), 1 reports" in output
    assert not gateway.counters_path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_it_starts_drains_it_once_it_has(
    start_process: Start, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(SLOW.format(folder=tmp_path, signals=f"{number:d}, 15, 2"))
    gateway = start_process("--handler", "slow:SignalledAtStart")
    assert gateway.process.stdout is not None
    output = gateway.process.stdout.read()
    assert (gateway.process.wait(PATIENCE_S), gateway.stderr) == (0, "")
    assert output.startswith("rdmaorder gateway: SIG")
    assert ", draining\nrdmaorder gateway: ended after 0 orders" in output


def test_no_signal_interrupts_the_gateways_own_threads(start_process: Start) -> None:
    gateway = start_process()
    asked = sum(1 << number - 1 for number in (signal.SIGTERM, signal.SIGINT))

    def blocked(task: Path) -> tuple[str, int]:
        lines = (task / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        return status["Name"], int(status["SigBlk"], 16) & asked

    tasks = Path(f"/proc/{gateway.pid}/task")

    def own_threads() -> dict[str, int]:  # each names itself when it first runs
        found = {name: mask for name, mask in map(blocked, tasks.iterdir()) if name[:3] == "ro-"}
        return found if len(found) == 2 else {}

    own = eventually(own_threads, "receiver and replay run")
    assert own == {"ro-receiver": asked, "ro-replay": asked}
    eventually(lambda: blocked(tasks / str(gateway.pid))[1] == 0, "the first thread takes them")


def test_a_strategy_that_sends_without_pause_loses_nothing_over_the_end(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    """Every order whose send returned is applied, up to the moment sends are refused."""
    gateway = start_process("--journal", str(tmp_path / "journal"))
    session = connect(gateway)
    sequences = []

    def send_on() -> None:
        while True:
            sequences.append(order(session, session.next_sequence))
            session.poll()
            if len(sequences) == 200:
                gateway.send_signal(signal.SIGTERM)

    with pytest.raises((ro.SessionClosed, ro.NotConnected)):
        send_on()
    last = len(sequences)
    assert last >= 200
    assert gateway.process.wait(PATIENCE_S) == 0
    assert session.positions.applied == last
    orders = journal.Journal(tmp_path / "journal").orders("alpha")
    assert list(orders["sequence"]) == list(range(1, last + 1))


# -- kill -9 of the strategy -------------------------------------------------------------------

STRATEGY = """
import sys, time
import rdmaorder as ro
from gateway_support import batch_of, LENIENT
session = ro.connect(sys.argv[1], "alpha", order_slots=4096, **LENIENT)
session.send_batch(batch_of(3000))
print(session.next_sequence, flush=True)
time.sleep(600)
"""


def start_strategy(url: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", STRATEGY, url],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_strategy_is_noticed_drained_and_can_go_on(
    start_process: Start, connect: Connect, tmp_path: Path, transport: str
) -> None:
    gateway = start_process("--journal", str(tmp_path / "journal"))
    other = connect(gateway, "other")
    with start_strategy(strategy_url(gateway.url)) as strategy:
        assert strategy.stdout is not None
        assert strategy.stdout.readline() == "3001\n"
        owner = f"pid {strategy.pid}" if transport == "shm" else "is live on another connection"
        with pytest.raises(ro.Refused, match=owner) as raised:
            connect(gateway)
        assert raised.value.code == "DuplicateId"
        strategy.kill()
    session = connect(gateway)
    assert session.next_sequence == 3001
    assert session.status()["next_report_sequence"] == 3001
    assert session.events() == []
    assert order(session, 3001) == 3001
    assert take(session, 1)["sequence"][0] == 3001
    order(other, 1)
    take(other, 1)
    assert gateway.end()[0] == 0
    kept = journal.Journal(tmp_path / "journal")
    assert list(kept.orders("alpha")["sequence"]) == list(range(1, 3002))
    assert list(kept.reports("alpha")["order_sequence"]) == list(range(1, 3002))
    assert "session alpha lost: closed by the peer" in gateway.stderr


# -- kill -9 and SIGSTOP of the gateway --------------------------------------------------------


def test_a_killed_gateway_is_noticed_and_what_it_answered_is_delivered(
    start_process: Start, connect: Connect
) -> None:
    gateway = start_process()
    session = connect(gateway)
    session.send_batch(batch_of(100))
    assert session.wait_applied(100, PATIENCE_S)
    gateway.process.kill()
    gateway.process.wait()

    def send_on() -> None:
        while True:
            session.cancel_order(999, 1)
            time.sleep(0.001)

    with pytest.raises(ro.NotConnected) as raised:
        send_on()
    gone = "the gateway is gone: control connection closed"  # reaped: past "its process is exiting"
    assert str(raised.value) == f"cancel_order: not_connected: {gone}"
    status = session.status()
    assert (status["state"], status["cause"]) == ("dead", gone)
    assert session.try_new_order(1000, 7, 1, 5, 1) == ro.Status.NOT_CONNECTED
    assert session.next_sequence == status["next_sequence"]
    assert list(take(session, 100)["order_sequence"]) == list(range(1, 101))
    with pytest.raises(ro.NotConnected, match="the gateway is gone"):
        session.poll()
    assert session.close() is False


def test_a_gateway_restarted_on_its_journal_goes_on_where_it_ends(
    start_process: Start, connect: Connect, tmp_path: Path
) -> None:
    arguments = ("--journal", str(tmp_path / "journal"))
    last = 0
    for life in range(4):
        gateway = start_process(*arguments)
        recovered = "records recovered" in gateway.first_line
        assert recovered == (life > 0)
        session = connect(gateway)
        assert session.next_sequence == session.status()["next_report_sequence"] == last + 1
        session.send_batch(batch_of(50, first_id=last + 1))
        reports = take(session, 50)
        assert list(reports["order_sequence"]) == list(range(last + 1, last + 51))
        assert list(reports["sequence"]) == list(range(last + 1, last + 51))
        last += 50
        gateway.end(signal.SIGKILL if life % 2 == 0 else signal.SIGTERM)
    verified = journal.verify(tmp_path / "journal")
    assert verified.ok, verified
    kept = journal.Journal(tmp_path / "journal")
    assert list(kept.orders("alpha")["sequence"]) == list(range(1, last + 1))
    assert list(kept.reports("alpha")["sequence"]) == list(range(1, last + 1))
    assert list(kept.orders("alpha")["cl_ord_id"]) == list(range(1, last + 1))


@pytest.mark.shm_only
def test_a_second_gateway_on_the_same_journal_is_refused(
    start_process: Start, tmp_path: Path
) -> None:
    start_process("--journal", str(tmp_path / "journal"))
    second = run_gateway(
        "--listen", f"shm://{tmp_path}/two.sock", "--journal", str(tmp_path / "journal")
    )
    assert second.returncode == 2
    assert second.stderr.startswith("rdmaorder: error: ")
    assert str(tmp_path / "journal") in second.stderr


def test_a_stopped_gateway_makes_the_session_suspect_until_it_goes_on(
    start_process: Start, connect: Connect
) -> None:
    gateway = start_process()
    session = connect(gateway, suspect_after_s=0.05, dead_after_s=60)
    order_until_taken(session, 1)
    gateway.send_signal(signal.SIGSTOP)
    eventually(lambda: session.status()["state"] == "suspect", "the silence is seen")
    before = session.next_sequence
    with pytest.raises(ro.NotConnected, match=r"no heartbeat from the gateway for [0-9]+ ms"):
        order(session, 2)
    assert session.try_cancel_order(2, 1) == ro.Status.NOT_CONNECTED
    with pytest.raises(ro.NotConnected) as raised:
        session.send_batch(batch_of(3))
    assert raised.value.sent == 0
    assert session.next_sequence == before
    assert len(session.poll()) == 0  # suspect is not over
    gateway.send_signal(signal.SIGCONT)
    eventually(lambda: session.status()["state"] == "live", "it is alive again")
    assert order_until_taken(session, 2) == before
    assert session.close(PATIENCE_S)


def order_until_taken(session: ro.Session, cl_ord_id: int) -> int:
    """Sends one order; on a slow machine a gateway may be suspect for a moment."""

    def send() -> int:
        sequence: int = session.try_new_order(cl_ord_id, 7, ro.BUY, 5, 1)
        return max(sequence, 0)

    sequence: int = eventually(send, "the order is taken")
    assert list(take(session, 1)["order_sequence"]) == [sequence]
    return sequence


def test_a_gateway_that_stays_stopped_is_dead_after_the_time_given(
    start_process: Start, connect: Connect
) -> None:
    gateway = start_process()
    session = connect(gateway, suspect_after_s=0.05, dead_after_s=0.2)
    gateway.send_signal(signal.SIGSTOP)
    eventually(lambda: session.status()["state"] == "dead", "it is given up")
    with pytest.raises(ro.NotConnected, match=r"no heartbeat from the gateway for [0-9]+ ms"):
        session.poll()
    gateway.send_signal(signal.SIGCONT)
    time.sleep(0.01)
    assert session.status()["state"] == "dead"  # for good: its orders may be anywhere
    again = connect(gateway, "beta")
    order(again, 1)
    take(again, 1)
