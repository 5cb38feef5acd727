"""The soft-RoCE machine keeps its promises: two devices, one wire, exact streams and status.

What the run of the suite shows (inside/run leaves it) costs nothing more. Promises about a run's
end need a boot each, some minutes together: with RDMAORDER_RDMA_MACHINE=1.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rdma_suite import Suite, is_native

pytestmark = [
    pytest.mark.rdma,
    pytest.mark.skipif(is_native(), reason="RDMAORDER_RDMA=native: no machine is booted"),
]
boots = pytest.mark.skipif(
    os.environ.get("RDMAORDER_RDMA_MACHINE") != "1",
    reason="boots QEMU once more: set RDMAORDER_RDMA_MACHINE=1 to run it",
)

RUN = Path(__file__).resolve().parent / "run"
# Far above what a boot takes, so that a hang fails here and a busy machine does not.
LIMIT_S = 240


def run(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """One run of the machine, from the top of the checkout."""
    source = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
    return subprocess.run(
        [RUN, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=RUN.parents[2],
        env={**os.environ, "RDMAORDER_PASSED": "passed on"},
        **source,
    )


def emulators(log: Path) -> list[int]:
    """Process numbers of the QEMU processes that write this kernel log."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue  # ended meanwhile
        if b"qemu-system" in words and os.fsencode(log) in words:
            found.append(int(entry.parent.name))
    return found


def until(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold before a limit that only a hang reaches."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_command_killed_by_a_signal_gives_128_and_its_number(suite: Suite) -> None:
    assert suite.status == 128 + signal.SIGKILL, suite.stderr


def test_stdout_and_stderr_stay_apart_and_bear_nothing_else(suite: Suite) -> None:
    assert suite.stdout == "out\nout again\n"
    assert "err\n" in suite.stderr
    assert "tests/rdma/run" not in suite.stderr
    assert "[    " not in suite.stderr


def test_standard_input_arrives_with_its_end(suite: Suite) -> None:
    assert suite["stdin"] == "line 1\nline 2"


def test_both_devices_are_active(suite: Suite) -> None:
    devices = re.findall(r"hca_id:\s+(\S+).*?state:\s+(\S+)", suite["devices"], re.DOTALL)
    assert sorted(devices) == [("rxe0", "PORT_ACTIVE"), ("rxe1", "PORT_ACTIVE")]


def test_memory_may_be_locked_without_limit(suite: Suite) -> None:
    assert suite["ulimit"] == "unlimited"


def test_the_checkout_and_its_environment_are_there(suite: Suite, repository: Path) -> None:
    assert suite["import"] == str(repository / "rdmaorder" / "__init__.py"), suite["import.err"]
    assert suite["environment"] == f"soft-roce|passed on|a b|{repository}|0", suite.end


def test_nothing_written_inside_reaches_the_host_but_in_shared_folders(
    suite: Suite, repository: Path
) -> None:
    assert (suite.folder / "devices").exists()
    assert (repository / "README.md").read_text() != "changed\n"


@boots
@pytest.mark.parametrize(
    ("command", "status"),
    [(["true"], 0), (["sh", "-c", "exit 3"], 3), (["/no/such/program"], 127)],
    ids=["0", "3", "127"],
)
def test_the_exit_status_passes_through(command: list[str], status: int) -> None:
    result = run("--", *command)
    assert result.returncode == status, result.stderr


@boots
def test_the_time_limit_ends_a_command_that_will_not_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "trap '' TERM; echo on; sleep 600; sleep 600"
    result = run("--timeout", "1", "--log", str(log), "--", "sh", "-c", script)
    assert result.returncode == 124
    assert result.stdout == "on\n"
    assert f"time limit of 1 s; kernel log: {log}" in result.stderr
    assert "Linux version" in log.read_text()
    assert emulators(log) == []


@boots
def test_a_machine_that_is_not_up_in_time_says_so_with_its_log() -> None:
    result = run("--boot-timeout", "0.5", "--", "true")
    assert result.returncode == 125
    assert "the machine was not up after 0.5 s" in result.stderr
    assert "kernel log: " in result.stderr


@boots
def test_an_interrupt_reaches_the_command_and_leaves_nothing_running(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "trap 'echo interrupted; exit 7' INT; echo on; while :; do sleep 0.1; done"
    command = [RUN, "--log", log, "--", "bash", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"  # while it runs: output streams
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert (rest, process.returncode) == ("interrupted\n", 7)
    assert emulators(log) == []


@boots
def test_a_killed_run_takes_its_machine_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = subprocess.Popen([RUN, "--log", log, "--", "cat"], stdin=subprocess.PIPE)
    try:
        assert until(lambda: emulators(log) != [])
    finally:
        process.kill()
        process.communicate()
    assert until(lambda: emulators(log) == [])


@boots
def test_a_reader_that_leaves_ends_the_command() -> None:
    command = [RUN, "--", "sh", "-c", "while echo y; do :; done"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "y\n"
        process.stdout.close()
        assert process.wait(LIMIT_S) == 128 + signal.SIGPIPE
    finally:
        process.kill()
        process.wait()


@boots
def test_a_shell_has_a_terminal_of_our_size() -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
    os.write(ours, b"tty; stty size; exit 5\n")
    command = [RUN, "--timeout", "60", "--shell"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # a terminal without its last user
            while data := os.read(ours, 4096):
                shown += data
        status = process.wait(LIMIT_S)
    os.close(ours)
    assert status == 5, shown
    assert b"/dev/pts/" in shown and b"33 99" in shown
