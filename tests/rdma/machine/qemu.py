"""One running machine: QEMU's command line, its streams, its end."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import packages
from .failure import EXIT_TIME_LIMIT, MachineFailure

_CHUNK = 65536
_PORTS = ("stdin", "stdout", "stderr", "control")
# From a signal or the time limit until the machine is ended, if the command does not end by itself.
_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1
# With these two the kernel copies by `rep movsb`, which is emulated byte by byte: slow, and a word
# of an RDMA WRITE can be seen half written. Without them it copies words.
_PROCESSOR = "max,erms=off,fsrm=off"
_BOOT_ARGUMENTS = (
    # Log on the serial port; a panic or an Oops ends QEMU instead of hanging the run.
    "console=ttyS0 panic=-1 oops=panic "
    # The emulated TSC is good, the kernel cannot see it; without it reading a clock takes 10 us.
    "tsc=reliable no_timer_check "
    # Nothing to defend in here, and each costs under emulation.
    "mitigations=off nokaslr audit=0 random.trust_cpu=on "
    # A stall of the host is no lock-up of the guest.
    "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120"
)


@dataclass(frozen=True)
class Hardware:
    """What QEMU is to emulate."""

    kernel: Path
    initramfs: int  # descriptor of the archive in memory: nothing to leave behind
    disks: list[Path]
    shares: list[Path]
    log: Path  # the kernel's console
    cpu_count: int
    memory_mib: int
    without: tuple[str, ...] = ()  # features of the processor, by QEMU's names


def _command_line(hardware: Hardware, ports: dict[str, socket.socket]) -> list[str]:
    command = [packages.required_program("qemu-system-x86_64"), "-nodefaults", "-no-user-config"]
    command += ["-machine", "q35", "-accel", "tcg"]
    command += ["-cpu", ",".join([_PROCESSOR, *(f"{each}=off" for each in hardware.without)])]
    command += ["-smp", str(hardware.cpu_count), "-m", f"{hardware.memory_mib}M"]
    command += ["-display", "none", "-nic", "none", "-no-reboot"]
    command += ["-kernel", str(hardware.kernel), "-initrd", f"/proc/self/fd/{hardware.initramfs}"]
    command += ["-append", _BOOT_ARGUMENTS, "-serial", f"file:{_value(hardware.log)}"]
    command += ["-device", "virtio-serial-pci"]
    for name, port in ports.items():
        command += ["-chardev", f"socket,id={name},fd={port.fileno()}"]
        command += ["-device", f"virtserialport,chardev={name},name={name}"]
    for index, disk in enumerate(hardware.disks):
        drive = f"if=none,id=disk{index},format=raw,readonly=on,file={_value(disk)}"
        command += ["-drive", drive, "-device", f"virtio-blk-pci,drive=disk{index}"]
    shared = [("host", Path("/"), ",readonly=on")]
    shared += [(f"share{index}", path, "") for index, path in enumerate(hardware.shares)]
    for tag, path, mode in shared:
        folder = f"local,id={tag},path={_value(path)},security_model=none,multidevs=remap{mode}"
        command += ["-fsdev", folder, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return command


def _value(path: Path) -> str:
    """A path inside one of QEMU's option lists, where a comma is written twice."""
    return str(path).replace(",", ",,")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """A QEMU process and the host's ends of its ports. Leaving the context ends it for sure."""

    def __init__(self, hardware: Hardware) -> None:
        pairs = {name: socket.socketpair() for name in _PORTS}
        self._ports = {name: ours for name, (ours, _) in pairs.items()}
        theirs = {name: end for name, (_, end) in pairs.items()}
        self._process = subprocess.Popen(
            _command_line(hardware, theirs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[hardware.initramfs, *(end.fileno() for end in theirs.values())],
            start_new_session=True,  # the terminal's Ctrl-C is for us, not for QEMU
            preexec_fn=_die_with_parent,
        )
        for end in theirs.values():
            end.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for port in self._ports.values():
            port.close()
        if self._process.stderr:
            self._process.stderr.close()

    def complaint(self) -> str:
        """What QEMU said before it ended by itself."""
        self._process.wait()
        if self._process.stderr is None:
            return ""
        return self._process.stderr.read().decode(errors="replace").strip()

    def tell(self, order: str, *numbers: int) -> None:
        """An order to the agent; one that is gone hears nothing."""
        with contextlib.suppress(OSError):
            self._ports["control"].sendall(f"{order} {' '.join(map(str, numbers))}\n".encode())

    def port(self, name: str) -> socket.socket:
        return self._ports[name]


@dataclass(frozen=True)
class Limits:
    """How long a run may take. The boot counts apart: a busy host must not eat into the command."""

    boot_s: float
    command_s: float


class Run:
    """Carries the streams of one run until its status is known."""

    def __init__(self, machine: Machine, limits: Limits, on_ready: Callable[[float], None]) -> None:
        self.machine = machine
        self.limits = limits
        self.deadline = time.monotonic() + limits.boot_s
        self.end_by: float | None = None  # set once the command has been told to end
        self.signalled = 0
        self.timed_out = False
        self.received = {"stdout": 0, "stderr": 0}
        self.discard: set[str] = set()  # streams whose reader has gone
        self.status: int | None = None  # the agent's exit message
        self.written: dict[str, int] = {}
        self.ready = False
        self.on_ready = on_ready
        self.lines = b""
        self.poll = select.poll()
        for name in ("stdout", "stderr", "control"):
            self.poll.register(machine.port(name), select.POLLIN)

    def until_exit(self) -> int:
        """The status for our caller. Raises MachineFailure when the machine fails."""
        names = {self.machine.port(name).fileno(): name for name in _PORTS}
        with self._signals() as woken:
            self.poll.register(woken, select.POLLIN)
            while not self._complete():
                for descriptor, _ in self.poll.poll(self._wait_ms()):
                    if descriptor == woken:
                        self._on_signal(os.read(woken, 64))
                    elif descriptor in names:
                        self._on_data(names[descriptor])
                    else:
                        self._on_input(descriptor)
                if self._is_over():
                    break
        if self.timed_out:
            return EXIT_TIME_LIMIT
        if self.status is None or self.signalled == signal.SIGPIPE:
            return 128 + self.signalled
        return self.status  # after a signal too: the command may have an answer to it

    def _complete(self) -> bool:
        """The command has ended and every byte it wrote is here."""
        return self.status is not None and self.received == self.written

    def _wait_ms(self) -> float:
        until = self.deadline if self.end_by is None else self.end_by
        return max(0.0, (until - time.monotonic()) * 1000) + 1

    def _is_over(self) -> bool:
        """Whether time is up; the first time, the command is told to end."""
        now = time.monotonic()
        if self.end_by is not None:
            return now >= self.end_by
        if now >= self.deadline:
            if not self.ready:
                raise MachineFailure(f"the machine was not up after {self.limits.boot_s:g} s.")
            self.timed_out = True
            self._ask_to_end(signal.SIGTERM)
        return False

    def _ask_to_end(self, number: int) -> None:
        self.machine.tell("signal", int(number))
        # Before it is ready there is nothing to wait for.
        self.end_by = time.monotonic() + (_GRACE_S if self.ready else 0.0)

    def _on_signal(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self.machine.tell("size", *terminal_size())
            elif self.signalled:
                self.end_by = time.monotonic()  # the second time means now
            else:
                self.signalled = number
                self._ask_to_end(number)

    def _on_data(self, name: str) -> None:
        data = self.machine.port(name).recv(_CHUNK)
        if not data:
            raise MachineFailure(f"the machine ended by itself. {self.machine.complaint()}".strip())
        if name == "control":
            self._on_messages(data)
            return
        self.received[name] += len(data)
        if name in self.discard:
            return
        try:
            _write_all(1 if name == "stdout" else 2, data)
        except BrokenPipeError:
            # Whoever read us has gone, as with `| head`: end as a program in a pipe does.
            self.discard.add(name)
            self.signalled = self.signalled or signal.SIGPIPE
            self._ask_to_end(signal.SIGPIPE)

    def _on_messages(self, data: bytes) -> None:
        *lines, self.lines = (self.lines + data).split(b"\n")
        for line in lines:
            kind, _, rest = line.decode(errors="replace").partition(" ")
            if kind == "failed":
                raise MachineFailure(f"the machine booted, but {rest}")
            if kind == "ready":
                self.ready = True
                self.deadline = time.monotonic() + self.limits.command_s
                self.on_ready(float(rest))
                self.poll.register(0, select.POLLIN)
            if kind == "exit":
                status, stdout, stderr = map(int, rest.split())
                self.status, self.written = status, {"stdout": stdout, "stderr": stderr}

    def _on_input(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except OSError:  # a terminal that is not ours at the moment
            data = b""
        port = self.machine.port("stdin")
        with contextlib.suppress(OSError):
            if data:
                port.sendall(data)
                return
            port.shutdown(socket.SHUT_WR)
        self.poll.unregister(descriptor)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """A descriptor that gives one byte, its number, for each signal that arrives."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH):
            before[number] = signal.signal(number, lambda *_: None)
        # Reading a terminal in the background then fails instead of stopping us.
        before[signal.SIGTTIN] = signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        waker = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours.fileno()
        finally:
            signal.set_wakeup_fd(waker)
            for number, handler in before.items():
                signal.signal(number, handler)
            ours.close()
            theirs.close()


def terminal_size() -> tuple[int, int]:
    """Rows and columns of our terminal, 24 by 80 where there is none."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            packed = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, b"\0" * 8)
            rows, columns = struct.unpack("HHHH", packed)[:2]
            if rows and columns:
                return rows, columns
    return 24, 80


@contextlib.contextmanager
def raw_terminal(wanted: bool) -> Iterator[None]:
    """Pass every key through to the machine, Ctrl-C too; put the terminal back afterwards."""
    if not wanted:
        yield
        return
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin, termios.TCSADRAIN)  # keep what has been typed ahead
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
