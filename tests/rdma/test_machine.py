"""The soft-RoCE machine keeps its promises: two devices, one wire, exact streams and status.

One boot serves most tests: `facts` runs PROBE inside and reads the files it leaves in a shared
folder. Promises about a run's end need a boot each.
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
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.rdma,
    pytest.mark.skipif(
        os.environ.get("RDMAORDER_RDMA_MACHINE") != "1",
        reason="boots QEMU for some minutes: set RDMAORDER_RDMA_MACHINE=1 to run it",
    ),
]

RUN = Path(__file__).resolve().parent / "run"
# Far above what a boot takes, so that a hang fails here and a busy machine does not.
LIMIT_S = 240

PROBE = r"""
out=$1
leave() { name=$1; shift; timeout 90 "$@" >"$out/$name" 2>"$out/$name.err"; }
gid_index() {  # DEVICE GID-END
  grep -l "$2\$" /sys/class/infiniband/$1/ports/1/gids/* | head -1 | sed 's#.*/##'
}
write_lat() {  # COUNT: RDMA WRITEs between the two devices
  timeout 90 ib_write_lat -d rxe0 -x "$(gid_index rxe0 0a01:0001)" -s 64 -n "$1" >/dev/null 2>&1 &
  # Its control connection listens on port 18515 (0x4853).
  until grep -qi ':4853 ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done
  timeout 90 ib_write_lat -d rxe1 -x "$(gid_index rxe1 0a01:0002)" -s 64 -n "$1" 10.1.0.1
  status=$?
  wait $!
  return $((status + $?))
}

leave devices ibv_devinfo
leave ulimit sh -c 'ulimit -l'
leave import python -c 'import rdmaorder; print(rdmaorder.__file__)'
leave environment sh -c 'echo "$RDMAORDER_RDMA|$RDMAORDER_PASSED|$NAMED|$(pwd)|$(id -u)"'

tcpdump -Z root -U -i v0 -w "$out/wire.pcap" udp port 4791 2>"$out/tcpdump.err" &
capture=$!
until grep -q 'listening on' "$out/tcpdump.err"; do sleep 0.1; done
write_lat 50 >"$out/write_lat" 2>&1
echo "$?" >"$out/write_lat.status"
kill $capture
wait $capture
leave packets sh -c "tcpdump -nr '$out/wire.pcap' | wc -l"

rping -s -a fd10:1::1 -C 3 >/dev/null 2>&1 &
sleep 1
leave ipv6 sh -c 'rping -c -a fd10:1::1 -I fd10:1::2 -C 3 -v'

tc qdisc add dev v1 root netem loss 20%
write_lat 100 >"$out/lossy" 2>&1
echo "$?" >"$out/lossy.status"
leave netem tc -s qdisc show dev v1
leave retries cat /sys/class/infiniband/rxe1/ports/1/hw_counters/completer_retry_err

echo changed >README.md
cat >"$out/stdin"
echo out; echo err >&2; echo out again
kill -KILL $$
"""


@dataclass(frozen=True)
class Facts:
    """What one run of PROBE left."""

    folder: Path
    result: subprocess.CompletedProcess[str]

    def __getitem__(self, name: str) -> str:
        return (self.folder / name).read_text().strip()


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


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = tmp_path_factory.mktemp("machine")
    words = ["--share", str(folder), "--env", "NAMED=a b", "--timeout", "200"]
    result = run(*words, "--", "bash", "-c", PROBE, "probe", str(folder), text="line 1\nline 2\n")
    return Facts(folder, result)


def test_a_command_killed_by_a_signal_gives_128_and_its_number(facts: Facts) -> None:
    assert facts.result.returncode == 128 + signal.SIGKILL, facts.result.stderr


def test_stdout_and_stderr_stay_apart_and_bear_nothing_else(facts: Facts) -> None:
    assert facts.result.stdout == "out\nout again\n"
    # Job control of bash reports on background processes; nothing of the machine may be there.
    assert "err\n" in facts.result.stderr
    assert "tests/rdma/run" not in facts.result.stderr
    assert "[    " not in facts.result.stderr


def test_standard_input_arrives_with_its_end(facts: Facts) -> None:
    assert facts["stdin"] == "line 1\nline 2"


def test_both_devices_are_active(facts: Facts) -> None:
    devices = re.findall(r"hca_id:\s+(\S+).*?state:\s+(\S+)", facts["devices"], re.DOTALL)
    assert sorted(devices) == [("rxe0", "PORT_ACTIVE"), ("rxe1", "PORT_ACTIVE")]


def test_memory_may_be_locked_without_limit(facts: Facts) -> None:
    assert facts["ulimit"] == "unlimited"


def test_the_checkout_and_its_environment_are_there(facts: Facts, repository: Path) -> None:
    assert facts["import"] == str(repository / "rdmaorder" / "__init__.py"), facts["import.err"]
    assert facts["environment"] == f"soft-roce|passed on|a b|{repository}|0"


def test_every_write_crosses_the_wire(facts: Facts) -> None:
    assert facts["write_lat.status"] == "0", facts["write_lat"]
    # 50 WRITEs each way, each acknowledged.
    assert int(facts["packets"]) >= 200


def test_ipv6_crosses_the_wire_too(facts: Facts) -> None:
    assert facts["ipv6"].count("ping data") == 3, facts["ipv6.err"]


def test_lost_packets_are_sent_again(facts: Facts) -> None:
    assert facts["lossy.status"] == "0", facts["lossy"]
    dropped = re.search(r"dropped (\d+)", facts["netem"])
    assert dropped is not None and int(dropped[1]) > 0
    assert int(facts["retries"]) > 0


def test_nothing_written_inside_reaches_the_host_but_in_shared_folders(
    facts: Facts, repository: Path
) -> None:
    assert (facts.folder / "devices").exists()
    assert (repository / "README.md").read_text() != "changed\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [(["true"], 0), (["sh", "-c", "exit 3"], 3), (["/no/such/program"], 127)],
    ids=["0", "3", "127"],
)
def test_the_exit_status_passes_through(command: list[str], status: int) -> None:
    result = run("--", *command)
    assert result.returncode == status, result.stderr


def test_the_time_limit_ends_a_command_that_will_not_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "trap '' TERM; echo on; sleep 600; sleep 600"
    result = run("--timeout", "1", "--log", str(log), "--", "sh", "-c", script)
    assert result.returncode == 124
    assert result.stdout == "on\n"
    assert f"time limit of 1 s; kernel log: {log}" in result.stderr
    assert "Linux version" in log.read_text()
    assert emulators(log) == []


def test_a_machine_that_is_not_up_in_time_says_so_with_its_log() -> None:
    result = run("--boot-timeout", "0.5", "--", "true")
    assert result.returncode == 125
    assert "the machine was not up after 0.5 s" in result.stderr
    assert "kernel log: " in result.stderr


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


def test_a_killed_run_takes_its_machine_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = subprocess.Popen([RUN, "--log", log, "--", "cat"], stdin=subprocess.PIPE)
    try:
        assert until(lambda: emulators(log) != [])
    finally:
        process.kill()
        process.communicate()
    assert until(lambda: emulators(log) == [])


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
