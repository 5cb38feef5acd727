"""The command line of tests/rdma/run."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import cache, images, initramfs, kernel, packages, qemu
from .failure import EXIT_MACHINE, EXIT_TIME_LIMIT, MachineFailure

ROOT = Path(__file__).resolve().parents[3]
_HOME = "/root"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The host's variables that a command inside sees, by how their names begin.
_PASSED_ON = (
    "RDMAORDER_",
    "PYTEST_",
    "LANG",
    "LC_",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "FORCE_COLOR",
)
# Signs of a bug in the guest's kernel that a test might not notice.
_KERNEL_TROUBLE = ("BUG:", "Oops", "Kernel panic", "WARNING:", "soft lockup", "hung_task")
_TAIL_LINES = 15


def say(text: str) -> None:
    """A line about the machine, not of the command."""
    print(f"tests/rdma/run: {text}", file=sys.stderr, flush=True)


def main(words: list[str]) -> int:
    """Run the words of a command line; the status to exit with."""
    options = _parse(words)
    try:
        return _run(options)
    except MachineFailure as failure:
        say(str(failure))
        return EXIT_MACHINE
    except (OSError, subprocess.CalledProcessError) as failure:  # each names its file or command
        say(f"cannot prepare or start the machine: {failure}")
        return EXIT_MACHINE
    except KeyboardInterrupt:
        return 130


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/rdma/run",
        description="Run a command as root in a machine with two soft-RoCE devices on one wire.",
        epilog="Exit status: the command's (128+n for signal n); 124 after the time limit; "
        "125 when the machine failed; 126 and 127 as from a shell.",
    )
    add = parser.add_argument
    ends = "end the command after so many seconds (default 600)"
    add("--timeout", type=_positive, default=600.0, metavar="S", help=ends)
    ends = "give up when it is not up after so many seconds (default 120)"
    add("--boot-timeout", type=_positive, default=120.0, metavar="S", help=ends)
    add("--cpus", type=int, default=2, metavar="N", help="processors (default 2)")
    add("--memory", type=int, default=2560, metavar="MIB", help="memory in MiB (default 2560)")
    less = "a feature the processor shall not have, by QEMU's name (may be repeated)"
    add("--without", action="append", default=[], metavar="FEATURE", help=less)
    reach = "a folder whose changes reach the host (may be repeated)"
    add("--share", type=Path, action="append", default=[], metavar="DIR", help=reach)
    name = "set a variable inside, or pass the host's on (may be repeated)"
    add("--env", action="append", default=[], metavar="NAME[=VALUE]", help=name)
    add("--log", type=Path, metavar="FILE", help="write the kernel log there and keep it")
    add("--verbose", action="store_true", help="say what happens when")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--shell", action="store_true", help="an interactive shell")
    stop = "install, fetch and build what a run needs, then stop"
    what.add_argument("--prepare", action="store_true", help=stop)
    add("command", nargs="*", metavar="CMD", help="command and arguments, after --")
    options = parser.parse_args(words)
    if bool(options.command) == (options.shell or options.prepare):
        parser.error("give a command after --, or --shell, or --prepare")
    for folder in options.share:
        if not folder.is_dir():
            parser.error(f"--share {folder}: no such folder")
    return options


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _run(options: argparse.Namespace) -> int:
    started = time.monotonic()

    def note(text: str) -> None:
        if options.verbose:
            say(f"{time.monotonic() - started:6.2f} s  {text}")

    packages.provide(say)
    with contextlib.ExitStack() as held:
        where = cache.folder()
        with cache.locked(where):
            core = kernel.provide(where, say)
            shown, python = _images(where)
            for image in shown.values():
                held.callback(os.close, cache.hold(image.file))
            log = (options.log or cache.new_log(where)).resolve()
        note("prepared")
        if options.prepare:
            return 0
        shares = [share.resolve() for share in options.share]
        mounts = initramfs.plan(shown, ROOT, core, shares)
        archive = held.enter_context(os.fdopen(os.memfd_create("initramfs"), "wb"))
        archive.write(initramfs.build(core, mounts, python, _job(options)))
        archive.flush()
        disks = [image.file for image in shown.values()]
        hardware = qemu.Hardware(
            core.image,
            archive.fileno(),
            disks,
            shares,
            log,
            options.cpus,
            options.memory,
            tuple(options.without),
        )
        status = _boot(hardware, options, note)
    note(f"status {status}")
    return status


def _boot(hardware: qemu.Hardware, options: argparse.Namespace, note: Callable[[str], None]) -> int:
    """Run the machine to its end and decide what becomes of the kernel log."""
    try:
        with (
            qemu.raw_terminal(options.shell and sys.stdin.isatty()),
            qemu.Machine(hardware) as machine,
        ):
            limits = qemu.Limits(options.boot_timeout, options.timeout)
            run = qemu.Run(machine, limits, lambda s: note(f"ready, {s:.2f} s after its start"))
            status = run.until_exit()
    except MachineFailure as failure:
        last = "\n  ".join(_last_words(_lines(hardware.log)))
        raise MachineFailure(f"{failure}\n  {last}\n  kernel log: {hardware.log}") from None
    trouble = [line for line in _lines(hardware.log) if any(s in line for s in _KERNEL_TROUBLE)]
    if run.timed_out:
        say(f"ended after the time limit of {options.timeout:g} s; kernel log: {hardware.log}")
        return EXIT_TIME_LIMIT
    if trouble:
        say(f"the kernel reported trouble: {trouble[0]}\n  kernel log: {hardware.log}")
    elif options.log is None:
        hardware.log.unlink(missing_ok=True)
    return status


def _last_words(lines: list[str]) -> list[str]:
    """The end of a kernel log; where it panicked, up to there: its cause, not its call trace."""
    panics = [number for number, line in enumerate(lines) if "Kernel panic" in line]
    end = panics[0] + 1 if panics else len(lines)
    return lines[max(0, end - _TAIL_LINES) : end]


def _lines(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").splitlines()
    return []


def _images(where: Path) -> tuple[dict[str, images.Image], Path]:
    """The images by name, and the interpreter that runs the agent."""
    pythons = [Path(sys.executable)]
    system = Path("/usr/bin/python3")  # Debian's pyverbs is for this one
    venv = ROOT / ".venv"
    for other in (venv / "bin" / "python", system):
        if other.exists() and other not in pythons:
            pythons.append(other)
    shown = {
        "tools": images.tools(where, pythons),
        "python": images.python(where, pythons, venv.resolve() if venv.is_dir() else None),
        "checkout": images.checkout(where, ROOT),
    }
    return shown, pythons[0]


def _job(options: argparse.Namespace) -> initramfs.Job:
    venv = ROOT / ".venv"
    env = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    env.pop("RDMAORDER_RDMA_MACHINE", None)  # the tests of this machine are not for inside
    env |= {"HOME": _HOME, "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash"}
    env |= {"PATH": f"{venv}/bin:{_SYSTEM_PATH}", "VIRTUAL_ENV": str(venv)}
    env["RDMAORDER_RDMA"] = "soft-roce"
    for item in options.env:
        name, given, value = item.partition("=")
        if given or name in os.environ:
            env[name] = value if given else os.environ[name]
    tty = options.shell and sys.stdin.isatty()
    # Without the user's start-up files, which may be slow here or change PATH.
    argv = options.command or ["/bin/bash", "--norc", *(["-i"] if tty else [])]
    env.setdefault("PS1", r"rdma-machine:\w# ")
    return initramfs.Job(argv, env, str(Path.cwd()), _HOME, tty, qemu.terminal_size())
