"""How ``rdmaorder pingpong`` shows that it is under way, and how it ends when something ends it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from gateway_support import PATIENCE_S, ROOT, eventually
from pingpong_support import (
    COMMAND,
    FEW,
    children_of,
    ending,
    is_running,
    listening,
    measured,
    measuring,
    pingpong,
    worker_of,
)

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two spinning ends need two processors"
)
LONG = ("-D", "20")


@pytest.mark.parametrize("level", ["raw", "session"])
def test_a_peer_that_disappears_leaves_a_marked_result(tmp_path: Path, level: str) -> None:
    with measuring(tmp_path, *LONG, "--level", level) as (client, worker):
        os.kill(worker, signal.SIGKILL)
        text, result = ending(client, tmp_path, 1)
    assert (result["complete"], result["ending"]) == (False, "peer lost")
    assert "the other side is gone" in text


def test_ctrl_c_prints_what_there_is_however_often_it_is_pressed(tmp_path: Path) -> None:
    with measuring(tmp_path, *LONG) as (client, _):
        while client.poll() is None:
            client.send_signal(signal.SIGINT)
            time.sleep(0.02)
        text, result = ending(client, tmp_path, 130)
    assert "interrupted: this is what had been measured" in text
    assert result["ending"] == "interrupted"
    assert result["levels"]["session"]["count"] > 0


def on_a_terminal(*arguments: str, kind: str = "xterm") -> tuple[str, str, int]:
    """Runs the tool with standard error on a terminal: that, standard output, exit status."""
    environment = {**os.environ, "TERM": kind}
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        client = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other side has closed it
            while part := terminal.read(4096):
                shown += part
        text, _ = client.communicate(timeout=PATIENCE_S)
    return shown.decode(), text, client.returncode


def test_a_long_run_shows_how_far_it_is(tmp_path: Path) -> None:
    arguments = ("-D", "3", "--repeats", "1", "--level", "session,python")
    shown, text, status = on_a_terminal(*arguments)
    assert status == 0, text
    for level, number in (("session", 1), ("python", 2)):
        assert re.search(rf"\rrun {number} of 2: {level}, [12] s of 3, [\d,]+ orders", shown), shown
    assert shown.rstrip().endswith("\x1b[K"), "the line is gone before the tables"
    assert "run 1 of" not in text


def test_a_terminal_that_cannot_rewrite_a_line_gets_whole_lines() -> None:
    shown, _, status = on_a_terminal(*FEW[:-1], "--level", "raw", kind="dumb")
    assert status == 0
    assert "\x1b" not in shown and "run 1 of 1: raw\r\n" in shown


def test_without_a_terminal_progress_is_whole_lines_and_quiet_is_silent(tmp_path: Path) -> None:
    arguments = [*COMMAND, *FEW[:-1], "--level", "raw,session"]
    for quiet, expected in ((False, ["run 1 of 2: raw", "run 2 of 2: session"]), (True, [])):
        done = subprocess.run(
            [*arguments, *(["-q"] if quiet else [])],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
            check=True,
        )
        lines = done.stderr.splitlines()
        runs = [line.removeprefix("rdmaorder pingpong: ") for line in lines if "run " in line]
        assert runs == expected
        assert "\r" not in done.stderr and (not quiet or not done.stderr)


def test_a_server_that_is_killed_leaves_a_marked_result(tmp_path: Path) -> None:
    out, url = tmp_path / "out.json", f"shm://{tmp_path}/pp.sock"
    with listening(url) as server:
        client = subprocess.Popen(
            [*COMMAND, "--to", url, "-D", "20", "-q", "--json", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        eventually(lambda: worker_of(server.pid, client.pid), "the answering end runs")
        time.sleep(0.3)
        server.kill()
        text, _ = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 1, text
    result = json.loads(out.read_text())
    assert (result["complete"], result["ending"]) == (False, "peer lost")
    assert result["levels"]["session"]["runs"][0]["complete"] is False
    assert result["levels"]["session"]["count"] > 0


def test_a_server_that_is_told_again_and_again_to_end_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client tells its own server to end, which may just be ending by itself."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    url = f"shm://{tmp_path}/pp.sock"
    with listening(url) as server:
        levels = ("--level", "session,gateway", "-D", "20", "-q")
        client = subprocess.Popen([*COMMAND, "--to", url, *levels], stdout=subprocess.DEVNULL)
        eventually(lambda: worker_of(server.pid, client.pid), "the answering end runs")
        workers = children_of(server.pid)
        while server.poll() is None:
            server.terminate()
            time.sleep(0.001)
        assert server.returncode == 0
        assert not [worker for worker in workers if is_running(worker)]
        assert client.wait(PATIENCE_S) == 1
    assert not list(tmp_path.iterdir())


def test_ends_that_are_killed_leave_nobody_behind_and_no_files_after_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    journal = ("--level", "gateway", "--journal", str(tmp_path / "journals"))
    with measuring(tmp_path, *LONG, *journal) as (client, _):
        started = children_of(client.pid)
        assert len(started) == 2  # server and worker
        os.kill(started[0], signal.SIGKILL)
        client.kill()
        client.wait(PATIENCE_S)
        eventually(lambda: not any(is_running(pid) for pid in started), "both have ended as well")
    folders = [tmp_path / "tmp", tmp_path / "journals"]
    assert [path for folder in folders for path in folder.iterdir()]
    assert measured(tmp_path, *journal)["complete"]
    assert [path for folder in folders for path in folder.iterdir()] == []


def test_a_journal_folder_that_cannot_be_used_is_named() -> None:
    text = pingpong(*FEW, "--level", "gateway", "--journal", "/proc/none", status=2)
    assert "--journal /proc/none: No such file or directory; name a folder" in text


def test_nonsense_ends_a_connection_and_not_the_server(tmp_path: Path) -> None:
    url = f"shm://{tmp_path}/pp.sock"
    with listening(url):
        for line in (b"GET / HTTP/1.1\n", b"[]\n", b'{"rdmaorder-pingpong": 2}\n', b""):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(f"{tmp_path}/pp.sock")
                connection.sendall(line)
        assert measured(tmp_path, "--to", url, "--level", "raw")["complete"]


@pytest.mark.parametrize("level", ["raw", "python"])
def test_sigterm_ends_as_ctrl_c_does(tmp_path: Path, level: str) -> None:
    with measuring(tmp_path, *LONG, "--level", level) as (client, _):
        client.terminate()
        _, result = ending(client, tmp_path, 130)
    assert (result["complete"], result["ending"]) == (False, "interrupted")
    out = str(tmp_path / "out.json")
    assert "cut short (interrupted)" in pingpong("compare", out, out, status=2)


def test_where_nothing_can_be_written_is_said_before_the_first_order(tmp_path: Path) -> None:
    """Root may write everywhere, but not where a file system makes no files."""
    text = pingpong(*FEW, "-n", "5000000", "--json", "/proc/out.json", status=2)
    assert "/proc/out.json: cannot be written" in text and "warning" not in text
    assert not list(tmp_path.iterdir())
    existing = tmp_path / "kept.json"
    existing.write_text("before")
    pingpong(*FEW, "--cpu", "4097", "--json", str(existing), status=2)
    assert existing.read_text() == "before"


def test_a_client_that_is_killed_at_its_start_leaves_no_server_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    client = subprocess.Popen([*COMMAND, *FEW], stdout=subprocess.DEVNULL, cwd=ROOT)
    started = eventually(lambda: children_of(client.pid), "the server has been started")
    client.send_signal(signal.SIGSTOP)  # before it has dialled
    eventually(lambda: list(tmp_path.glob("*/pp.sock")), "the server listens")
    time.sleep(0.3)
    client.kill()
    client.wait(PATIENCE_S)
    eventually(lambda: not any(is_running(pid) for pid in started), "the server has ended as well")


@pytest.mark.parametrize("level", ["raw", "python"])
def test_a_closed_terminal_ends_as_ctrl_c_does(tmp_path: Path, level: str) -> None:
    out, url = tmp_path / "out.json", f"shm://{tmp_path}/pp.sock"
    run = (*COMMAND, "--to", url, "-D", "20", "-q", "--level", level, "--json", str(out))
    with listening(url) as server:
        client = subprocess.Popen(run, stdout=subprocess.DEVNULL, cwd=ROOT)
        eventually(lambda: worker_of(server.pid, client.pid), "the answering end runs")
        client.send_signal(signal.SIGHUP)
        assert client.wait(PATIENCE_S) == 130
        server.send_signal(signal.SIGHUP)
        assert server.wait(PATIENCE_S) == 0
    assert json.loads(out.read_text())["ending"] == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_closed_terminal_is_nothing_to_nohup(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    run = ("nohup", *COMMAND, "-D", "2", "--repeats", "1", "-q", "--json", str(out))
    client = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    eventually(lambda: worker_of(client.pid), "the answering end runs")
    client.send_signal(signal.SIGHUP)
    assert client.wait(PATIENCE_S) == 0
    assert json.loads(out.read_text())["complete"]
