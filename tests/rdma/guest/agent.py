"""Process 1 of the soft-RoCE machine: runs the command and carries its streams to the host.

Four virtio-serial ports lead to the host: stdin, stdout and stderr bear bytes as they are, control
bears lines of words:

    guest to host   ready SECONDS-SINCE-BOOT
                    failed TEXT
                    exit STATUS STDOUT-BYTES STDERR-BYTES
    host to guest   signal NUMBER
                    size ROWS COLUMNS

The host ends the machine when it has as many bytes as the exit line says. Imports are few because
each costs tenths of a second under emulation: no json, and `_signal` is `signal` without its enums.
"""

# ruff: noqa: SIM105 - contextlib is one of the slow imports
from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import os
import select
import time

_CHUNK = 65536
_PORTS = "/sys/class/virtio-ports"
_DEVICES = (("rxe0", "0a01:0001"), ("rxe1", "0a01:0002"))
_DEVICES_DEADLINE_S = 30.0
_REAP_EVERY_MS = 2000
_SOURCES = select.POLLIN | select.POLLHUP | select.POLLERR


def read(path: str) -> str:
    """A small file's text, empty where it cannot be read."""
    try:
        with open(path) as file:  # noqa: PTH123 - pathlib is slow to import
            return file.read().strip()
    except OSError:
        return ""


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; waits while the host takes none."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def open_ports() -> dict[str, int]:
    """Descriptors of the host's ports by name; a port can be open once only."""
    ports: dict[str, int] = {}
    while len(ports) < 4:
        for entry in os.listdir(_PORTS) if os.path.isdir(_PORTS) else []:  # noqa: PTH208, PTH112
            name = read(f"{_PORTS}/{entry}/name")
            if name and name not in ports:
                ports[name] = os.open(f"/dev/{entry}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.01)
    return ports


def wait_for_devices() -> str:
    """Empty once both devices are active and have their address; else what is missing."""
    deadline = time.monotonic() + _DEVICES_DEADLINE_S
    while True:
        lacking = [text for device, gid in _DEVICES if (text := lack(device, gid))]
        if not lacking or time.monotonic() > deadline:
            return "; ".join(lacking)
        time.sleep(0.05)


def lack(device: str, gid: str) -> str:
    """What a device lacks to be used, empty for nothing."""
    port = f"/sys/class/infiniband/{device}/ports/1"
    if read(f"{port}/state") != "4: ACTIVE":
        return f"{device} is not active: state {read(f'{port}/state') or 'unknown'}"
    if not any(read(f"{port}/gids/{index}").endswith(gid) for index in range(4)):
        return f"{device} has no GID for its IPv4 address"
    return ""


class Job:
    """What machine/initramfs.py wrote: fields with a NUL after each."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:  # noqa: PTH123
            fields = [os.fsdecode(field) for field in file.read().split(b"\0")]
        self.cwd, self.home, self.tty = fields[0], fields[1], fields[2] == "tty"
        self.size = (int(fields[3]), int(fields[4]))
        words_end = 6 + int(fields[5])
        self.argv = fields[6:words_end]
        self.env = dict(field.split("=", 1) for field in fields[words_end:-1])


class Command:
    """The command's process and the ends of its streams that are ours."""

    def __init__(self, job: Job) -> None:
        self.tty = -1
        if job.tty:
            self._start_on_terminal(job)
        else:
            self._start_on_pipes(job)
        self.pidfd = os.pidfd_open(self.pid)

    def _start_on_pipes(self, job: Job) -> None:
        pipes = [os.pipe() for _ in range(3)]
        self.pid = os.fork()
        if self.pid == 0:
            ends = (pipes[0][0], pipes[1][1], pipes[2][1])
            run(job, ends)
        for ours in (pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(ours)
        self.stdin, self.outputs = pipes[0][1], {"stdout": pipes[1][0], "stderr": pipes[2][0]}
        for descriptor in (self.stdin, *self.outputs.values()):
            os.set_blocking(descriptor, False)

    def _start_on_terminal(self, job: Job) -> None:
        self.tty, inner = os.openpty()
        self.resize(*job.size)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            import fcntl
            import termios

            fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
            run(job, (inner, inner, inner))
        os.close(inner)
        os.set_blocking(self.tty, False)
        self.stdin, self.outputs = os.dup(self.tty), {"stdout": self.tty}

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size."""
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.tty, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def run(job: Job, ends: tuple[int, ...]) -> None:
    """Become the command; in the child. Never returns."""
    status = 126
    try:
        if not job.tty:
            os.setsid()
        for target, end in enumerate(ends):
            os.dup2(end, target)
        # Python ignores these; a command expects them as a shell leaves them.
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
            _signal.signal(number, _signal.SIG_DFL)
        try:
            os.chdir(job.cwd)
        except OSError:
            os.chdir(job.home)
        os.execvpe(job.argv[0], job.argv, job.env)
    except OSError as error:
        status = 127 if error.errno == errno.ENOENT else 126
        text = f"tests/rdma/run: {job.argv[0]}: {error.strerror}\n"
        os.write(2, text.encode())
    finally:
        os._exit(status)


class Relay:
    """Carries bytes between the ports and a command until it has ended."""

    def __init__(self, ports: dict[str, int], command: Command) -> None:
        self.ports = ports
        self.command = command
        self.sent = {"stdout": 0, "stderr": 0}
        self.pending = b""  # input that the command has not taken yet
        self.orders = b""
        self.poll = select.poll()
        for descriptor in (command.pidfd, ports["control"], ports["stdin"]):
            self.poll.register(descriptor, select.POLLIN)
        for descriptor in command.outputs.values():
            self.poll.register(descriptor, _SOURCES)

    def until_exit(self) -> int:
        """The command's status, as a shell tells it, once its output has been passed on."""
        handlers = {
            self.ports["stdin"]: self._take_input,
            self.command.stdin: self._give_input,
            self.ports["control"]: self._obey,
        }
        names = {descriptor: name for name, descriptor in self.command.outputs.items()}
        while True:
            ready = {descriptor for descriptor, _ in self.poll.poll(_REAP_EVERY_MS)}
            for descriptor in ready:
                if descriptor in names:
                    self._pass_on(names[descriptor])
                elif descriptor in handlers:
                    handlers[descriptor]()
            status = self._reap()
            if status is not None:
                for name in names.values():
                    while self._pass_on(name):
                        pass
                return status

    def _reap(self) -> int | None:
        """Collect ended processes, orphans too; the command's status when it is one of them."""
        while True:
            try:
                pid, state = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == 0:
                return None
            if pid == self.command.pid:
                code = os.waitstatus_to_exitcode(state)
                return code if code >= 0 else 128 - code

    def _pass_on(self, name: str) -> bool:
        """Output to the host; False when there is none at the moment."""
        source = self.command.outputs[name]
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose last user has left
            data = b""
        if not data:
            self._forget(source)
            return False
        write_all(self.ports[name], data)
        self.sent[name] += len(data)
        return True

    def _take_input(self) -> None:
        data = os.read(self.ports["stdin"], _CHUNK)
        self._forget(self.ports["stdin"])
        if data:
            self.pending = data
            self._give_input()
        else:
            self._close_input()

    def _give_input(self) -> None:
        """Input to the command; the port is read again when all of it has been taken."""
        try:
            self.pending = self.pending[os.write(self.command.stdin, self.pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self._close_input()
            return
        if self.pending:
            self.poll.register(self.command.stdin, select.POLLOUT)
        else:
            self._forget(self.command.stdin)
            self.poll.register(self.ports["stdin"], select.POLLIN)

    def _close_input(self) -> None:
        self._forget(self.command.stdin)
        os.close(self.command.stdin)

    def _obey(self) -> None:
        data = os.read(self.ports["control"], _CHUNK)
        if not data:
            self._forget(self.ports["control"])
        *lines, self.orders = (self.orders + data).split(b"\n")
        for line in lines:
            order, *numbers = line.decode().split()
            if order == "signal":
                self._signal(int(numbers[0]))
            elif order == "size" and self.command.tty >= 0:
                self.command.resize(int(numbers[0]), int(numbers[1]))

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.command.pid, number)
        except ProcessLookupError:
            pass  # it has just ended

    def _forget(self, descriptor: int) -> None:
        try:
            self.poll.unregister(descriptor)
        except KeyError:
            pass


def main() -> None:
    """Run the job and report; the host ends the machine."""
    ports = open_ports()

    def tell(message: str) -> None:
        write_all(ports["control"], message.encode() + b"\n")

    failed = wait_for_devices()
    if failed:
        tell(f"failed {failed}")
    else:
        tell(f"ready {read('/proc/uptime').split()[0]}")
        relay = Relay(ports, Command(Job("/run/machine/job")))
        status = relay.until_exit()
        os.sync()  # what was written to shared folders
        tell(f"exit {status} {relay.sent['stdout']} {relay.sent['stderr']}")
    while True:
        time.sleep(60)


main()
