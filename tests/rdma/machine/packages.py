"""What the host must have, and how it gets it: apt where we may, else a message that names it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from .failure import MachineFailure

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Debian package: the program that shows it is there.
_PROGRAMS: Mapping[str, str] = {
    "qemu-system-x86": "qemu-system-x86_64",
    "busybox-static": "busybox",
    "squashfs-tools": "mksquashfs",
    "kmod": "depmod",
    "iproute2": "ip",
    "rdma-core": "rdma-ndd",
    "ibverbs-utils": "ibv_devinfo",
    "rdmacm-utils": "rping",
    "perftest": "ib_write_lat",
    "tshark": "tshark",
    "tcpdump": "tcpdump",
}
# Debian package: files that show it is there, each a pattern below /usr.
_FILES: Mapping[str, tuple[str, ...]] = {
    "ibverbs-providers": ("lib/*/libibverbs/librxe-rdmav*.so", "lib64/libibverbs/librxe-*.so"),
    "libibverbs-dev": ("include/infiniband/verbs.h",),
    "librdmacm-dev": ("include/rdma/rdma_cma.h",),
}


def program(name: str) -> str | None:
    """The path of a program, also where the user's PATH has no sbin."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SEARCH)


def required_program(name: str) -> str:
    """The path of a program that `provide` has made sure of."""
    path = program(name)
    if path is None:
        raise MachineFailure(f"the program {name} is missing and no package here brought it")
    return path


def _static_busybox() -> bool:
    """Whether busybox runs without libraries, as it must in the initial file system."""
    path = program("busybox")
    if path is None:
        return False
    # A dynamic ELF names its loader near the start of the file.
    return b"ld-linux" not in Path(path).read_bytes()[:4096]


def missing() -> list[str]:
    """The Debian packages that are needed and not there."""
    absent = [package for package, name in _PROGRAMS.items() if program(name) is None]
    if "busybox-static" not in absent and not _static_busybox():
        absent.append("busybox-static")
    for package, patterns in _FILES.items():
        if not any(any(Path("/usr").glob(pattern)) for pattern in patterns):
            absent.append(package)
    if PathFinder.find_spec("pyverbs", ["/usr/lib/python3/dist-packages", *sys.path]) is None:
        absent.append("python3-pyverbs")
    return absent


def as_root() -> list[str] | None:
    """The words before a command that make it run as root; None where that is not allowed."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True).returncode == 0:
        return [sudo, "-n"]
    return None


def apt_get(prefix: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run apt-get without questions, waiting for another one that holds the lock."""
    command = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    command += ["-o", "DPkg::Lock::Timeout=300", *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def provide(say: Callable[[str], None]) -> None:
    """Install what is missing, or raise MachineFailure naming every missing package."""
    absent = missing()
    if not absent:
        return
    remedy = f"On Debian and Ubuntu: sudo apt-get install {' '.join(absent)}"
    prefix = as_root()
    if prefix is None or shutil.which("apt-get") is None:
        raise MachineFailure(f"missing: {', '.join(absent)}. {remedy}")
    say(f"installing {' '.join(absent)}")
    # A third-party source that does not answer must not stop us: the install below tells.
    apt_get(prefix, "update")
    # tshark asks through debconf who may capture; noninteractive answers "root", which is us.
    result = apt_get(prefix, "install", "-y", "--no-install-recommends", *absent)
    still = missing()
    if still:
        reason = result.stderr.strip() or result.stdout.strip()
        raise MachineFailure(f"apt-get could not bring {', '.join(still)}: {reason}\n  {remedy}")
